//! `hugecp` between two machines over RDMA, of which both are the lab: its devices are Soft-RoCE, so that this
//! shows what is right, and no time means anything. No packet goes from one of them to the other, since the kernel
//! takes what is for an address of its own for the device that sends it.

#[path = "../common/mod.rs"]
mod common;
mod malice;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use common::{Dir, Ran, bytes};

/// This machine, by the address of its device.
const HOST: &str = "192.0.2.1";
const PATIENCE: Duration = Duration::from_secs(60);

/// Held by who uses the device, and alone by who takes it away.
static DEVICE: RwLock<()> = RwLock::new(());

fn is_lab(test: &str) -> bool {
    let found = std::env::var_os("BOOKEND_LAB").is_some();
    if !found {
        println!("skipped: {test}: runs in the lab only: tests/lab/run");
    }
    found
}

/// `None` with the reason said outside of the lab.
fn lab(test: &str) -> Option<RwLockReadGuard<'static, ()>> {
    is_lab(test).then(|| DEVICE.read().unwrap_or_else(PoisonError::into_inner))
}

/// A directory in which `./rsh` runs what it is told on this machine; `pid` is the number of the other end.
fn machines() -> Dir {
    let dir = Dir::new();
    let path = dir.file("rsh", "#!/bin/sh\nshift\necho $$ > pid\nexec \"$@\"\n");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The optimised one that the lab carries: emulated, the other takes minutes for its checksums.
fn program() -> String {
    let built = Path::new(env!("CARGO_BIN_EXE_hugecp"));
    let optimised = built.ancestors().nth(2).map(|target| target.join("release/hugecp"));
    let program = optimised.filter(|path| path.exists()).unwrap_or(built.to_owned());
    program.display().to_string()
}

fn hugecp<'a>(dir: &Dir, words: impl IntoIterator<Item = &'a str>) -> Command {
    dir.command(&program(), words)
}

fn command(dir: &Dir, line: &str) -> Command {
    let program = program();
    let words = ["--rsh", "./rsh", "--remote-program", &program].into_iter();
    hugecp(dir, words.chain(line.split_whitespace()))
}

fn run(dir: &Dir, line: &str) -> Ran {
    Ran(command(dir, line).output().unwrap())
}

fn there(dir: &Dir, name: &str) -> String {
    format!("{HOST}:{}", dir.join(name).display())
}

fn other_end(dir: &Dir) -> nix::unistd::Pid {
    let pid = fs::read_to_string(dir.join("pid")).unwrap();
    nix::unistd::Pid::from_raw(pid.trim().parse().unwrap())
}

fn signal(pid: nix::unistd::Pid, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// A copy over RDMA at a rate that leaves time to disturb it.
fn slow(dir: &Dir, more: &str, from: &str, to: &str) -> Child {
    let line = format!("--transport rdma --block-size 256K --bwlimit 1M {more} {from} {to}");
    command(dir, &line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for_pieces(dir: &Dir, name: &str, pieces: u64) {
    use bookend_tools::copy::journal::{HEADER_BYTES, RECORD_BYTES};
    let since = Instant::now();
    let path = dir.join(format!(".{name}.hugecp-journal"));
    let len = || fs::metadata(&path).map_or(0, |found| found.len());
    while len().saturating_sub(HEADER_BYTES as u64) / (RECORD_BYTES as u64) < pieces {
        assert!(since.elapsed() < PATIENCE, "waited for pieces in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How long the program then took to end, which is bounded.
fn end_of(child: Child) -> Ran {
    let since = Instant::now();
    let ran = Ran(child.wait_with_output().unwrap());
    assert!(since.elapsed() < PATIENCE, "given up in bounded time: {:?}", since.elapsed());
    ran
}

#[test]
fn files_go_there_and_come_back() {
    let Some(_lab) = lab("files_go_there_and_come_back") else { return };
    let dir = machines();
    // Some rounds of the rings, and a piece that is not whole; BOOKEND_RDMA_SIZE for more.
    let size = std::env::var("BOOKEND_RDMA_SIZE").ok().and_then(|text| text.parse().ok());
    let data = bytes(size.unwrap_or(24 << 20 | 12_345));
    dir.file("big", &data);
    let since = Instant::now();
    let ran = run(&dir, &format!("--explain --plain big {}", there(&dir, "out"))).ok();
    println!("{} bytes in {:?}", data.len(), since.elapsed());
    assert!(ran.out().contains("over RDMA by "), "{}", ran.out());
    assert!(ran.out().contains("keys are taken back"), "{}", ran.out());
    assert!(!ran.out().contains("not over RDMA"), "{}", ran.out());
    assert!(dir.read("out") == data);
    dir.file("less", &data[..5 << 20 | 77]);
    for options in [
        "--transport rdma --verify --fsync",
        "--transport rdma --streams 1 --block-size 64K",
        // More than there may be of them; holes in what is sent.
        "--plain --streams 20 --sparse always",
    ] {
        let from = there(&dir, "less");
        let ran = run(&dir, &format!("--explain {options} {from} back")).ok();
        assert!(ran.out().contains("over RDMA by "), "{options}: {}", ran.out());
        assert!(dir.read("back") == data[..5 << 20 | 77], "{options}");
        fs::remove_file(dir.join("back")).unwrap();
    }
    // Encrypted is TCP, and says why; what is asked for is taken.
    let ran = run(&dir, &format!("--explain less {}", there(&dir, "b"))).ok();
    assert!(ran.out().contains("not over RDMA: it would go unencrypted"), "{}", ran.out());
    let ran =
        run(&dir, &format!("--explain --plain --transport tcp less {}", there(&dir, "b"))).ok();
    assert!(!ran.out().contains("RDMA"), "{}", ran.out());
}

#[test]
fn a_tree_is_the_same_there() {
    let Some(_lab) = lab("a_tree_is_the_same_there") else { return };
    let dir = machines();
    fs::create_dir_all(dir.join("tree/a/b")).unwrap();
    for number in 0..40 {
        dir.file(&format!("tree/a/b/{number}"), bytes(number * 97));
    }
    for (name, len) in [("one", 3 << 20), ("two", (1 << 20) + 1), ("three", 300_000)] {
        dir.file(&format!("tree/a/{name}"), bytes(len));
    }
    symlink("nowhere", dir.join("tree/link")).unwrap();
    fs::hard_link(dir.join("tree/a/one"), dir.join("tree/again")).unwrap();
    File::create(dir.join("tree/sparse")).unwrap().set_len(9 << 20).unwrap();
    run(&dir, &format!("-a --transport rdma tree {}", there(&dir, "pushed"))).ok();
    run(&dir, &format!("-a --transport rdma {} pulled", there(&dir, "tree"))).ok();
    for copy in ["pushed", "pulled"] {
        dir.run(&format!("-a --check tree {copy}")).ok();
        let numbers = (0..40).map(|number| format!("a/b/{number}"));
        let others = ["a/one", "a/two", "a/three", "again", "sparse"].map(str::to_owned);
        for name in numbers.chain(others) {
            let (one, other) = (format!("tree/{name}"), format!("{copy}/{name}"));
            assert!(dir.read(&one) == dir.read(&other), "{other}");
        }
    }
}

#[test]
fn a_killed_end_is_noticed_and_the_copy_goes_on() {
    let Some(_lab) = lab("a_killed_end_is_noticed_and_the_copy_goes_on") else { return };
    use nix::sys::signal::Signal::SIGKILL;
    let data = bytes(12 << 20);
    both_ways(|dir, from, to| {
        dir.file("a", &data);
        let child = slow(dir, "", from, to);
        wait_for_pieces(dir, "b", 12);
        signal(other_end(dir), SIGKILL);
        end_of(child).fails(1, &["lost the connection to 192.0.2.1", "the same command again"]);
        assert!(!dir.join("b").exists(), "nothing half-written under its name");
        let line = format!("--json --transport rdma --block-size 256K {from} {to}");
        let since = Instant::now();
        let ran = loop {
            // The journal may still be locked by the end that was killed.
            let ran = run(dir, &line);
            if ran.status() == 0 || since.elapsed() > PATIENCE {
                break ran.ok();
            }
        };
        assert!(ran.out().contains("\"resumed\":"), "{}", ran.out());
        assert!(dir.read("b") == data);
    });
    // The client killed: the other end goes too, and leaves what arrived.
    let dir = machines();
    dir.file("a", &data);
    let mut child = slow(&dir, "", "a", &there(&dir, "b"));
    wait_for_pieces(&dir, "b", 4);
    let pid = other_end(&dir);
    child.kill().unwrap();
    child.wait().unwrap();
    let since = Instant::now();
    while nix::sys::signal::kill(pid, None).is_ok() {
        assert!(since.elapsed() < PATIENCE, "the other end outlives the client");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!dir.join("b").exists() && dir.join(".b.hugecp-part").exists());
}

/// Both directions at once, each in a directory of its own: from `a` to `b`.
fn both_ways(copy: impl Fn(&Dir, &str, &str) + Sync) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = machines();
            copy(&dir, "a", &there(&dir, "b"));
        });
        scope.spawn(|| {
            let dir = machines();
            copy(&dir, &there(&dir, "a"), "b");
        });
    });
}

#[test]
fn an_end_that_hangs_is_given_up() {
    let Some(_lab) = lab("an_end_that_hangs_is_given_up") else { return };
    use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
    both_ways(|dir, from, to| {
        dir.file("a", bytes(12 << 20));
        let child = slow(dir, "--timeout 3", from, to);
        wait_for_pieces(dir, "b", 8);
        let pid = other_end(dir);
        signal(pid, SIGSTOP);
        let ran = end_of(child);
        let _ = nix::sys::signal::kill(pid, SIGKILL); // hugecp may have done so
        ran.fails(1, &["192.0.2.1 has been silent for 3 s", "the same command again"]);
        assert!(!dir.join("b").exists());
    });
}

/// Takes the devices away; puts them back when dropped.
struct NoDevice;

fn system(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().unwrap().success()
}

impl NoDevice {
    fn new() -> Self {
        assert!(system("rdma link delete rxe0 && rdma link delete rxe1"));
        Self
    }
}

impl Drop for NoDevice {
    fn drop(&mut self) {
        assert!(system("rdma link add rxe0 type rxe netdev dummy0"));
        assert!(system("rdma link add rxe1 type rxe netdev dummy1"));
    }
}

/// A `./NAME` that is hugecp, after `mounts` that nobody else sees.
fn after_mounts(dir: &Dir, name: &str, mounts: &str) {
    let script = format!(
        "#!/bin/sh\nexec unshare -m sh -c '{mounts} && exec \"$0\" \"$@\"' {} \"$@\"\n",
        program()
    );
    let path = dir.file(name, script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Packets that a device has sent.
fn sent(device: &str) -> u64 {
    let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/sent_pkts");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().unwrap()
}

#[test]
fn all_devices_carry_a_copy() {
    if !is_lab("all_devices_carry_a_copy") {
        return;
    }
    // Nobody else's packets are counted.
    let _alone = DEVICE.write().unwrap_or_else(PoisonError::into_inner);
    let dir = machines();
    let data = bytes(4 << 20);
    dir.file("a", &data);
    for (streams, from, to, used) in [
        ("", "a", &*there(&dir, "b"), [true, true]),
        ("--streams 1", &there(&dir, "a"), "b", [true, false]),
    ] {
        let before = ["rxe0", "rxe1"].map(sent);
        let ran = run(&dir, &format!("--explain --plain {streams} {from} {to}")).ok();
        let after = ["rxe0", "rxe1"].map(sent);
        assert!(dir.read("b") == data);
        // A piece of 1 MiB at least, in packets of 4 KiB.
        let carried = [0, 1].map(|device| after[device] - before[device] >= 256);
        assert_eq!(carried, used, "{before:?} {after:?}: {}", ran.out());
        let words = match used[1] {
            true => "over RDMA by rxe0 (1 queue pair) and rxe1 (1 queue pair) with pages of ",
            false => "over RDMA by rxe0 (1 queue pair) with pages of ",
        };
        assert!(ran.out().contains(words), "{}", ran.out());
        assert!(!ran.out().contains("passed over"), "{}", ran.out());
        fs::remove_file(dir.join("b")).unwrap();
    }
}

#[test]
fn a_device_that_reaches_nobody_is_passed_over() {
    let Some(_lab) = lab("a_device_that_reaches_nobody_is_passed_over") else { return };
    let data = bytes(3 << 20);
    // The other end has rxe1 alone, which this end's rxe0 does not reach: at once, since all wait.
    let copy = |options: &str, push: bool| {
        let dir = machines();
        dir.file("a", &data);
        after_mounts(&dir, "half", "mount --bind /dev/null /dev/infiniband/uverbs0");
        let (from, to) = match push {
            true => ("a".to_owned(), there(&dir, "b")),
            false => (there(&dir, "a"), "b".to_owned()),
        };
        let line = format!("--rsh ./rsh --remote-program ./half --explain {options} {from} {to}");
        let since = Instant::now();
        let ran = Ran(hugecp(&dir, line.split_whitespace()).output().unwrap());
        assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
        if ran.status() == 0 {
            assert!(dir.read("b") == data);
        }
        ran
    };
    std::thread::scope(|scope| {
        for push in [true, false] {
            scope.spawn(move || {
                let ran = copy("--transport rdma --streams 3", push).ok();
                let out = ran.out();
                assert!(out.contains("over RDMA by rxe1 (3 queue pairs) with "), "{out}");
                let words = "passed over: rxe0 with rxe1 of 192.0.2.1: ";
                assert!(out.contains(words), "{out}");
                assert!(!out.contains("not over RDMA"), "{out}");
            });
        }
        // One lane has one device, that of the address that is reached.
        scope.spawn(|| {
            let ran = copy("--plain --streams 1", true).ok();
            assert!(ran.out().contains("not over RDMA: "), "{}", ran.out());
            assert!(!ran.out().contains("over RDMA by"), "{}", ran.out());
        });
        scope.spawn(|| {
            copy("--transport rdma --streams 1", false).fails(1, &["no RDMA with 192.0.2.1: "]);
        });
    });
}

#[test]
fn lanes_run_where_their_device_is() {
    let Some(_lab) = lab("lanes_run_where_their_device_is") else { return };
    use nix::sys::signal::Signal::SIGKILL;
    let dir = machines();
    // Software devices are nowhere: this one is said to be on the second node, for both ends.
    let place = "cp $0/node_type fake && mkdir fake/device && echo 1 >fake/device/numa_node && \
                 mount --bind fake $0 && exec \"$@\"";
    dir.file("a", bytes(12 << 20));
    let program = program();
    let line = format!(
        "--rsh ./rsh --remote-program {program} --explain --transport rdma --streams 1 \
         --block-size 256K --bwlimit 1M a {}",
        there(&dir, "b")
    );
    fs::create_dir(dir.join("fake")).unwrap();
    let child = dir
        .command("unshare", ["-m", "sh", "-c", place, "/sys/devices/virtual/infiniband/rxe0"])
        .arg(&program)
        .args(line.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_pieces(&dir, "b", 4);
    let both = [nix::unistd::Pid::from_raw(child.id() as i32), other_end(&dir)];
    let ends = both.map(|end| (allowed(end), fs::read_to_string(format!("/proc/{end}/numa_maps"))));
    signal(both[0], SIGKILL);
    let ran = Ran(child.wait_with_output().unwrap());
    assert!(ran.out().contains("by rxe0 (node 1, 1 queue pair)"), "{}", ran.out());
    for (processors, maps) in ends {
        // The lane's thread, and none of the others.
        let near = processors.iter().filter(|list| *list == "1").count();
        let anywhere = processors.iter().filter(|list| *list == "0-1").count();
        assert!(near == 1 && anywhere == processors.len() - 1, "{processors:?}");
        let maps = maps.unwrap();
        assert!(maps.lines().any(|line| line.contains("bind:1") && line.contains("N1=")), "{maps}");
    }
}

/// Which processors each thread of a process may run on.
fn allowed(process: nix::unistd::Pid) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status")).unwrap();
    let list = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    };
    threads.map(|thread| list(status(thread.unwrap()))).collect()
}

#[test]
fn without_a_device_it_is_tcp_and_says_why() {
    if !is_lab("without_a_device_it_is_tcp_and_says_why") {
        return;
    }
    let _alone = DEVICE.write().unwrap_or_else(PoisonError::into_inner);
    let dir = machines();
    let data = bytes(2 << 20);
    dir.file("a", &data);
    {
        let _none = NoDevice::new();
        let ran = run(&dir, &format!("--explain --plain a {}", there(&dir, "b"))).ok();
        assert!(ran.out().contains("over TCP to "), "{}", ran.out());
        assert!(ran.out().contains("not over RDMA: there is no RDMA device"), "{}", ran.out());
        assert!(dir.read("b") == data);
        run(&dir, &format!("--transport rdma a {}", there(&dir, "c")))
            .fails(1, &["no RDMA with 192.0.2.1: there is no RDMA device", "--transport auto"]);
    }
    // Those whose ports are down.
    assert!(system("ip link set dummy0 down && ip link set dummy1 down"));
    let down = run(&dir, &format!("--transport rdma a 127.0.0.1:{}", dir.join("c").display()));
    assert!(system("ip link set dummy0 up && ip link set dummy1 up"));
    down.fails(1, &["the port of rxe0 is down; the port of rxe1 is down"]);
    // The other end alone has none.
    after_mounts(&dir, "blind", "mount -t tmpfs none /dev/infiniband");
    let line =
        format!("--rsh ./rsh --remote-program ./blind --explain --plain a {}", there(&dir, "d"));
    let ran = dir.run(&line).ok();
    assert!(
        ran.out().contains("not over RDMA: 192.0.2.1: there is no RDMA device"),
        "{}",
        ran.out()
    );
    assert!(dir.read("d") == data);
    assert!(!dir.join("c").exists());
}
