//! hugectl as its users meet it: what it prints, what it refuses, and what it leaves behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugectl"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn hugectl(arguments: &[&str]) -> Output {
    command(arguments).output().expect("hugectl runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no JSON: {error}: {output:?}"))
}

/// Past the harness's capture.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn root(test: &str) -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        say(&format!("skipped: {test}: needs root"));
    }
    is_root
}

/// The lock that whoever changes the machine holds, in all of Bookend's tests.
fn alone() -> Flock<File> {
    let path = std::env::temp_dir().join("bookend-machine.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.or_else(|_| File::open(&path)).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap()
}

/// What the ladder may change and must put back, but for the pool that it was asked to grow.
fn state() -> Vec<(String, String)> {
    let mut state = Vec::new();
    let mut note = |path: std::path::PathBuf| {
        if let Ok(text) = fs::read_to_string(&path) {
            state.push((path.display().to_string(), text));
        }
    };
    for entry in fs::read_dir("/proc/sys/vm").into_iter().flatten().flatten() {
        note(entry.path());
    }
    for pool in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        ["nr_hugepages", "demote_size"].into_iter().for_each(|name| note(pool.path().join(name)));
    }
    for block in fs::read_dir("/sys/devices/system/memory").into_iter().flatten().flatten() {
        note(block.path().join("state"));
    }
    state.push(("mounts".into(), fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()));
    state.sort();
    state
}

fn pool() -> u64 {
    let text = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn status_tells_pools_zones_and_indices() {
    let status = json(&hugectl(&["status", "--json"]));
    let node = &status["nodes"][0];
    let zones = node["zones"].as_array().unwrap();
    assert!(!zones.is_empty() && node["total_bytes"].as_u64() > Some(0), "{status}");
    for order in zones.iter().flat_map(|zone| zone["orders"].as_array().unwrap()) {
        let (unusable, fragmentation) =
            (order["unusable"].as_f64().unwrap(), order["fragmentation"].as_f64().unwrap());
        assert!(
            (0.0..=1.0).contains(&unusable) && (-1.0..=1.0).contains(&fragmentation),
            "{order}"
        );
        assert_eq!(fragmentation == -1.0, order["suitable"].as_u64() > Some(0), "{order}");
    }
    let text = out(&hugectl(&["status"]));
    assert!(text.contains("Node 0") && text.contains("unusable"), "{text}");
}

#[test]
fn bad_usage_is_told_and_nothing_is_tried() {
    let _lock = alone(); // others change the pool
    let before = pool();
    for (arguments, told) in [
        (&["reserve"] as &[_], "--size"),
        (&["reserve", "--size", "2M"], "--pages"),
        (&["reserve", "--size", "3M", "--pages", "1"], "2M or 1G"),
        (&["reserve", "--size", "huge", "--pages", "1"], "\"huge\""),
        (&["reserve", "--size", "4M", "--pages", "1"], "no such pages"),
        (&["reserve", "--size", "2M", "--pages", "1", "--node", "77"], "no such node"),
        (&["reserve", "--size", "2M", "--pages", "999999999"], "more than this machine's memory"),
        (&["reserve", "--size", "2M", "--pages", "1", "--pages", "2"], "one for each size"),
        (&["reserve", "--size", "2M", "--pages", "1", "--timeout", "0"], "seconds"),
        (
            &["reserve", "--size", "2M", "--pages", "1", "--keep-cache", "--allow-drop"],
            "cannot be used",
        ),
        (&["predict", "--size", "8M"], "no such pages"),
        (&["release", "--size", "2M", "--pages", "99999999"], "the pool has"),
        (&["blame", "--node", "77"], "no such node"),
        (&["map", "--output", "x.gif"], ".png, .svg or .html"),
        (&["collapse", "--pid", "4194999"], "no such process"),
        (&["export", "--listen", "0.0.0.0:1"], "loopback"),
        (&["watch", "--interval", "0"], "seconds"),
        (&["frobnicate"], "unrecognized"),
    ] {
        let output = hugectl(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty() && !stderr.contains("panicked"), "{arguments:?}");
    }
    assert_eq!(pool(), before);
}

#[test]
fn a_file_that_is_no_map_is_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("map");
    fs::write(&path, "something else").unwrap();
    let path = path.to_str().unwrap();
    let output = hugectl(&["map", "--diff", path, path]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains(path) && stderr.contains("hugectl map --save"), "{stderr}");
}

#[test]
fn maps_are_drawn_saved_and_compared() {
    if !root("maps_are_drawn_saved_and_compared") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (map, page, picture) = (path("a.map"), path("a.html"), path("a.png"));
    let report = json(&hugectl(&["map", "--json", "--save", &map]));
    let counts = report["classes"].as_array().unwrap().iter();
    let total: u64 = counts.map(|class| class["blocks"].as_u64().unwrap()).sum();
    assert_eq!(report["blocks"], total);
    let runs = report["runs"].as_array().unwrap().iter();
    assert_eq!(runs.map(|run| run["blocks"].as_u64().unwrap()).sum::<u64>(), total);
    assert!(hugectl(&["map", "--diff", &map, &map, "--output", &page]).status.success());
    assert!(fs::read_to_string(&page).unwrap().contains("id=\"slider\""));
    assert!(hugectl(&["map", "--output", &picture]).status.success());
    assert!(fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    let text = out(&hugectl(&["map", "--color", "always"]));
    assert!(text.contains("\x1b[") && text.contains("recoverable"), "{text}");
    let pages = json(&hugectl(&["map", "--pages", "0", "--json"]));
    assert_eq!(pages["pages"].as_array().unwrap().len(), 512);
}

#[test]
fn whoever_is_not_root_gets_what_may_be_read() {
    if !root("whoever_is_not_root_gets_what_may_be_read") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    // Pages that another test has just reserved would be as many as are asked for here.
    let _lock = alone();
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("hugectl");
    fs::copy(env!("CARGO_BIN_EXE_hugectl"), &copy).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        command.args(arguments).uid(65534).gid(65534).stdin(Stdio::null()).output().unwrap()
    };
    let status = run(&["status"]);
    assert!(status.status.success() && out(&status).contains("root may read it"), "{status:?}");
    let blame = run(&["blame"]);
    assert!(blame.status.success() && out(&blame).contains("Not shown: blocks"), "{blame:?}");
    assert!(run(&["export"]).status.success() && run(&["advise"]).status.success());
    for arguments in
        [&["map"] as &[_], &["predict"], &["reserve", "--size", "2M", "--pages", "9"], &["compact"]]
    {
        let output = run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(stderr.contains("as root"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn pages_are_reserved_predicted_and_released() {
    if !root("pages_are_reserved_predicted_and_released") {
        return;
    }
    let _lock = alone();
    let before = state();
    let wanted = pool() + 16;
    let pages = wanted.to_string();
    let arguments = ["reserve", "--size", "2M", "--pages", &pages, "--json"];
    let dry = json(&hugectl(&[&arguments[..], &["--dry-run"]].concat()));
    assert_eq!((dry["requested"].as_u64(), pool()), (Some(wanted), wanted - 16), "{dry}");
    let output = hugectl(&arguments);
    let report = json(&output);
    let obtained = report["obtained"].as_u64().unwrap();
    let keys = ["requested", "obtained", "predicted", "seconds", "rungs", "verdict", "blockers"];
    assert!(keys.iter().all(|key| report.get(key).is_some()), "{report}");
    let rung = &report["rungs"][0];
    let keys =
        ["rung", "gained", "seconds", "cache_bytes_before", "cache_bytes_after", "pages_migrated"];
    assert!(keys.iter().all(|key| rung.get(key).is_some()), "{report}");
    assert_eq!(pool(), obtained);
    assert_eq!(output.status.code(), Some(if obtained == wanted { 0 } else { 3 }));
    let gained = (obtained - (wanted - 16)).to_string();
    let released = hugectl(&["release", "--size", "2M", "--pages", &gained]);
    assert!(released.status.success(), "{released:?}");
    assert_eq!(state(), before);
}

#[test]
fn an_interrupted_reserve_gives_back_what_it_won_where_it_is_told_to() {
    if !root("an_interrupted_reserve_gives_back_what_it_won_where_it_is_told_to") {
        return;
    }
    let _lock = alone();
    let before = state();
    let had = pool();
    // More than there is, so that every rung is tried.
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    let pages = (total / 2048).to_string();
    let arguments = ["reserve", "--size", "2M", "--pages", &pages, "--max-rung", "compact"];
    let mut child = command(&arguments);
    child.args(["--rollback", "--json"]);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while pool() == had && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_micros(200));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(state(), before, "{output:?}");
    let report = json(&output);
    assert_eq!(report["obtained"], had, "{report}");
    assert_eq!(output.status.code(), Some(130), "{output:?}");
}

#[test]
fn metrics_are_served_on_loopback_and_written_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hugectl.prom");
    let status = hugectl(&["export", "--textfile", path.to_str().unwrap()]).status;
    assert!(status.success());
    check_metrics(&fs::read_to_string(&path).unwrap());
    let mut child = command(&["export", "--listen", "127.0.0.1:0"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let answer = get("/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("openmetrics-text"), "{head}");
    check_metrics(body);
    assert!(get("/").starts_with("HTTP/1.1 404"));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Every sample belongs to a family that was declared before it, and the text ends as it must.
fn check_metrics(text: &str) {
    assert!(text.trim_end().ends_with("# EOF"), "{text}");
    let mut families = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            families.push(rest.split(' ').next().unwrap());
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(families.last(), Some(&name), "{line}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(families.contains(&"hugectl_free_blocks"), "{text}");
}

#[test]
fn a_unit_is_printed_and_installed_only_where_that_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let unit = hugectl(&["persist", "--size", "2M", "--pages", "8"]);
    if !unit.status.success() {
        say("skipped: a unit for pages of 2 MiB: this kernel has none");
        return;
    }
    assert!(out(&unit).contains("reserve --size 2097152 --pages 8"), "{unit:?}");
    let to = directory.path().to_str().unwrap();
    let installed =
        hugectl(&["persist", "--size", "2M", "--pages", "8", "--install", "--unit-dir", to]);
    assert!(installed.status.success(), "{installed:?}");
    let path = directory.path().join("hugectl-reserve.service");
    assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), out(&unit).trim_end());
    let verify = Command::new("systemd-analyze").arg("verify").arg(&path).output();
    match verify {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => say(&format!("skipped: verifying the unit: systemd-analyze: {error}")),
    }
}

#[test]
fn watching_ends_by_itself_or_when_its_reader_goes() {
    let output = hugectl(&["watch", "--count", "2", "--interval", "0.05"]);
    assert!(output.status.success());
    assert_eq!(out(&output).lines().count(), 2, "a line a look where there is no terminal");
    let mut child = command(&["watch", "--interval", "0.05"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
