//! fragbench as its users meet it: what it prints, and what it leaves behind.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

const PAGES: [&str; 6] = ["4K", "THP", "2M", "2M-ordered", "2M-split", "1G"];

fn fragbench(arguments: &[&str]) -> Output {
    command(arguments).output().expect("fragbench runs")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fragbench"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("standard output is JSON")
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Every row is measured or says why not; what was measured adds up.
fn check(report: &Value, size: u64) {
    assert_eq!(keys(report), ["rows", "size"]);
    assert_eq!(report["size"], size);
    let rows = report["rows"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| row["pages"].as_str().unwrap()).collect();
    assert_eq!(names, PAGES);
    for row in rows {
        if let Some(why) = row.get("unavailable") {
            assert_eq!(keys(row), ["pages", "unavailable"]);
            assert!(!why.as_str().unwrap().is_empty());
            continue;
        }
        let expected = ["build_us", "descriptor_bytes", "entries", "longest", "pages", "physical"];
        assert_eq!(keys(row), expected);
        let (entries, longest) =
            (row["entries"].as_u64().unwrap(), row["longest"].as_u64().unwrap());
        assert!(entries >= 1 && longest <= size && entries * longest >= size, "{row}");
        assert_eq!(row["descriptor_bytes"], entries * 32);
        assert!(row["physical"].is_boolean() && row["build_us"].is_u64());
    }
}

fn row<'a>(report: &'a Value, pages: &str) -> &'a Value {
    report["rows"].as_array().unwrap().iter().find(|row| row["pages"] == pages).unwrap()
}

#[test]
fn json_has_a_row_for_every_kind_of_pages() {
    let _lock = alone();
    let report = json(&fragbench(&["scatter", "--size", "8M", "--json"]));
    check(&report, 8 << 20);
    assert!(row(&report, "4K").get("entries").is_some(), "base pages are always there: {report}");
    let split = row(&report, "2M-split")["unavailable"].as_str().expect("needs --reserve");
    assert!(split.contains("--reserve"), "{split}");
}

#[test]
fn registering_has_a_row_for_every_kind_of_pages() {
    let _lock = alone();
    let report = json(&fragbench(&["register", "--size", "8M", "--json"]));
    assert_eq!(report["size"], 8 << 20);
    let rows = report["rows"].as_array().unwrap();
    let ring: Vec<_> = rows.iter().filter(|row| row["registrar"] == "io_uring").collect();
    let pages: Vec<_> = ring.iter().map(|row| row["pages"].as_str().unwrap()).collect();
    assert_eq!(pages, ["4K", "THP", "2M", "2M-ordered", "1G"]);
    for row in rows {
        let keys: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let is_measured = row.get("unavailable").is_none();
        for key in
            ["touch_us", "register_us", "release_us", "entries", "descriptor_bytes", "cached_ns"]
        {
            assert_eq!(keys.contains(&key), is_measured, "{row}");
        }
    }
    let base = ring[0];
    if base.get("unavailable").is_some() {
        return say(&format!("skipped: registering base pages: {base}"));
    }
    assert!(
        base["register_us"].as_f64().unwrap() > 0.0 && base["cached_ns"].as_f64().unwrap() > 0.0
    );
    assert!((4..=2048).contains(&base["entries"].as_u64().unwrap()), "{base}");
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("register.svg");
    let csv = ["register", "--size", "2M", "--csv", "--plot", plot.to_str().unwrap()];
    let csv = fragbench(&csv);
    assert_eq!(String::from_utf8_lossy(&csv.stdout).lines().count(), 1 + rows.len(), "{csv:?}");
    let plot = fs::read_to_string(plot).unwrap();
    for text in ["Time to register", "io_uring", "2M-ordered"] {
        assert!(plot.contains(text), "{text} is not in the plot");
    }
    let unknown = fragbench(&["register", "--size", "2M", "--device", "no_such_device"]);
    let text = String::from_utf8(unknown.stdout).unwrap();
    assert!(text.contains("verbs") && text.contains("unavailable"), "{text}");
}

#[test]
fn a_size_need_not_be_whole_pages() {
    let _lock = alone();
    check(&json(&fragbench(&["scatter", "--size", "5000001", "--json"])), 5_000_001);
}

#[test]
fn the_table_and_csv_have_the_same_rows() {
    let _lock = alone();
    let table = fragbench(&["scatter", "--size", "4M"]);
    let csv = fragbench(&["scatter", "--size", "4M", "--csv"]);
    assert!(table.status.success() && csv.status.success());
    assert!(table.stderr.is_empty(), "no progress where there is no terminal: {table:?}");
    let first_words = |output: &Output, separator: &[char]| -> Vec<String> {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        text.lines().map(|line| line.split(separator).next().unwrap().to_owned()).collect()
    };
    let mut words = first_words(&table, &[' ']);
    words.retain(|word| PAGES.contains(&word.as_str()));
    assert_eq!(words, PAGES);
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(text.contains("Machine: ") && text.contains("Took "), "{text}");
    assert_eq!(first_words(&csv, &[','])[1..], PAGES);
}

#[test]
fn bad_input_is_told_and_tried_by_nobody() {
    for (arguments, status, told) in [
        (&["scatter", "--size", "many"] as &[_], 2, "\"many\" is not a size"),
        (&["scatter", "--size", "4Q"], 2, "not a unit"),
        (&["scatter", "--size", "0"], 2, "no bytes"),
        (&["scatter", "--size", "1024T"], 1, "more than this machine's memory"),
        (&["scatter", "--json", "--csv"], 2, "cannot be used with"),
        (&["scatter", "extra"], 2, "unexpected argument"),
        (&["scatter", "--plot", "/nowhere/x.svg", "--size", "2M"], 1, "/nowhere/x.svg"),
        (&["register", "--plot", "x.pdf"], 2, ".svg or .png"),
        (&["scatter", "--seed", "2"], 2, "--aged"),
        (&["heap", "--allocators", "tmalloc"], 2, "tmalloc"),
        (&["heap", "--allocators", "/nowhere/libx.so"], 2, "/nowhere/libx.so"),
        (&["heap", "--scale", "0"], 2, "0.001 to 1000"),
        (&["heap", "--scale", "1000"], 1, "give a smaller scale"),
        (&["heap", "--workloads", "fifo"], 2, "invalid value"),
        (&["record"], 2, "<COMMAND>"),
        (&["record", "--library", "/nowhere/lib.so", "--", "true"], 2, "/nowhere/lib.so"),
        (&["record", "--output", "/dev/null", "--", "true"], 2, "is there already"),
        (&["replay", "/nowhere/file"], 1, "/nowhere/file"),
        (&["replay", "/proc/self/exe"], 1, "no recording"),
        (&["replay", "/dev/null"], 1, "no events"),
        (&["replay", "x", "--copies", "0"], 2, "--copies"),
        (&["system"], 2, "--ager"),
        (&["system", "--ager", "rust"], 2, "invalid value"),
        (&["system", "--ager", "slab", "--ways", "twice"], 2, "invalid value"),
        (&["week", "--simulate", "1M"], 2, "give at least 256 MiB"),
        (&["week", "--simulate", "9000T"], 2, "more than 1024 TiB"),
        (&["week", "--size", "1000T"], 1, "does not fit"),
        (&["week", "--size", "1G", "--simulate", "1G"], 2, "cannot be used with"),
        (&["week", "--plot", "week.pdf"], 2, ".svg or .png"),
        (&["age"], 2, "unrecognized subcommand"),
        (&[], 2, "Usage"),
    ] {
        let output = fragbench(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let _lock = alone();
    let mut child = command(&["scatter", "--size", "4M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn only_root_may_reserve() {
    let _lock = alone();
    if !geteuid().is_root() {
        let output = fragbench(&["scatter", "--size", "4M", "--reserve"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("only root"));
        return;
    }
    use std::os::unix::process::CommandExt;
    // The binary may lie where nobody else can reach it.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("fragbench");
    fs::copy(env!("CARGO_BIN_EXE_fragbench"), &copy).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |arguments: &[&str]| {
        Command::new(&copy).args(arguments).uid(65534).gid(65534).output().unwrap()
    };
    let output = run(&["scatter", "--size", "4M", "--reserve"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("only root"), "{output:?}");

    let output = run(&["system", "--ager", "movable"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("only root"), "{output:?}");

    // The same user is shown no frames, and is told so.
    let report = json(&run(&["scatter", "--size", "4M", "--json"]));
    check(&report, 4 << 20);
    assert_eq!(row(&report, "4K")["physical"], false);
    assert_eq!(row(&report, "4K")["entries"], 1024, "an entry a page: {report}");
    assert!(row(&report, "2M-ordered").get("unavailable").is_some());
}

/// Writes past the harness's capture, which hides what a passing test prints.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What the machine's pools hold, as it should be again afterwards.
fn pools() -> Vec<(String, String)> {
    let mut pools = Vec::new();
    for pool in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        for name in ["nr_hugepages", "surplus_hugepages", "demote_size"] {
            let path = pool.path().join(name);
            if let Ok(text) = fs::read_to_string(&path) {
                pools.push((path.display().to_string(), text));
            }
        }
    }
    pools.sort();
    pools
}

/// [`alone`], where pools can be changed; else says why the test cannot run.
fn machine(test: &str) -> Option<Flock<File>> {
    let skip = |why: &str| {
        say(&format!("skipped: {test}: {why}"));
        None
    };
    if !geteuid().is_root() {
        return skip("not root");
    }
    if pools().is_empty() {
        return skip("this kernel has no huge page pools");
    }
    if fs::OpenOptions::new().write(true).open("/proc/sys/vm/nr_hugepages").is_err() {
        return skip("the huge page pools cannot be written here");
    }
    Some(alone())
}

/// The lock that whoever changes the machine holds, in all of Bookend's tests. Those that only
/// measure hold it as well: they would take the pages that another test has reserved.
fn alone() -> Flock<File> {
    let path = std::env::temp_dir().join("bookend-machine.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.or_else(|_| File::open(&path)).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap()
}

#[test]
fn what_is_reserved_is_given_back() {
    let Some(_lock) = machine("what_is_reserved_is_given_back") else { return };
    let before = pools();
    let report = json(&fragbench(&["scatter", "--size", "64M", "--reserve", "--json"]));
    assert_eq!(pools(), before);
    check(&report, 64 << 20);
    let entries = |pages| row(&report, pages)["entries"].as_u64();
    let (Some(ordered), Some(huge)) = (entries("2M-ordered"), entries("2M")) else {
        return say(&format!("skipped: entries in huge pages: too few to be had: {report}"));
    };
    assert!(ordered <= 32 && huge <= 32, "an entry a page at most: {report}");
    if let Some(gigantic) = entries("1G") {
        assert_eq!(gigantic, 1);
    }
}

#[test]
fn a_signal_gives_back_what_is_reserved() {
    let Some(_lock) = machine("a_signal_gives_back_what_is_reserved") else { return };
    for (signal, status) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let before = pools();
        let mut child = command(&["scatter", "--size", "1G", "--reserve"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Once something is reserved, or the machine turns out to have nothing to reserve.
        let started = Instant::now();
        while pools() == before && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(120), "nothing was ever reserved");
            sleep(Duration::from_micros(200));
        }
        if child.try_wait().unwrap().is_none() {
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        assert_eq!(pools(), before, "{output:?}");
        if output.status.success() {
            say(&format!("skipped: {signal}: nothing to reserve, or all done before it came"));
            continue;
        }
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(output.stdout.is_empty(), "no half report: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
    }
}

const POLICIES: [&str; 4] = ["first-fit", "two-ended", "two-ended+movable", "defrag"];

/// Every policy has five days with the documented figures, and only `defrag` moves anything.
fn check_week(report: &Value) {
    assert_eq!(keys(report), ["friday_over_monday", "policies"]);
    let policies = report["policies"].as_array().unwrap();
    let names: Vec<_> = policies.iter().map(|policy| policy["name"].as_str().unwrap()).collect();
    assert_eq!(names, POLICIES);
    for policy in policies {
        let days = policy["days"].as_array().unwrap();
        let names: Vec<_> = days.iter().map(|day| day["day"].as_str().unwrap()).collect();
        assert_eq!(names, ["Mon", "Tue", "Wed", "Thu", "Fri"]);
        for day in days {
            let expected = [
                "day",
                "free",
                "largest_free_run",
                "moved_bytes",
                "p99_us",
                "sg_entries_1g",
                "success_1g",
                "success_64m",
            ];
            assert_eq!(keys(day), expected);
            assert!(day["largest_free_run"].as_u64() <= day["free"].as_u64(), "{day}");
            let moved = day["moved_bytes"].as_u64().unwrap();
            assert_eq!(moved > 0, policy["name"] == "defrag", "{day}");
        }
    }
    assert_eq!(keys(&report["friday_over_monday"]).len(), 4);
}

#[test]
fn a_week_on_a_table_is_the_same_each_time_and_defrag_keeps_every_promise() {
    let week = || json(&fragbench(&["week", "--simulate", "4G", "--seed", "2", "--json"]));
    let report = week();
    check_week(&report);
    let rates = |report: &Value| -> Vec<Value> {
        let policies = report["policies"].as_array().unwrap();
        let days = policies.iter().flat_map(|policy| policy["days"].as_array().unwrap());
        days.map(|day| day["success_64m"].clone()).collect()
    };
    assert_eq!(rates(&report), rates(&week()));
    let rates = rates(&report);
    assert!(rates[15..].iter().all(|rate| rate == 1.0), "{report}");
    assert!(rates[4].as_f64().unwrap() < 0.5, "first-fit on Friday: {report}");
    assert_eq!(report["friday_over_monday"]["defrag"], 1.0);
}

#[test]
fn a_week_in_a_pool_checks_its_bytes_and_draws_a_plot() {
    let _lock = alone();
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("week.svg");
    let arguments = ["week", "--size", "256M", "--json", "--plot", plot.to_str().unwrap()];
    let output = fragbench(&arguments);
    check_week(&json(&output));
    let about = String::from_utf8(output.stderr).unwrap();
    for told in ["Machine: ", "Linux ", "seed 1", "a pool of ", "Took "] {
        assert!(about.contains(told), "{told} is not in {about}");
    }
    let svg = fs::read_to_string(plot).unwrap();
    assert!(POLICIES.iter().all(|policy| svg.contains(policy)), "a policy is not in the plot");
}

#[test]
fn a_week_as_csv_has_a_line_an_hour_and_policy() {
    let output = fragbench(&["week", "--simulate", "256M", "--csv"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1 + 4 * 120);
}

#[test]
fn a_signal_ends_a_week() {
    let mut child = command(&["week", "--simulate", "1T"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(300)); // a week in 1 TiB takes minutes
    assert!(child.try_wait().unwrap().is_none());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(output.stdout.is_empty(), "no half report: {output:?}");
}
