//! The RDMA device, tried with programs that are not ours: when they work and we do not, it is us.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bookend_tests::tools::Run;

use super::in_lab;

/// The address of the network device under rxe0.
const ADDRESS: &str = "192.0.2.1";

/// A server, killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Starts `command` and waits until it listens at `port`.
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut server = Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let started = Instant::now();
        while !listens(port) {
            let ended = server.0.try_wait().unwrap();
            assert_eq!(ended, None, "{command:?} ended");
            assert!(started.elapsed() < Duration::from_secs(60), "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

/// Whether anybody listens at a TCP port: state 0A in the kernel's tables.
fn listens(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().any(|table| {
        fs::read_to_string(table).unwrap_or_default().lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.len() > 3 && fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A"
        })
    })
}

/// Runs `program` as server and as client, on a port of their own; what the client printed.
fn pair(program: &str, arguments: &[&str], port: u16) -> String {
    let command = || {
        let mut command = Command::new(program);
        command.args(arguments).arg("-p").arg(port.to_string());
        command
    };
    let mut server = Server::start(&mut command(), port);
    let client = Run::of(command().arg(ADDRESS)).expect(0);
    assert!(server.0.wait().unwrap().success(), "the server of {program}");
    client.stdout
}

#[test]
fn the_device_is_there_and_active() {
    if !in_lab() {
        return;
    }
    let state = fs::read_to_string("/sys/class/infiniband/rxe0/ports/1/state").unwrap();
    assert_eq!(state.trim(), "4: ACTIVE");
    let said = Run::of(Command::new("ibv_devinfo").args(["-v", "-d", "rxe0"])).expect(0).stdout;
    assert!(said.contains("max_sge:\t\t\t32"), "{said}");
}

#[test]
fn two_processes_exchange_messages() {
    if !in_lab() {
        return;
    }
    let said = pair("ibv_rc_pingpong", &["-d", "rxe0", "-g", "1", "-n", "200", "-c"], 18515);
    assert!(said.contains("200 iters in"), "{said}");
}

#[test]
fn one_process_writes_into_another() {
    if !in_lab() {
        return;
    }
    let arguments = ["-d", "rxe0", "-x", "1", "-F", "-s", "65536", "-n", "50"];
    let said = pair("ib_write_bw", &arguments, 18516);
    let is_row = |line: &&str| line.split_whitespace().take(2).eq(["65536", "50"]);
    assert!(said.lines().any(|line| is_row(&line)), "{said}");
}

/// The connection manager, and a copy that comes out as the original.
#[test]
fn a_file_is_copied_through_the_device() {
    if !in_lab() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    bookend_tests::data::random_file(&from, 300_000, 7).unwrap();
    // It serves until it is killed, at a port that no table of the kernel's shows.
    let server = Command::new("rcopy").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let _server = Server(server.unwrap());
    let target = format!("{ADDRESS}:{}", to.display());
    let copy = || Run::of(Command::new("rcopy").arg(&from).arg(&target));
    let mut last = copy();
    for _ in 0..50 {
        if last.status == Some(0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        last = copy();
    }
    last.expect(0);
    bookend_tests::data::assert_same(&from, &to);
}
