//! Agreeing on a ring where there is no device.

use std::net::{TcpListener, TcpStream};

use super::*;
use crate::remote::protocol::VERSION;
use crate::remote::secure::Cipher;
use crate::remote::transport::congestion::Congestion;
use crate::remote::transport::tcp::{self, Manner, Preface, Secret};

const PATIENCE: Duration = Duration::from_secs(10);

/// The two ends of a lane.
fn lanes() -> (Lane<'static>, Lane<'static>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let preface = Preface {
        version: VERSION,
        secret: Secret::Session,
        session: [1; 16],
        lane: 1,
        cipher: Cipher::ChaCha20Poly1305,
    };
    let manner = Manner::talking(PATIENCE, &Congestion::Auto);
    let other = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let preface = tcp::greet(&mut stream, PATIENCE).unwrap();
        tcp::accept(stream, &preface, &[2; 32], &manner).unwrap()
    });
    let stream = TcpStream::connect(address).unwrap();
    (tcp::open(stream, &preface, &[2; 32], PATIENCE, &manner).unwrap(), other.join().unwrap())
}

#[test]
fn without_devices_a_lane_goes_on_as_it_was() {
    let (one, other) = lanes();
    let end = |lane, part, why: &'static str| {
        let mut upgrades = Upgrades::new(Err(why), part, PATIENCE);
        let lane = upgrades.lane(lane).unwrap();
        assert_eq!(upgrades.ways.lanes(), 0);
        assert_eq!(upgrades.reason, Some(Reason::Here(why.to_owned())));
        // The next one is not even tried: nobody answers at its other end.
        let (next, _silent) = lanes();
        drop(upgrades.lane(next).unwrap());
        lane
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(move || end(one, Part::Sends, "none here"));
        let mut other = end(other, Part::Receives, "none there");
        say(&mut one.join().unwrap(), &Message::Leave { complete: true }).unwrap();
        assert_eq!(other.feed.receive().unwrap(), Message::Leave { complete: true });
    });
}

#[test]
fn an_end_is_told_why_the_other_one_cannot() {
    let (one, mut other) = lanes();
    say(&mut other, &Message::Refuse { why: "no\u{1b}".to_owned() }).unwrap();
    let mut upgrades = Upgrades::new(Err("none here"), Part::Sends, PATIENCE);
    drop(upgrades.lane(one).unwrap());
    let Ok(Message::Refuse { why }) = other.feed.receive() else { panic!("no refusal") };
    assert_eq!(why, "none here");
}

#[test]
fn a_lane_that_ends_meanwhile_is_an_error() {
    let (one, other) = lanes();
    other.closer.close();
    drop(other);
    let mut upgrades = Upgrades::new(Err("none"), Part::Receives, PATIENCE);
    assert!(upgrades.lane(one).is_err());
    assert_eq!(upgrades.reason, None, "that is no reason for TCP");
}
