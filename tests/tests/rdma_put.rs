//! The example `rdma-put`: one process writes a range of its pool into another's, and the key is taken back
//! before the data is looked at. On the first RDMA device there is; in the lab that is rxe.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use bookend_registration::verbs::Device;
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{or_say, say};

/// The example beside this test's binary: `tests/lab/image.sh` and cargo build it with the tests.
fn example() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.parent().unwrap().parent().unwrap().join("examples/rdma-put")
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(example());
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("rdma-put starts")
}

fn said(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr];
    both.map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

fn put(port: u16, size: &str, flags: &[&str]) -> (String, String) {
    let address = format!("127.0.0.1:{port}");
    let run = |role: &str| start(&[&[role, address.as_str(), size], flags].concat());
    let (receiver, sender) = (run("receive"), run("send"));
    let (sent, received) =
        (sender.wait_with_output().unwrap(), receiver.wait_with_output().unwrap());
    let (sent_text, received_text) = (said(&sent), said(&received));
    assert!(sent.status.success() && received.status.success(), "{sent_text}\n{received_text}");
    println!("{sent_text}{received_text}");
    (sent_text, received_text)
}

#[test]
fn a_range_is_put_verified_and_its_key_taken_back_before() {
    if !example().exists() {
        return say("rdma-put is not built (cargo build -p bookend-registration --examples)");
    }
    if let Err(why) = Device::open(None) {
        return say(&why.to_string());
    }
    let lock = MachineLock::take();
    let _pages = or_say(HugePages::reserve(&lock, 2 << 20, None, 64));
    // Under emulation each byte counts: BOOKEND_PUT_SIZE for more.
    let size = std::env::var("BOOKEND_PUT_SIZE").unwrap_or_else(|_| "16M".to_owned());
    let (_, received) = put(17471, &size, &[]);
    assert!(received.contains("verified byte for byte"), "{received}");
    assert!(received.contains("before use"), "{received}");
    let (sent, received) = put(17472, "4M", &["--no-immediate"]);
    assert!(sent.contains("told by a message"), "{sent}");
    assert!(received.contains("verified"), "{received}");
    let (_, received) = put(17473, "4M", &["--no-window"]);
    assert!(received.contains("deregistered before use"), "{received}");
}

#[test]
fn bad_requests_are_told_what_is_wrong() {
    if !example().exists() {
        return say("rdma-put is not built (cargo build -p bookend-registration --examples)");
    }
    for (arguments, expected) in [
        (&[][..], "usage"),
        (&["take", "127.0.0.1:1", "1M"], "send or receive"),
        (&["send", "127.0.0.1:1", "lots"], "a size such as 4G"),
        (&["send", "127.0.0.1:1", "1M", "--fast"], "--fast: no such option"),
    ] {
        let output = start(arguments).wait_with_output().unwrap();
        assert!(!output.status.success() && said(&output).contains(expected), "{}", said(&output));
    }
}
