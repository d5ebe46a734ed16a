//! Where lanes come in: connections are heard on threads of their own, so that one that says nothing
//! keeps no other waiting, and handed to the session that they are for.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::session::lock;
use super::transport::congestion;
use super::transport::tcp::{self, Preface, Secret};

/// Connections that are being heard.
const GREETED_MAX: usize = 64;
/// How long a connection may take to say what it is for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that wait for a session to take them.
const WAITING_MAX: usize = 80;

/// A connection, and what it says it is for.
pub type Guest = (Preface, TcpStream);

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
pub fn attend(
    listener: &TcpListener,
    sessions: &Arc<Sessions>,
    begin: Option<Arc<dyn Fn(Guest) + Send + Sync>>,
) {
    let greeted = Arc::new(AtomicUsize::new(0));
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, or the like: some may be free soon.
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if greeted.fetch_add(1, Ordering::Relaxed) >= GREETED_MAX {
            greeted.fetch_sub(1, Ordering::Relaxed);
            continue; // closed
        }
        let (sessions, begin, hearing) =
            (Arc::clone(sessions), begin.clone(), Arc::clone(&greeted));
        let started = std::thread::Builder::new().name("greet".into()).spawn(move || {
            let preface = tcp::greet(&mut stream, PATIENCE);
            hearing.fetch_sub(1, Ordering::Relaxed);
            match (preface, begin) {
                (Ok(preface @ Preface { secret: Secret::Session, .. }), _) => {
                    sessions.hand((preface, stream));
                }
                (Ok(preface), Some(begin)) => begin((preface, stream)),
                _ => {} // it is for nothing here
            }
        });
        if started.is_err() {
            greeted.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
