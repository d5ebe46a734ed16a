//! The programs, each a real one on real data.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::data;
use super::run::{Context, Sample, command, measure};

/// How a run went.
#[derive(Debug)]
pub enum Outcome {
    /// To its end.
    Ran(Sample),
    /// It is not here; what to do about it.
    Missing(String),
    /// It failed.
    Failed(String),
}

/// Runs a program with an allocator.
pub type Program = fn(&Context<'_>, Option<&Path>) -> Outcome;

/// All of them.
pub const ALL: &[(&str, Program)] = &[
    ("sort", sort),
    ("sqlite3", sqlite),
    ("gcc", gcc),
    ("git", git),
    ("cargo", cargo),
    ("python", python),
    ("cpython-tests", cpython_tests),
    ("redis", redis),
    ("duckdb", duckdb),
    ("polars", polars),
    ("stress-ng", stress),
];

/// Turns a failure to prepare into an outcome.
macro_rules! prepared {
    ($value:expr) => {
        match $value {
            Ok(value) => value,
            Err(error) => return Outcome::Failed(error.to_string()),
        }
    };
}

fn sort(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let bytes = if context.quick { 40 << 20 } else { 2 << 30 };
    let lines = prepared!(data::lines(context.scratch, bytes));
    let mut sort = command("sort", allocator);
    sort.args(["--parallel=2", "-S", "60%", "-k", "2n"]).arg(lines);
    sort.env("LC_ALL", "C").current_dir(context.scratch);
    measure(sort)
}

fn sqlite(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let rows = if context.quick { 100_000 } else { 3_000_000 };
    let statements = prepared!(data::statements(context.scratch, rows));
    let mut sqlite = command("sqlite3", allocator);
    sqlite.arg(":memory:").stdin(prepared!(std::fs::File::open(statements)));
    measure(sqlite)
}

fn gcc(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let source = prepared!(data::source(context.scratch, if context.quick { 200 } else { 5_000 }));
    let mut gcc = command("gcc", allocator);
    gcc.args(["-O2", "-w", "-S", "-o", "-"]).arg(source);
    measure(gcc)
}

/// Clones this repository, packs it anew, and reads all its history.
fn git(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let repository = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let clone = context.scratch.join("clone");
    let script = "set -e; rm -rf \"$1\"; git clone -q --bare --no-local \"$0\" \"$1\"; cd \"$1\"; \
                  git -c gc.auto=0 repack -adfq --depth=50 --window=100; git fsck --no-progress; \
                  git log -p --stat; git grep -c fn HEAD";
    let mut git = command("sh", allocator);
    git.args(["-c", script, repository]).arg(clone);
    measure(git)
}

/// Builds the library of this workspace from nothing; what cargo says differs, so success counts.
fn cargo(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let mut cargo = command("cargo", allocator);
    cargo
        .args(["build", "-q", "--release", "--locked", "-p"])
        .arg(if context.quick { "bookend" } else { "bookend-tools" })
        .arg("--target-dir")
        .arg(context.scratch.join("target"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let _ = std::fs::remove_dir_all(context.scratch.join("target"));
    measure(cargo)
}

fn python(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let script = "import hashlib, json, re, sys, threading\n\
        n = int(sys.argv[1])\n\
        def work(seed, out):\n\
        \x20   rows = [{'id': i, 'k': i * seed % 1009, 's': 'x' * (i % 97)} for i in range(n)]\n\
        \x20   text = json.dumps(rows); rows = json.loads(text)\n\
        \x20   groups = {}\n\
        \x20   for row in rows: groups.setdefault(row['k'], []).append(row['s'])\n\
        \x20   words = re.findall('x{90,}', text)\n\
        \x20   out[seed] = (len(words), hashlib.sha256(repr(sorted(groups.items())).encode()).hexdigest())\n\
        out = {}\n\
        threads = [threading.Thread(target=work, args=(seed, out)) for seed in (3, 5, 7)]\n\
        [thread.start() for thread in threads]; [thread.join() for thread in threads]\n\
        print(sorted(out.items()))";
    let mut python = command("python3", allocator);
    let n = if context.quick { "20000" } else { "400000" };
    // Otherwise objects come from Python's own pools.
    python.args(["-c", script, n]).env("PYTHONMALLOC", "malloc");
    measure(python)
}

/// CPython's own tests. One of threading's fails in some places whatever the allocator (Debian's
/// package lacks the module that it imports), as does all of test_socket without a network: left out.
fn cpython_tests(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    const QUICK: &[&str] = &["test_json", "test_mmap", "test_gc", "test_dict", "test_pickle"];
    const FULL: &[&str] = &[
        "test_json",
        "test_subprocess",
        "test_multiprocessing_fork",
        "test_mmap",
        "test_ctypes",
        "test_dict",
        "test_list",
        "test_set",
        "test_bytes",
        "test_unicode",
        "test_re",
        "test_pickle",
        "test_gc",
        "test_weakref",
        "test_zlib",
        "test_sqlite3",
        "test_fork1",
        "test_thread",
        "test_threading",
        "test_os",
        "test_signal",
        "test_memoryview",
        "test_array",
        "test_deque",
        "test_io",
        "test_exceptions",
        "test_capi",
        "test_sort",
        "test_struct",
        "test_decimal",
    ];
    let listed = Command::new("python3").args(["-m", "test", "--list-tests"]).output();
    let listed = match listed {
        Ok(listed) if listed.status.success() => {
            String::from_utf8_lossy(&listed.stdout).into_owned()
        }
        _ => return Outcome::Missing("python3 has no tests (libpython3-testsuite)".into()),
    };
    let wanted = if context.quick { QUICK } else { FULL };
    let present = wanted.iter().filter(|test| listed.lines().any(|line| line == **test));
    let mut tests = command("python3", allocator);
    tests.args(["-m", "test", "-q", "-j2", "--timeout", "300"]).args(present);
    tests.args(["-i", "test_import_from_another_thread"]);
    tests.env("PYTHONMALLOC", "malloc").current_dir(context.scratch);
    match measure(tests) {
        // The order of what they say differs.
        Outcome::Ran(sample) => Outcome::Ran(Sample { answer: "passed".into(), ..sample }),
        outcome => outcome,
    }
}

/// A server on a socket of its own, filled, overwritten with other sizes, and half deleted.
fn redis(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let socket = context.scratch.join("redis.sock");
    let mut server = command("redis-server", allocator);
    server.args(["--port", "0", "--save", "", "--daemonize", "no", "--unixsocket"]).arg(&socket);
    server.current_dir(context.scratch).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut server = match server.spawn() {
        Ok(server) => server,
        Err(error) => return Outcome::Missing(format!("redis-server: {error}")),
    };
    let outcome = work_redis(context, &socket, server.id());
    let shutdown = redis_cli(&socket, &["shutdown", "nosave"]);
    if shutdown.is_err() {
        let _ = server.kill();
    }
    let _ = server.wait();
    match outcome {
        Ok((answer, peak_mib)) => {
            Outcome::Ran(Sample { answer, seconds: start.elapsed().as_secs_f64(), peak_mib })
        }
        Err(why) => Outcome::Failed(why),
    }
}

fn work_redis(context: &Context<'_>, socket: &Path, id: u32) -> Result<(String, f64), String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while redis_cli(socket, &["ping"]).is_err() {
        if Instant::now() > deadline {
            return Err("the server does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let count = if context.quick { "20000" } else { "600000" };
    for (size, tests) in [("100", "set,get,lpush,hset"), ("3000", "set,sadd,zadd"), ("40", "set")] {
        let status = Command::new("redis-benchmark")
            .arg("-s")
            .arg(socket)
            .args(["-n", count, "-r", count, "-P", "16", "-q", "-d", size, "-t", tests])
            .stdout(Stdio::null())
            .status()
            .map_err(|error| format!("redis-benchmark: {error}"))?;
        if !status.success() {
            return Err(format!("redis-benchmark: {status}"));
        }
    }
    let half = "local d = 0 for i = 0, tonumber(ARGV[1]) do local k = string.format('key:%012d', i) \
                if i % 2 == 0 then d = d + redis.call('del', k) else redis.call('set', k, i) end end \
                return redis.call('get', 'key:000000000007')";
    let answer = redis_cli(socket, &["eval", half, "0", count])?;
    let status =
        std::fs::read_to_string(format!("/proc/{id}/status")).map_err(|e| e.to_string())?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok((answer, peak.ok_or("no VmHWM")? / 1024.0))
}

fn redis_cli(socket: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("redis-cli")
        .arg("-s")
        .arg(socket)
        .args(arguments)
        .output()
        .map_err(|error| format!("redis-cli: {error}"))?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() && !answer.contains("Could not connect") && !answer.contains("ERR") {
        Ok(answer)
    } else {
        Err(format!("redis-cli: {answer}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Runs a script of a module that Python may not have.
fn module(context: &Context<'_>, allocator: Option<&Path>, module: &str, script: &str) -> Outcome {
    let imports = Command::new(context.python).args(["-c", &format!("import {module}")]).output();
    if !imports.is_ok_and(|output| output.status.success()) {
        let python = context.python.display();
        return Outcome::Missing(format!("{python} has no {module} (pip install {module})"));
    }
    let rows = if context.quick { "200000" } else { "60000000" };
    let mut python = command(context.python, allocator);
    python.args(["-c", script, rows]);
    measure(python)
}

/// The wheel uses the C library's malloc throughout, so the preload reaches everything.
fn duckdb(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let script = "import duckdb, sys\n\
        con = duckdb.connect(); con.execute('set threads=2'); con.execute('set enable_progress_bar=false')\n\
        con.execute(f\"create table t as select i as id, hash(i)%1000003 as k, \
        (hash(i*7)%100000)/8.0 as v, 'name-'||(hash(i*3)%500000) as s from range({sys.argv[1]}) r(i)\")\n\
        for q in ('select k%100, count(*), sum(v) from t group by 1 order by 1', \
        'select s, count(*) c, sum(v) from t group by s order by c desc, s limit 50', \
        'select count(*), sum(a.v) from t a join t b on a.id = b.k', \
        'select id from t order by v desc, id limit 50'): print(con.execute(q).fetchall())";
    module(context, allocator, "duckdb", script)
}

/// The wheel has an allocator of its own, so that the preload reaches Python's side only.
fn polars(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let script = "import polars as pl, sys\n\
        n = int(sys.argv[1])\n\
        df = pl.DataFrame({'id': pl.arange(0, n, eager=True)}).with_columns(\
        k=(pl.col('id')*2654435761%1000003), v=(pl.col('id')*40503%65537).cast(pl.Int64), \
        s=(pl.col('id')*48271%300000).cast(pl.String))\n\
        a = df.group_by('k').agg(pl.col('v').sum()).sort('k').head(50)\n\
        b = df.group_by('s').agg(pl.len(), pl.col('v').sum()).sort('s').head(50)\n\
        print(a.rows(), b.rows(), df.join(a, on='k').height, \
        df.sort('v', 'id', descending=True).head(50).rows())";
    module(context, allocator, "polars", script)
}

fn stress(context: &Context<'_>, allocator: Option<&Path>) -> Outcome {
    let mut stress = command("stress-ng", allocator);
    let operations = if context.quick { "200000" } else { "20000000" };
    stress.args(["--malloc", "2", "--malloc-ops", operations, "--malloc-max", "2000"]);
    stress
        .args(["--malloc-bytes", "256K", "--malloc-touch", "--verify", "--quiet", "--temp-path"])
        .arg(context.scratch);
    measure(stress)
}
