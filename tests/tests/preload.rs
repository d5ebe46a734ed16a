//! libbookend.so under programs of C and C++, and under some that everybody has.
//!
//! Each program runs once without the library where the contract is everybody's: a test that
//! glibc fails is wrong itself.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{Skip, or_say};
use bookend_tests::tools;

/// Compiles a program from the sources beside this file.
fn compile(source: &str) -> PathBuf {
    compile_as(source, &source.replace('.', "_"), &[])
}

/// The same, under a name, with more options for the compiler.
fn compile_as(source: &str, name: &str, options: &[&str]) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/preload");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let compiler = if source.ends_with(".cc") { "c++" } else { "cc" };
    // To a name of its own and then renamed: several tests may compile the same one at a time.
    let new = target.with_extension(format!("{:?}", std::thread::current().id()));
    let compiled = Command::new(compiler)
        .args(["-O1", "-g", "-w", "-fno-builtin", "-pthread"])
        .args(options)
        .arg("-o")
        .arg(&new)
        .arg(sources.join(source))
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    std::fs::rename(&new, &target).unwrap();
    target
}

fn run(program: &mut Command, preload: bool) -> Output {
    if preload {
        program.env("LD_PRELOAD", tools::library());
    }
    program.output().unwrap_or_else(|error| panic!("{program:?}: {error}"))
}

fn assert_success(program: &mut Command, preload: bool) -> Output {
    let output = run(program, preload);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program:?}: {}: {error}", output.status);
    output
}

/// Runs a program plain, then preloaded, then preloaded with every check on.
fn holds(source: &str, arguments: &[&str]) {
    let program = compile(source);
    assert_success(Command::new(&program).args(arguments), false);
    assert_success(Command::new(&program).args(arguments), true);
    assert_success(Command::new(&program).args(arguments).env("BOOKEND_SECURE", "1"), true);
}

#[test]
fn the_family_does_what_c_and_posix_say() {
    holds("contract.c", &[]);
}

#[test]
fn new_and_delete_do_what_cpp_says() {
    holds("operators.cc", &[]);
}

#[test]
fn threads_come_and_go() {
    holds("threads.c", &["come-and-go"]);
}

#[test]
fn a_program_of_many_threads_forks() {
    holds("threads.c", &["forks"]);
}

#[test]
fn destructors_of_thread_locals_may_allocate() {
    holds("threads.c", &["destructors"]);
}

#[test]
fn constructors_libraries_and_exits_may_allocate() {
    let library = compile_as("lifetimes.c", "lifetimes_so", &["-DLIBRARY", "-shared", "-fPIC"]);
    let program = compile("lifetimes.c");
    let run = |preload, secure| {
        let mut command = Command::new(&program);
        command.arg(&library).env("BOOKEND_SECURE", secure);
        // The program says that it got to its last destructor.
        assert_eq!(assert_success(&mut command, preload).stdout, b"ended\n");
    };
    run(false, "0");
    run(true, "0");
    run(true, "1");
}

#[test]
fn signals_do_no_harm() {
    holds("threads.c", &["signals"]);
}

#[test]
fn what_one_thread_allocates_another_frees() {
    holds("threads.c", &["hand-over"]);
}

#[test]
fn an_aged_heap_gives_back_what_is_free_and_nothing_else() {
    holds("ageing.c", &[]);
    let program = compile("ageing.c");
    // Blocks that are huge pages, base pages, and both; and frees that are looked at.
    for (variable, value) in [
        ("BOOKEND_SMALL", "0"),
        ("BOOKEND_SMALL", "1G"),
        ("BOOKEND_RETURN_DELAY", "500"),
        ("BOOKEND_SECURE", "1"),
    ] {
        assert_success(Command::new(&program).arg("memory").env(variable, value), true);
    }
}

#[test]
fn a_limited_address_space_is_an_ordinary_failure() {
    let program = compile("scarce.c");
    for kib in [400_000, 2_000_000] {
        let script = format!("ulimit -v {kib} && exec {} limit", program.display());
        for preload in [false, true] {
            assert_success(Command::new("sh").args(["-c", &script]), preload);
        }
    }
}

#[test]
fn a_filter_that_refuses_madvise_does_no_harm() {
    let program = compile("scarce.c");
    for preload in [false, true] {
        let mut program = Command::new(&program);
        // So that blocks are given back, or refused, while the program runs.
        assert_success(program.arg("filter").env("BOOKEND_RETURN_DELAY", "10"), preload);
    }
}

#[test]
fn misuse_ends_the_program_with_the_address() {
    let program = compile("misuse.c");
    let kinds = ["foreign", "twice-run", "twice-huge", "interior-run", "interior-huge", "interior"];
    for kind in kinds {
        assert_aborts(Command::new(&program).arg(kind), kind);
    }
    for kind in ["twice", "interior", "foreign"] {
        assert_aborts(Command::new(&program).arg(kind).env("BOOKEND_SECURE", "1"), kind);
    }
}

fn assert_aborts(program: &mut Command, kind: &str) {
    let output = run(program, true);
    let (said, address) = (
        String::from_utf8_lossy(&output.stderr).into_owned(),
        String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{kind}: {}: {said}", output.status);
    assert!(said.starts_with("bookend: ") && said.contains(&address), "{kind} {address}: {said}");
}

#[test]
fn only_the_allocators_symbols_are_exported_and_thread_locals_are_static() {
    let nm = Command::new("nm").args(["-D", "--defined-only"]).arg(tools::library()).output();
    let Some(nm) = or_say(nm.map_err(|error| Skip(format!("nm: {error}")))) else { return };
    let symbols = String::from_utf8(nm.stdout).unwrap();
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    for name in ["malloc", "free", "posix_memalign", "_Znwm", "_ZdlPvm", "bookend_stats"] {
        assert!(names.contains(&name), "{name} is missing");
    }
    let ours = |name: &&str| name.starts_with("_Z") || name.starts_with("bookend_");
    let rust =
        names.iter().find(|name| name.contains("rust") || (ours(name) && name.contains("17h")));
    assert_eq!(rust, None, "Rust's own symbols stay inside");
    let readelf = Command::new("readelf").arg("-d").arg(tools::library()).output().unwrap();
    let dynamic = String::from_utf8(readelf.stdout).unwrap();
    assert!(dynamic.contains("libbookend.so.0") && dynamic.contains("STATIC_TLS"), "{dynamic}");
}

#[test]
fn statistics_are_printed_at_the_end() {
    let script = "x = [bytes(100) for _ in range(100000)]";
    let mut python = Command::new("python3");
    python.args(["-c", script]).env("BOOKEND_STATS", "json").env("PYTHONMALLOC", "malloc");
    let output = assert_success(&mut python, true);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let stats: serde_json::Value =
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(stats["committed"].as_u64().unwrap() > 10 << 20, "{stats}");
    assert!(stats["slabs"].as_u64() <= stats["committed"].as_u64(), "{stats}");
}

/// What `bookend.h` declares is in the library: a cache in C, whose owner is called back.
#[test]
fn objects_of_c_programs_move() {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../allocator/preload/include");
    let include = include.to_str().expect("a path in UTF-8");
    let library = tools::library();
    let options = ["-I", include, "-Wl,--no-as-needed", library.to_str().expect("UTF-8")];
    let program = compile_as("movable.c", "movable_c", &options);
    // By the name that it is linked to.
    let links = Path::new(env!("CARGO_TARGET_TMPDIR")).join("movable_c_lib");
    std::fs::create_dir_all(&links).unwrap();
    let _ = std::fs::remove_file(links.join("libbookend.so.0"));
    std::os::unix::fs::symlink(library, links.join("libbookend.so.0")).unwrap();
    let output = assert_success(Command::new(program).env("LD_LIBRARY_PATH", &links), false);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("migrated"));
}

/// Programs that everybody has give the same answer with another allocator under them.
#[test]
fn real_programs_answer_the_same() {
    let repository: OsString = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").into();
    let python = "import json,threading,subprocess,re,hashlib\n\
        def work(n, out): out[n] = hashlib.sha256(json.dumps([{'k': i * n} for i in range(20000)])\
        .encode()).hexdigest()\n\
        out = {}\n\
        threads = [threading.Thread(target=work, args=(n, out)) for n in range(4)]\n\
        [t.start() for t in threads]; [t.join() for t in threads]\n\
        print(sorted(out.items()), subprocess.run(['echo', 'child'], capture_output=True).stdout)";
    let programs: [&[&str]; 6] = [
        &["ls", "-R", "/usr/include"],
        &["python3", "-c", python],
        &["bash", "-c", "for i in $(seq 2000); do a[i]=$i$i; done; echo ${#a[@]} ${a[@]:5:3}"],
        &["perl", "-e", "%h = map { $_ => $_ x 50 } 1..200000; print scalar(keys %h), $h{777}"],
        &["sh", "-c", "seq 1000000 | sort -R --random-source=/dev/zero | sort -n | tail -3"],
        &["git", "log", "--stat", "-n", "20"],
    ];
    for program in programs {
        let command = || {
            let mut command = Command::new(program[0]);
            command.args(&program[1..]).current_dir(&repository);
            command
        };
        let found = command().output().map_err(|error| Skip(format!("{}: {error}", program[0])));
        if or_say(found).is_none() {
            continue;
        }
        let plain = assert_success(&mut command(), false);
        let preloaded = assert_success(&mut command(), true);
        assert!(plain.stdout == preloaded.stdout, "{program:?} answers otherwise");
    }
}

/// Runs a program under a pool of so many free pages; its report.
fn with_hugetlb(pages: u64, variables: &[(&str, &str)], fails: bool) -> Option<serde_json::Value> {
    let lock = MachineLock::take();
    let _pool = or_say(HugePages::reserve(&lock, 2 << 20, None, pages))?;
    let mut command = Command::new(compile("scarce.c"));
    command.arg("hold").env("BOOKEND_STATS", "json").envs(variables.iter().copied());
    let output = run(&mut command, true);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), !fails, "{}: {error}", output.status);
    Some(serde_json::from_str(&error).unwrap_or_else(|why| panic!("{why}: {error}")))
}

#[test]
fn reserved_pages_are_taken_as_far_as_allowed_and_ordinary_ones_after_that() {
    const ALLOW: (&str, &str) = ("BOOKEND_HUGETLB", "allow");
    let hugetlb = |report: &serde_json::Value| report["hugetlb"].as_u64().unwrap() >> 20;
    // The program holds 48 MiB.
    let Some(report) = with_hugetlb(64, &[], false) else { return };
    assert_eq!(hugetlb(&report), 0, "not unless told to");
    let report = with_hugetlb(64, &[ALLOW], false).expect("it could before");
    assert!(hugetlb(&report) >= 48, "{report}");
    let report = with_hugetlb(64, &[ALLOW, ("BOOKEND_HUGETLB_LIMIT", "10M")], false).unwrap();
    assert!((1..=10).contains(&hugetlb(&report)), "{report}");
    let report = with_hugetlb(64, &[ALLOW, ("BOOKEND_HUGETLB_PROGRAMS", "sort")], false).unwrap();
    assert_eq!(hugetlb(&report), 0);
    let report = with_hugetlb(8, &[ALLOW], false).unwrap();
    assert!((1..=16).contains(&hugetlb(&report)), "{report}");
    assert!(report["hugetlb_refused_blocks"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn where_reserved_pages_are_required_their_end_is_an_ordinary_failure() {
    const REQUIRE: (&str, &str) = ("BOOKEND_HUGETLB", "require");
    let Some(report) = with_hugetlb(64, &[REQUIRE], false) else { return };
    assert_eq!(report["hugetlb"], report["committed"]);
    let report = with_hugetlb(8, &[REQUIRE], true).expect("it could before");
    assert!(report["failures"].as_u64().unwrap() > 0, "{report}");
}
