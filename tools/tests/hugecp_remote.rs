//! `hugecp` between two machines, of which both are this one: `--rsh` runs the other end here, and
//! `--serve` listens at the loopback.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::remote::{Server, command, key, machines, run, script, there};
use common::{Dir, Ran, bytes, wait_until};

#[test]
fn files_go_there_and_come_back() {
    let dir = machines();
    let data = bytes(5 << 20 | 12_345);
    dir.file("big", &data);
    dir.file("small", "a few bytes");
    dir.file("empty", "");
    fs::create_dir(dir.join("out")).unwrap();
    for options in [
        "",
        "--plain",
        "--streams 5",
        "--plain --streams 1 --block-size 64K",
        "--verify",
        "--fsync",
    ] {
        let to = there(&dir, "out");
        run(&dir, &format!("{options} big small empty {to}")).ok();
        assert!(dir.read("out/big") == data, "{options}");
        assert_eq!(dir.read("out/small"), b"a few bytes", "{options}");
        assert_eq!(dir.read("out/empty"), b"", "{options}");
        let from = there(&dir, "out/big");
        run(&dir, &format!("{options} {from} back")).ok();
        assert!(dir.read("back") == data, "{options}");
        for name in ["out/big", "out/small", "out/empty", "back"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}

#[test]
fn the_end_tells_how_it_went() {
    let dir = machines();
    dir.file("a", bytes(1 << 20));
    let ran = run(&dir, &format!("--explain -v a {}", there(&dir, "b"))).ok();
    assert!(ran.out().contains("over TCP to "), "{}", ran.out());
    assert!(ran.out().contains("encrypted ("), "{}", ran.out());
    assert!(ran.out().contains("1 files, 1 MiB"), "{}", ran.out());
    let ran = run(&dir, &format!("--explain --plain a {}", there(&dir, "b"))).ok();
    assert!(ran.out().contains("can be read on their way"), "{}", ran.out());
    let ran = run(&dir, &format!("--json a {}", there(&dir, "b"))).ok();
    assert!(ran.out().contains("\"bytes\":1048576"), "{}", ran.out());
}

/// A tree with one of everything.
fn tree(dir: &Dir, name: &str) {
    let top = dir.join(name);
    fs::create_dir_all(top.join("a/b/c/empty")).unwrap();
    fs::write(top.join("a/f"), "f").unwrap();
    fs::hard_link(top.join("a/f"), top.join("a/b/g")).unwrap();
    fs::write(top.join("a/big"), bytes(3 << 20)).unwrap();
    fs::hard_link(top.join("a/big"), top.join("big too")).unwrap();
    for number in 0..300 {
        fs::write(top.join(format!("a/b/{number}")), bytes(number * 7)).unwrap();
    }
    let odd = std::ffi::OsStr::from_bytes(b"\xff\n odd");
    fs::write(top.join(odd), "odd").unwrap();
    symlink("nowhere/..", top.join("link")).unwrap();
    nix::unistd::mkfifo(&top.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(&bytes(100_000), 9_000_000).unwrap();
    fs::set_permissions(top.join("a/b/7"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(top.join("a/b/c"), fs::Permissions::from_mode(0o510)).unwrap();
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    for old in ["a/b", "a/f", "sparse"] {
        File::open(top.join(old)).unwrap().set_modified(then).unwrap();
    }
    let _ = xattr::set(top.join("a/f"), "user.colour", b"green"); // where there are any
}

/// What an independent tool finds to do; it must be nothing.
fn assert_same(dir: &Dir, one: &str, two: &str) {
    let (one, two) = (format!("{one}/"), format!("{two}/"));
    let line = ["-aHAXn", "--itemize-changes", "--checksum", "--delete", &one, &two];
    match dir.command("rsync", line).output() {
        Ok(out) if out.status.success() => {
            assert_eq!(String::from_utf8_lossy(&out.stdout), "", "{one} {two}");
        }
        Ok(out) => panic!("rsync: {out:?}"),
        Err(error) => {
            println!("skipped: trees compared by rsync: {error}");
            dir.run(&format!("-a --check {one} {two}")).ok();
        }
    }
}

#[test]
fn a_tree_is_the_same_there() {
    let dir = machines();
    tree(&dir, "tree");
    run(&dir, &format!("-a tree {}", there(&dir, "pushed"))).ok();
    assert_same(&dir, "tree", "pushed");
    let blocks = fs::metadata(dir.join("pushed/sparse")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks of a file with a hole");
    run(&dir, &format!("-a {} pulled", there(&dir, "tree"))).ok();
    assert_same(&dir, "tree", "pulled");
    // Once more into what is there, and with what is in it only.
    run(&dir, &format!("-a tree/. {}", there(&dir, "pulled"))).ok();
    run(&dir, &format!("-a --resume --verify tree/. {}", there(&dir, "pushed"))).ok();
    assert_same(&dir, "tree", "pulled");
    assert_same(&dir, "tree", "pushed");
    run(&dir, &format!("-a --exclude /a --exclude big* tree {}", there(&dir, "part"))).ok();
    assert!(!dir.join("part/a").exists() && !dir.join("part/big too").exists());
    assert!(dir.join("part/fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(dir.names(), ["part", "pulled", "pushed", "rsh", "tree"]);
}

#[test]
fn what_the_source_does_not_have_is_removed_there() {
    let mut seen = Vec::new();
    for way in ["here", "push", "pull"] {
        let dir = machines();
        tree(&dir, "tree");
        tree(&dir, "copy");
        for name in ["copy/extra/deep/er", "copy/a/d/gone", "outside"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        // What a run that was killed left of a file that is copied now, and of one that is no more, too.
        for name in ["copy/extra/f", "copy/a/kept.o", "copy/.gone.hugecp-part", "outside/kept"] {
            dir.file(name, "x");
        }
        symlink("../outside", dir.join("copy/to-outside")).unwrap();
        let (source, target) = match way {
            "here" => ("tree".to_owned(), "copy".to_owned()),
            "push" => ("tree".to_owned(), there(&dir, "copy")),
            _ => (there(&dir, "tree"), "copy".to_owned()),
        };
        let line = format!("-aT --json --delete --exclude *.o {source} {target}");
        let report = run(&dir, &line).ok().out();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(dir.join("outside/kept").exists() && dir.join("copy/a/kept.o").exists());
        let left = dir.command("find", ["copy", "-printf", "%P %y %s\n"]).output().unwrap();
        let mut left: Vec<_> =
            String::from_utf8_lossy(&left.stdout).lines().map(str::to_owned).collect();
        left.sort();
        seen.push((report["deleted"].clone(), left));
    }
    assert_eq!(seen[0].0, 8, "each name counts: {seen:?}");
    assert!(seen[0] == seen[1] && seen[0] == seen[2], "{seen:?}");
}

#[test]
fn nothing_is_removed_where_the_source_could_not_be_read_whole() {
    for way in ["here", "push", "pull"] {
        let dir = machines();
        for name in ["tree/whole/f", "tree/part/f", "copy/whole/extra", "copy/part/extra"] {
            dir.file(name, "x");
        }
        symlink(".", dir.join("tree/part/loop")).unwrap();
        let (source, target) = match way {
            "here" => ("tree".to_owned(), "copy".to_owned()),
            "push" => ("tree".to_owned(), there(&dir, "copy")),
            _ => (there(&dir, "tree"), "copy".to_owned()),
        };
        run(&dir, &format!("-rLT --delete {source} {target}")).fails(1, &["loop"]);
        assert!(dir.join("copy/part/f").exists() && dir.join("copy/whole/f").exists(), "{way}");
        assert!(dir.join("copy/part/extra").exists(), "{way}: what may be in the source is gone");
        assert!(!dir.join("copy/whole/extra").exists(), "{way}");
    }
}

#[test]
fn operands_go_where_cp_puts_them() {
    let dir = machines();
    dir.file("a", "a");
    fs::create_dir_all(dir.join("d/e")).unwrap();
    dir.file("d/e/f", "f");
    fs::create_dir(dir.join("into")).unwrap();
    run(&dir, &format!("a {}", there(&dir, "into"))).ok();
    run(&dir, &format!("-T a {}", there(&dir, "into/b"))).ok();
    run(&dir, &format!("-r d {}", there(&dir, "into"))).ok();
    run(&dir, &format!("-r d/e a {}", there(&dir, "into"))).ok();
    run(&dir, &format!("-r {} {} into/d", there(&dir, "d/e/"), there(&dir, "a"))).ok();
    for (name, content) in [("a", "a"), ("b", "a"), ("d/e/f", "f"), ("e/f", "f"), ("d/a", "a")] {
        assert_eq!(dir.read(&format!("into/{name}")), content.as_bytes(), "{name}");
    }
    run(&dir, &format!("d {}", there(&dir, "x"))).fails(1, &["is a directory", "-r copies"]);
    run(&dir, &format!("none {}", there(&dir, "x"))).fails(1, &["'none'", "No such file"]);
    run(&dir, &format!("{} x", there(&dir, "none"))).fails(1, &["localhost: cannot find", "none'"]);
    run(&dir, &format!("a {}", there(&dir, "no/x")))
        .fails(1, &["no' does not exist", "localhost: "]);
    run(&dir, &format!("-t {} a", there(&dir, "a"))).fails(1, &["is not a directory"]);
    // One that fails does not stop the rest.
    run(&dir, &format!("none a d {}", there(&dir, "into"))).fails(1, &["2 could not be copied"]);
    assert_eq!(dir.names(), ["a", "d", "into", "rsh"]);
}

/// A copy of a big file at a rate that leaves time to disturb it, also to a test that is held up:
/// what lies in the sockets' buffers, some MiB, still arrives after the end of who sent it.
fn slow(dir: &Dir, more: &str, from: &str, to: &str) -> Child {
    let line = format!("--block-size 256K --bwlimit 8M {more} {from} {to}");
    let mut command = command(dir, "./rsh", &line);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn journal_records(dir: &Dir, name: &str) -> u64 {
    use bookend_tools::copy::journal::{HEADER_BYTES, RECORD_BYTES};
    let len =
        fs::metadata(dir.join(format!(".{name}.hugecp-journal"))).map_or(0, |found| found.len());
    len.saturating_sub(HEADER_BYTES as u64) / RECORD_BYTES as u64
}

fn wait_for_pieces(dir: &Dir, name: &str, pieces: u64) {
    wait_until("some pieces", || journal_records(dir, name) >= pieces);
}

#[test]
fn a_killed_copy_goes_on_from_what_arrived() {
    let dir = machines();
    let data = bytes(24 << 20);
    dir.file("a", &data);
    // The other end's process writes its number, so that it can be killed too.
    script(&dir, "rsh", "shift\necho $$ > pid\nexec \"$@\"");
    let other_end = || fs::read_to_string(dir.join("pid")).unwrap().trim().parse::<i32>().unwrap();
    let kill = |pid: i32| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
    };
    let (push, pull) =
        ((String::from("a"), there(&dir, "b")), (there(&dir, "a"), String::from("b")));
    for ((from, to), kill_other) in [(&push, false), (&push, true), (&pull, false), (&pull, true)] {
        let mut child = slow(&dir, "", from, to);
        wait_for_pieces(&dir, "b", 12);
        if kill_other {
            kill(other_end());
            let ran = Ran(child.wait_with_output().unwrap());
            ran.fails(1, &["lost the connection to localhost", "start the same command again"]);
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(!dir.join("b").exists(), "nothing half-written under its name");
        // The other end may not have noticed yet.
        wait_until("the end of the other end", || {
            let journal = File::open(dir.join(".b.hugecp-journal")).unwrap();
            journal.try_lock().is_ok()
        });
        let arrived = journal_records(&dir, "b") * (256 << 10);
        assert!(arrived >= 12 * (256 << 10) && arrived < data.len() as u64);
        let ran = run(&dir, &format!("--json --block-size 256K {from} {to}")).ok();
        let resumed = ran.out().split("\"resumed\":").nth(1).and_then(|rest| {
            rest.split([',', '}']).next().and_then(|number| number.parse::<u64>().ok())
        });
        // The last pieces may be claimed and not be there.
        let resumed = resumed.unwrap_or_else(|| panic!("{}", ran.out()));
        assert!(resumed <= arrived && resumed + (1 << 20) >= arrived, "{resumed} of {arrived}");
        assert!(dir.read("b") == data);
        assert!(!dir.join(".b.hugecp-journal").exists() && !dir.join(".b.hugecp-part").exists());
        fs::remove_file(dir.join("b")).unwrap();
    }
}

#[test]
fn a_source_that_changed_is_not_gone_on_with() {
    let dir = machines();
    let data = bytes(8 << 20);
    dir.file("a", &data);
    let to = there(&dir, "b");
    let mut child = slow(&dir, "", "a", &to);
    wait_for_pieces(&dir, "b", 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let other = bytes((8 << 20) + 77)[77..].to_vec();
    dir.file("a", &other);
    let ran = run(&dir, &format!("--json a {to}")).ok();
    assert!(!ran.out().contains("resumed"), "{}", ran.out());
    assert!(dir.read("b") == other);
    // One that changes while it is copied is told of, and leaves nothing.
    let child = slow(&dir, "", "a", &there(&dir, "c"));
    wait_for_pieces(&dir, "c", 5);
    File::options().write(true).open(dir.join("a")).unwrap().write_all_at(b"!", 0).unwrap();
    Ran(child.wait_with_output().unwrap()).fails(1, &["'a' changed while it was copied"]);
    assert_eq!(dir.names(), ["a", "b", "rsh"]);
}

#[test]
fn a_peer_that_hangs_is_given_up() {
    let dir = machines();
    dir.file("a", bytes(24 << 20));
    script(&dir, "rsh", "shift\necho $$ > pid\nexec \"$@\"");
    let child = slow(&dir, "--timeout 2", "a", &there(&dir, "b"));
    wait_for_pieces(&dir, "b", 8);
    let pid: i32 = fs::read_to_string(dir.join("pid")).unwrap().trim().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).unwrap();
    let since = Instant::now();
    let ran = Ran(child.wait_with_output().unwrap());
    let after = since.elapsed();
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL); // hugecp may have done so
    ran.fails(1, &["localhost has been silent for 2 s", "start the same command again"]);
    assert!(after < Duration::from_secs(20), "given up in bounded time: {after:?}");
    assert!(!dir.join("b").exists());
    // A program that never says anything is not waited for by us, but by its user.
    run(&dir, &format!("a {}", there(&dir, "b"))).ok();
}

#[test]
fn what_is_no_hugecp_is_told() {
    let dir = machines();
    dir.file("a", "a");
    let fails = |name: &str, body: &str, parts: &[&str]| {
        script(&dir, name, body);
        Ran(command(&dir, &format!("./{name}"), "a host:b").output().unwrap()).fails(1, parts);
    };
    fails(
        "banner",
        "echo 'Welcome to the machine!'; sleep 5",
        &["\"Welcome \"", "is not hugecp", "shell"],
    );
    fails("gone", "exit 127", &["./gone ended (exit status: 127)", "--remote-program"]);
    fails("quiet", "exec <&- >&-; sleep 0.1; exit 3", &["./quiet ended (exit status: 3)"]);
    // Another version: the greeting and a frame with version 258.
    let hello = r"printf 'hugecp\r\n\014\000\000\000\001\002\001\004\000\000\0009.10\000'; sleep 5";
    fails("other", hello, &["host speaks version 258", "(hugecp 9.10)", "install the same"]);
    fails(
        "rubbish",
        r"printf 'hugecp\r\n\377\377\377\377'; sleep 5",
        &["does not keep to the protocol"],
    );
    fails("noise", r"printf 'hugecp\r\n\002\000\000\000\377\377'; sleep 5", &["of no known kind"]);
    let ran = Ran(command(&dir, "./none", "a host:b").output().unwrap());
    ran.fails(1, &["cannot start ./none", "No such file"]);
    let ran = Ran(command(&dir, "./rsh", "a -oProxyCommand=x:b").output().unwrap());
    assert_eq!(ran.status(), 2, "{}", ran.err());
    dir.run("h:b i:c").fails(2, &["both ends"]);
}

#[test]
fn a_server_lets_in_whoever_has_its_key() {
    let dir = Dir::new();
    fs::create_dir(dir.join("root")).unwrap();
    tree(&dir, "tree");
    let server = Server::start(&dir, "root");
    server.run(&dir, "-a tree 127.0.0.1:/").ok();
    assert_same(&dir, "tree", "root/tree");
    server.run(&dir, "-a --plain 127.0.0.1:tree back").ok();
    assert_same(&dir, "tree", "back");
    // Several at once.
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (server, dir) = (&server, &dir);
            scope.spawn(move || {
                server.run(dir, &format!("-T tree/a/big 127.0.0.1:copy{number}")).ok();
            });
        }
    });
    for number in 0..6 {
        assert!(dir.read(&format!("root/copy{number}")) == dir.read("tree/a/big"));
    }
    // Another key, none, one that others may read, one too short.
    key(&dir, "other", &bytes(33));
    let with = |key: &str| {
        let port = server.port.to_string();
        let line = ["--port", &port, "--key-file", key, "tree/a/f", "127.0.0.1:f"];
        Ran(dir.hugecp(line).output().unwrap())
    };
    with("other").fails(1, &["127.0.0.1", "its key is another"]);
    with("none").fails(1, &["key file 'none'", "No such file"]);
    key(&dir, "short", b"too short");
    with("short").fails(1, &["32 to 4096 bytes", "/dev/urandom"]);
    fs::set_permissions(dir.join("other"), fs::Permissions::from_mode(0o644)).unwrap();
    with("other").fails(1, &["chmod 600"]);
    assert!(!dir.join("root/f").exists());
}

#[test]
fn nobody_gets_out_of_a_servers_root() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("root/in")).unwrap();
    dir.file("secret", "secret");
    dir.file("a", "a");
    for (link, to) in [("up", ".."), ("root", "/"), ("secret", "../secret"), ("in/up", "../..")] {
        symlink(to, dir.join(format!("root/{link}"))).unwrap();
    }
    let server = Server::start(&dir, "root");
    for from in ["../secret", "/../secret", "in/../../secret", "up/secret", "secret"] {
        server.run(&dir, &format!("-L 127.0.0.1:{from} stolen")).fails(1, &["127.0.0.1: "]);
        assert!(!dir.join("stolen").exists(), "{from}");
    }
    let absolute = dir.join("secret");
    server
        .run(&dir, &format!("127.0.0.1:{} stolen", absolute.display()))
        .fails(1, &["No such file"]);
    // Links in a tree are links, or not followed out of it.
    server.run(&dir, "-r 127.0.0.1:in out").ok();
    assert!(dir.join("out/up").is_symlink());
    server.run(&dir, "-r -L 127.0.0.1:in out2").fails(1, &["127.0.0.1: cannot find"]);
    assert!(!dir.join("out2/up").exists());
    for to in ["..", "../a2", "up/a2", "in/up/root", "/../a2", "root/tmp"] {
        server.run(&dir, &format!("a 127.0.0.1:{to}")).fails(1, &["127.0.0.1: "]);
    }
    // A link as the target itself is replaced.
    server.run(&dir, "-T a 127.0.0.1:secret").ok();
    assert_eq!(dir.read("secret"), b"secret");
    assert_eq!(dir.read("root/secret"), b"a");
    assert_eq!(dir.names(), ["a", "key", "out", "out2", "root", "secret"]);
}

#[test]
fn a_server_outlives_rubbish() {
    let dir = Dir::new();
    fs::create_dir(dir.join("root")).unwrap();
    dir.file("a", bytes(1 << 20));
    let server = Server::start(&dir, "root");
    let connect = || TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    let mut idle: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    for (number, rubbish) in
        [&b"GET / HTTP/1.0\r\n\r\n"[..], &bytes(100_000), b"hugecp", b""].into_iter().enumerate()
    {
        let mut stream = connect();
        // It may be gone already.
        let _ = stream.write_all(rubbish);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.len() < 100, "{number}: {said:?}");
    }
    // A good preface, and then rubbish instead of a handshake; another version is told ours.
    let mut preface = b"hugecp".to_vec();
    preface.extend(bookend_tools::remote::protocol::VERSION.to_le_bytes());
    preface.push(0);
    preface.extend([0; 18]);
    let mut stream = connect();
    stream.write_all(&preface).unwrap();
    stream.write_all(&bytes(1000)).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    preface[6] = 99;
    let mut stream = connect();
    stream.write_all(&preface).unwrap();
    let mut version = [0; 2];
    stream.read_exact(&mut version).unwrap();
    assert_eq!(u16::from_le_bytes(version), bookend_tools::remote::protocol::VERSION);
    server.run(&dir, "a 127.0.0.1:b").ok();
    assert!(dir.read("root/b") == dir.read("a"));
    idle.clear();
}

#[test]
fn a_server_of_another_version_is_told() {
    let dir = Dir::new();
    dir.file("a", "a");
    key(&dir, "key", &bytes(32));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        for answer in [&9_u16.to_le_bytes()[..], b"", &[1, 0, 0, 48, 1, 2, 3]] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 100]);
            stream.write_all(answer).unwrap();
        }
    });
    let run = || {
        let port = port.to_string();
        let line = ["--port", &port, "--key-file", "key", "a", "127.0.0.1:b"];
        Ran(dir.hugecp(line).output().unwrap())
    };
    run().fails(1, &["127.0.0.1 speaks version 9 of the protocol", "install the same"]);
    run().fails(1, &["127.0.0.1 ended the handshake"]);
    run().fails(1, &["127.0.0.1"]);
    server.join().unwrap();
    // Nobody is there any more.
    run().fails(1, &["cannot reach 127.0.0.1 at 127.0.0.1:", "refused", "--port"]);
}

#[test]
fn signals_end_it_and_leave_what_arrived() {
    let dir = machines();
    dir.file("a", bytes(64 << 20));
    let child = slow(&dir, "", "a", &there(&dir, "b"));
    wait_for_pieces(&dir, "b", 5);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGINT).unwrap();
    let ran = Ran(child.wait_with_output().unwrap());
    assert_eq!(ran.status(), 130, "{}", ran.err());
    assert!(!dir.join("b").exists() && dir.join(".b.hugecp-part").exists());
    run(&dir, &format!("a {}", there(&dir, "b"))).ok();
    assert!(Path::new(&dir.join("b")).exists());
}

#[test]
fn the_program_that_reaches_the_other_machine_ends_too() {
    let dir = machines();
    dir.file("a", bytes(100));
    // As `ssh` that asks for a password; the signals that it holds back.
    script(
        &dir,
        "ask",
        "grep SigBlk /proc/self/status > mask\necho $$ > pid.new\nmv pid.new pid\nexec sleep 600",
    );
    let line = format!("a {}", there(&dir, "b"));
    let mut copy = command(&dir, "./ask", &line).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the program", || dir.join("pid").exists());
    let mask = String::from_utf8(dir.read("mask")).unwrap();
    let held = u64::from_str_radix(mask.trim_start_matches("SigBlk:").trim(), 16).unwrap();
    use nix::sys::signal::Signal;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGXFSZ] {
        assert_eq!(held & (1 << (signal as i32 - 1)), 0, "{signal}: {mask}");
    }
    let pid = String::from_utf8(dir.read("pid")).unwrap();
    let copies = nix::unistd::Pid::from_raw(copy.id().try_into().unwrap());
    nix::sys::signal::kill(copies, Signal::SIGTERM).unwrap();
    let status = copy.wait().unwrap();
    assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32), "{status:?}");
    let stat = format!("/proc/{}/stat", pid.trim());
    // Whoever is to wait for it may not have.
    wait_until("its end", || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
}
