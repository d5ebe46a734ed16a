//! Where lanes come in: connections are heard on threads of their own, so that one that says nothing
//! keeps no other waiting, and handed to the session that they are for.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::session::lock;
use super::transport::congestion;
use super::transport::tcp::{self, Preface, Secret};

/// Connections that are being heard, until they have shown that they know a secret.
const GREETED_MAX: usize = 256;
/// And those of them that come from one address, or network of IPv6: whoever says nothing keeps others from being heard no longer.
const GREETED_OF_ONE: usize = 64;
/// How long a connection may take to say what it is for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that wait for a session to take them.
const WAITING_MAX: usize = 80;

/// A connection, and what it says it is for.
pub type Guest = (Preface, TcpStream);

/// The connections that are being heard, by where they come from.
#[derive(Debug, Default)]
struct Door(Mutex<HashMap<IpAddr, usize>>);

/// One of them.
#[derive(Debug)]
pub struct Heard {
    door: Arc<Door>,
    from: IpAddr,
}

impl Heard {
    /// One more from that address, if there is room.
    fn one_more(door: &Arc<Door>, from: IpAddr) -> Option<Self> {
        let from = network(from);
        let mut heard = lock(&door.0);
        if heard.values().sum::<usize>() >= GREETED_MAX {
            return None;
        }
        let of_one = heard.entry(from).or_default();
        if *of_one >= GREETED_OF_ONE {
            return None;
        }
        *of_one += 1;
        Some(Self { door: Arc::clone(door), from })
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let mut heard = lock(&self.door.0);
        let Some(of_one) = heard.get_mut(&self.from) else { return };
        *of_one -= 1;
        if *of_one == 0 {
            heard.remove(&self.from);
        }
    }
}

/// What is one's own: an address of IPv4, and of IPv6 the half that a network gives, since the other is for its machine to
/// choose (RFC 4291, 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// What begins a session with a guest, who is being heard until he has shown that he knows the secret.
pub type Begin = dyn Fn(Guest, Heard) + Send + Sync;

/// The sessions that lanes are awaited for.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<[u8; 16], SyncSender<Guest>>>);

/// What waits for the lanes of one session.
#[derive(Debug)]
pub struct Awaited<'a> {
    sessions: &'a Sessions,
    session: [u8; 16],
    guests: Receiver<Guest>,
}

impl Sessions {
    /// Waits for lanes of `session` from now on.
    pub fn expect(&self, session: [u8; 16]) -> Awaited<'_> {
        let (to, guests) = sync_channel(WAITING_MAX);
        lock(&self.0).insert(session, to);
        Awaited { sessions: self, session, guests }
    }

    /// Hands `guest` to its session; nobody knows those that have none.
    fn hand(&self, guest: Guest) {
        let to = lock(&self.0).get(&guest.0.session).cloned();
        if let Some(to) = to {
            let _ = to.try_send(guest); // too many are sent away
        }
    }
}

impl Awaited<'_> {
    /// The next connection that says it is for this session, before `until`.
    pub fn next(&self, until: Instant) -> Option<Guest> {
        self.guests.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        lock(&self.sessions.0).remove(&self.session);
    }
}

/// Listens at `address`; at every address of this machine where none is given.
///
/// # Errors
/// What the system says.
pub fn listen(address: Option<&str>, port: u16) -> io::Result<TcpListener> {
    let listener = match address {
        Some(address) => TcpListener::bind((address, port)),
        // Where there is no IPv6, there is IPv4.
        None => TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))),
    }?;
    congestion::listen(&listener);
    Ok(listener)
}

/// Hears connections for ever; those that begin a session go to `begin`, on a thread of their own.
pub fn attend(listener: &TcpListener, sessions: &Arc<Sessions>, begin: Option<Arc<Begin>>) {
    let door = Arc::new(Door::default());
    loop {
        let (mut stream, from) = match listener.accept() {
            Ok((stream, from)) => (stream, from.ip()),
            Err(_) => {
                // Out of descriptors, or the like: some may be free soon.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(heard) = Heard::one_more(&door, from) else { continue }; // closed
        let (sessions, begin) = (Arc::clone(sessions), begin.clone());
        let started = std::thread::Builder::new().name("greet".into()).spawn(move || {
            let preface = tcp::greet(&mut stream, PATIENCE);
            match (preface, begin) {
                (Ok(preface @ Preface { secret: Secret::Session, .. }), _) => {
                    sessions.hand((preface, stream));
                }
                (Ok(preface), Some(begin)) => begin((preface, stream), heard),
                _ => {} // it is for nothing here
            }
        });
        drop(started); // where there is no thread for it, it is closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_one_network_however_many_addresses() {
        let network = |address: &str| super::network(address.parse().unwrap());
        assert_eq!(network("2001:db8::1:2"), network("2001:db8::3:4:5"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("::ffff:192.0.2.1"), network("::ffff:192.0.2.2"));
    }

    #[test]
    fn one_address_does_not_keep_out_others() {
        let door = Arc::new(Door::default());
        let from = |last: u8| IpAddr::from([192, 0, 2, last]);
        let mut heard: Vec<Heard> =
            std::iter::from_fn(|| Heard::one_more(&door, from(1))).take(1000).collect();
        assert_eq!(heard.len(), GREETED_OF_ONE);
        for last in 2..=4 {
            heard.extend(std::iter::from_fn(|| Heard::one_more(&door, from(last))).take(1000));
        }
        assert_eq!(heard.len(), GREETED_MAX);
        assert!(Heard::one_more(&door, from(5)).is_none());
        heard.remove(0);
        assert!(Heard::one_more(&door, from(5)).is_some_and(|one| one.from == from(5)));
        heard.clear();
        assert!(lock(&door.0).is_empty());
    }
}
