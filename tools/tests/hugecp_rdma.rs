//! `hugecp` between two machines over RDMA, of which both are the lab: its devices are Soft-RoCE, so that this
//! shows what is right, and no time means anything. No packet goes from one of them to the other, since the kernel
//! takes what is for an address of its own for the device that sends it.

mod common;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bookend_registration::verbs::{Device, Domain};
use bookend_tools::remote::key;
use bookend_tools::remote::protocol::{
    Attributes, Entry, Message, Moment, PIECE_MAX, Port, SLOTS_MAX, Slot,
};
use bookend_tools::remote::secure::SECRET_BYTES;
use bookend_tools::remote::transport::Lane;
use bookend_tools::remote::transport::congestion::Congestion;
use bookend_tools::remote::transport::rdma::{Fabric, Part, Upgrades};
use bookend_tools::remote::transport::tcp::{self, Manner};
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

/// What a malicious server does with the main lane and the one for pieces, after a ring was asked for.
type Evil = dyn FnOnce(&mut Lane<'_>, Lane<'_>) + Send;

fn say(lane: &mut Lane<'_>, message: &Message) {
    let _ = lane.sink.send(message).and_then(|()| lane.sink.flush()); // the client may be gone
}

fn accept<'a>(
    listener: &TcpListener,
    secret: &[u8; SECRET_BYTES],
    manner: &Manner<'a>,
) -> Lane<'a> {
    let (mut stream, _) = listener.accept().unwrap();
    let preface = tcp::greet(&mut stream, PATIENCE).unwrap();
    tcp::accept(stream, &preface, secret, manner).unwrap()
}

/// `hugecp OPTIONS 127.0.0.1:x dst` from a server that does what `evil` does.
fn pull(dir: &Dir, options: &str, evil: Box<Evil>) -> Ran {
    let path = dir.file("key", bytes(32));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let key = key::from_file(&path).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        let arena = tcp::arena(1).unwrap();
        let talking = Manner::talking(PATIENCE, &Congestion::Auto);
        let manner = |buffers| Manner { buffers, plain: true, ..talking };
        let mut main = accept(&listener, &key, &manner(None));
        let secret = [2; SECRET_BYTES];
        say(&mut main, &Message::Offer { session: [1; 16], secret, port: 0, addresses: vec![] });
        let Ok(Message::Ask { request }) = main.feed.receive() else { panic!("no request") };
        assert!(request.rdma && request.lanes == 1);
        say(&mut main, &Message::Accept {});
        let lane = accept(&listener, &secret, &manner(Some(&arena)));
        evil(&mut main, lane);
        while main.feed.receive().is_ok() {}
    });
    let words = ["--key-file", "key", "--port", &port, "--streams", "1", "--timeout", "3"];
    let words = words.into_iter().chain(options.split_whitespace()).chain(["127.0.0.1:x", "dst"]);
    let ran =
        end_of(hugecp(dir, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    server.join().unwrap();
    ran
}

fn ring(endpoint: &str) -> Message {
    Message::Ring { endpoint: endpoint.to_owned(), immediates: true, windows: true }
}

/// The devices of a server that has one.
fn devices() -> Message {
    let mut address = [0; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    Message::Devices { devices: vec![Port { name: "evil0".to_owned(), address }] }
}

/// Nobody's queue pair, at the device's own address.
const NOBODY: &str = "0:fffff0:1:00000000000000000000ffffc0000201:3";

#[test]
fn rubbish_in_the_exchange_is_told() {
    let Some(_lab) = lab("rubbish_in_the_exchange_is_told") else { return };
    let rubbish = [
        (vec![ring(NOBODY)], "no devices, where they were to be told"),
        (vec![devices(), ring("rubbish")], "a queue pair that cannot be"),
        (
            vec![devices(), ring(&format!("0:1:1:{}:9", "0".repeat(32)))],
            "a queue pair that cannot be",
        ),
        (vec![devices(), Message::Ready {}], "no ring, where one was to be agreed on"),
        (vec![devices(), devices()], "no ring"),
        (vec![devices(), Message::Credit { key: 1 }], "no ring"),
        (
            vec![
                devices(),
                ring(NOBODY),
                Message::Slots { slots: vec![Slot { address: 1, key: 1 }; SLOTS_MAX] },
            ],
            "no word of a write",
        ),
        (vec![devices(), ring(NOBODY), Message::Alive {}], "no word of a write"),
    ];
    // All at once: they wait for each other's silence.
    std::thread::scope(|scope| {
        for (words, part) in rubbish {
            scope.spawn(move || {
                let dir = Dir::new();
                let evil = move |_: &mut Lane<'_>, mut lane: Lane<'_>| {
                    words.iter().for_each(|word| say(&mut lane, word));
                    while lane.feed.receive().is_ok() {}
                };
                let ran = pull(&dir, "--plain", Box::new(evil));
                ran.fails(1, &["does not keep to the protocol", part]);
                assert_eq!(dir.names(), ["key"], "{part}");
            });
        }
        // One that says nothing at all, one that goes, one that says it wrote, and did not.
        scope.spawn(|| {
            let silent =
                |_: &mut Lane<'_>, mut lane: Lane<'_>| while lane.feed.receive().is_ok() {};
            let ran = pull(&Dir::new(), "--plain", Box::new(silent));
            ran.fails(1, &["127.0.0.1 has been silent for 12 s"]);
        });
        scope.spawn(|| {
            let ran = pull(&Dir::new(), "--plain", Box::new(|_: &mut Lane<'_>, _: Lane<'_>| {}));
            ran.fails(1, &["lost the connection to 127.0.0.1"]);
        });
        scope.spawn(|| {
            let liar = |_: &mut Lane<'_>, mut lane: Lane<'_>| {
                say(&mut lane, &devices());
                say(&mut lane, &ring(NOBODY));
                say(&mut lane, &Message::Ready {});
                while lane.feed.receive().is_ok() {}
            };
            let ran = pull(&Dir::new(), "--transport rdma", Box::new(liar));
            ran.fails(1, &["no RDMA with 127.0.0.1: nothing came through in 8 s"]);
        });
    });
}

/// A file of two pieces, of which the first is to come.
fn begin(main: &mut Lane<'_>) {
    let moment = Moment { seconds: 0, nanoseconds: 0 };
    let attributes = Attributes {
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        accessed: moment.clone(),
        modified: moment,
        xattrs: Vec::new(),
    };
    let entry = Entry { name: None, link: 0, attributes };
    let mut identity = [0; 56];
    identity[16..24].copy_from_slice(&(2 * PIECE_MAX as u64).to_le_bytes());
    say(main, &Message::Operand { index: 0 });
    say(main, &Message::File { entry, file: 0, identity });
    while !matches!(main.feed.receive(), Ok(Message::Go { file: 0, .. })) {}
}

#[test]
fn pieces_that_lie_are_not_written() {
    let Some(_lab) = lab("pieces_that_lie_are_not_written") else { return };
    // Bytes of another checksum.
    let dir = Dir::new();
    let changed = |main: &mut Lane<'_>, lane: Lane<'_>| {
        let fabric = Fabric::open(None, 1).unwrap();
        let mut upgrades = Upgrades::new(Ok(&fabric), Part::Sends, PATIENCE);
        let mut lane = upgrades.lane(lane).unwrap();
        assert_eq!((upgrades.ways.lanes(), upgrades.reason), (1, None));
        begin(main);
        lane.sink.body().unwrap()[..1000].fill(7);
        let sum = *blake3::hash(b"other").as_bytes(); // of no kind of sum
        lane.sink.send_piece(&Message::Piece { file: 0, offset: 0, len: 1000, sum }).unwrap();
        while main.feed.receive().is_ok() {}
    };
    pull(&dir, "--plain", Box::new(changed)).fails(1, &["were changed on their way"]);
    assert!(!dir.join("dst").exists());
    // A piece that was announced and never written, and one over TCP where none may be.
    for (word, part) in [
        (Message::Written { file: 0, offset: 0, len: 1000, sum: [0; 32] }, "did not come in 3 s"),
        (Message::Ready {}, "what is no piece on a lane of RDMA"),
    ] {
        let dir = Dir::new();
        let evil = move |main: &mut Lane<'_>, mut lane: Lane<'_>| {
            // A ring agreed on by hand: its words are this lane's to say.
            let device = Device::open(Some("rxe0")).unwrap();
            let domain = Domain::new(&device).unwrap();
            agree_and_say(&domain, &mut lane, main, &word);
            while main.feed.receive().is_ok() {}
        };
        pull(&dir, "--plain", Box::new(evil)).fails(1, &[part]);
        assert!(!dir.join("dst").exists(), "{part}");
    }
}

fn agree_and_say(
    domain: &std::sync::Arc<Domain>,
    lane: &mut Lane<'_>,
    main: &mut Lane<'_>,
    word: &Message,
) {
    use bookend_registration::ring::{Patience, SendRing, Shape};
    use bookend_registration::verbs::RemoteMemory;
    let shape = Shape { slots: 8, slot: bookend::units::Bytes::mib(1) };
    let mut own = SendRing::new(domain, shape).unwrap();
    say(lane, &devices());
    assert!(matches!(lane.feed.receive(), Ok(Message::Devices { devices }) if devices.len() == 1));
    say(lane, &ring(&own.endpoint().to_string()));
    let Ok(Message::Ring { endpoint, .. }) = lane.feed.receive() else { panic!("no ring") };
    own.connect(&endpoint.parse().unwrap(), true).unwrap();
    let Ok(Message::Slots { slots }) = lane.feed.receive() else { panic!("no slots") };
    let memory = |slot: &Slot| RemoteMemory { address: slot.address, key: slot.key };
    own.open(slots.iter().map(memory).collect()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let patience = Patience { limit: PATIENCE, stop: &stop };
    own.buffer(&patience).unwrap()[0] = 1;
    own.send(8).unwrap();
    own.settle(&patience).unwrap();
    say(lane, &Message::Ready {});
    assert!(matches!(lane.feed.receive(), Ok(Message::Credit { .. })));
    begin(main);
    say(lane, word);
    // The ring stays until the client has had enough; it is not silence that it has enough of.
    while main.feed.receive().is_ok() {
        say(main, &Message::Alive {});
    }
}
