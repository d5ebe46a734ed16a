//! The end that was reached: `--remote-side`, which `ssh` starts, and `--serve`, which waits for whoever has
//! its key.

use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::door::{self, Awaited, Guest, Heard, Sessions};
use super::error::RemoteError;
use super::key;
use super::manifest::{Copied, Listing};
use super::options::{RemoteOptions, Transport};
use super::protocol::{Message, Onto, Request};
use super::receiver::{self, Receiver};
use super::root::Root;
use super::secure::{Cipher, SECRET_BYTES};
use super::sender::{self, Sender};
use super::session::Session;
use super::task::{self, Target, Task};
use super::transport::Lane;
use super::transport::congestion::Congestion;
use super::transport::rdma::{self, Fabric, Part, Upgrades};
use super::transport::tcp::{self, Manner, Preface};
use crate::cli::exit;
use crate::copy::engine::Progress;
use crate::copy::error::FileError;
use crate::copy::report::FileReport;
use crate::copy::tree::context::Talk;
use crate::copy::tree::directory::Shelf;
use crate::copy::tree::tally::Tally;

const TOOL: &str = "hugecp";
/// How the other end is called here.
const CLIENT: &str = "the client";
/// How long the lanes of a session may be awaited.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sessions of a server at once.
const SESSIONS_MAX: usize = 32;

/// What a session needs.
struct Opened<'s> {
    awaited: Awaited<'s>,
    secret: [u8; SECRET_BYTES],
    timeout: Duration,
    root: Root,
    /// Whether the client has instructions for AES.
    aes: bool,
    /// Whether there may be RDMA.
    transport: Transport,
    /// The address of this machine that the client reached.
    near: Option<IpAddr>,
}

/// `--remote-side`: one session, with whoever started this.
pub fn remote_side(options: &RemoteOptions) -> ExitCode {
    // What this end complains of, the other end is told; what is left goes to standard error.
    match one_session(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            exit::complain(TOOL, &format!("on the other machine: {error}"));
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn here(operation: &str) -> impl FnOnce(std::io::Error) -> RemoteError {
    let operation = operation.to_owned();
    move |cause| RemoteError::Here { operation, cause }
}

fn one_session(options: &RemoteOptions) -> Result<(), RemoteError> {
    let mut channel = Channel::standard().map_err(here("use standard input and output"))?;
    channel.greet()?;
    let until = Instant::now() + PATIENCE;
    channel.hear_greeting(until)?;
    let listener = door::listen(None, options.port.unwrap_or(0)).map_err(here("listen"))?;
    let port = listener.local_addr().map_err(here("find the port"))?.port();
    let (session, secret) = (key::random()?, key::random()?);
    let sessions = Arc::new(Sessions::default());
    let awaited = sessions.expect(session);
    attend(listener, &sessions)?;
    let addresses = own_address().into_iter().collect();
    channel.send(&Message::Offer { session, secret, port, addresses })?;
    while let Some((preface, stream)) = awaited.next(until) {
        if preface.lane != 0 {
            continue;
        }
        let timeout = options.timeout();
        let manner = Manner::talking(timeout, &Congestion::Auto);
        let near = stream.local_addr().ok().map(|address| address.ip());
        // Whoever does not know the secret is not whom this waits for.
        if let Ok(main) = tcp::accept(stream, &preface, &secret, &manner) {
            let (root, transport) = (Root::Free, options.transport);
            let aes = preface.cipher == Cipher::Aes256Gcm;
            return hold(main, Opened { awaited, secret, timeout, root, aes, transport, near });
        }
    }
    let why = format!("it did not connect to port {port} within {} s", PATIENCE.as_secs());
    Err(RemoteError::Handshake { host: CLIENT.to_owned(), why })
}

fn attend(listener: TcpListener, sessions: &Arc<Sessions>) -> Result<(), RemoteError> {
    let sessions = Arc::clone(sessions);
    let attend = move || door::attend(&listener, &sessions, None);
    let started = std::thread::Builder::new().name("door".into()).spawn(attend);
    started.map(drop).map_err(here("start a thread"))
}

/// The address that the client reached this machine at, as the ssh server tells.
fn own_address() -> Option<String> {
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    connection.split_whitespace().nth(2).map(str::to_owned)
}

/// `--serve`: sessions with those who have the key, until it is ended.
pub fn serve(options: &RemoteOptions) -> ExitCode {
    match serve_all(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::fail(TOOL, &error, exit::FAILURE),
    }
}

fn serve_all(options: &RemoteOptions) -> Result<(), RemoteError> {
    let file = options.key_file.as_deref().unwrap_or(std::path::Path::new("")); // clap has asked for it
    let secret = key::from_file(file)?;
    let root = options.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let root = root.canonicalize().map_err(here(&format!("serve {}", root.display())))?;
    Root::beneath(&root).map_err(here(&format!("serve {}", root.display())))?;
    let (address, port) = options.address()?;
    let listener = door::listen(address.as_deref(), port)
        .map_err(here(&format!("listen at {}", options.serve.as_deref().unwrap_or_default())))?;
    let bound = listener.local_addr().map_err(here("find the port"))?;
    exit::complain(TOOL, &format!("serving {} at {bound}", root.display()));
    let sessions = Arc::new(Sessions::default());
    let (theirs, count) = (Arc::clone(&sessions), AtomicUsize::new(0));
    let (timeout, transport) = (options.timeout(), options.transport);
    let begin = move |guest: Guest, heard: Heard| {
        let from = guest.1.peer_addr().map_or_else(|_| "?".to_owned(), |a| a.to_string());
        let main = invited(guest, &secret, timeout);
        drop(heard);
        let served = main.and_then(|invited| {
            let full = count.fetch_add(1, Ordering::Relaxed) >= SESSIONS_MAX;
            let served = match full {
                false => serve_one(invited, &theirs, (timeout, transport), &root),
                true => send_away(invited),
            };
            count.fetch_sub(1, Ordering::Relaxed);
            served
        });
        if let Err(error) = served {
            exit::complain(TOOL, &format!("{from}: {error}"));
        }
    };
    door::attend(&listener, &sessions, Some(Arc::new(begin)));
    Ok(())
}

/// A guest who knows the key.
struct Invited {
    main: Lane<'static>,
    preface: Preface,
    /// The address of this machine that was reached.
    near: Option<IpAddr>,
}

fn invited(
    (preface, stream): Guest,
    key: &[u8; SECRET_BYTES],
    timeout: Duration,
) -> Result<Invited, RemoteError> {
    let near = stream.local_addr().ok().map(|address| address.ip());
    let manner = Manner::talking(timeout, &Congestion::Auto);
    let main = tcp::accept(stream, &preface, key, &manner)
        .map_err(|error| super::client::open_error(CLIENT, timeout, error))?;
    Ok(Invited { main, preface, near })
}

/// There are as many sessions as there may be.
fn send_away(Invited { mut main, .. }: Invited) -> Result<(), RemoteError> {
    let why = format!("it has {SESSIONS_MAX} copies under way, and takes no more: try again later");
    let refused = main.sink.send(&Message::Refuse { why: why.clone() });
    let refused = refused.and_then(|()| main.sink.flush());
    refused.map_err(|cause| RemoteError::write(CLIENT, &cause))?;
    Err(RemoteError::Refused { host: CLIENT.to_owned(), why })
}

fn serve_one(
    Invited { mut main, preface, near }: Invited,
    sessions: &Sessions,
    (timeout, transport): (Duration, Transport),
    root: &std::path::Path,
) -> Result<(), RemoteError> {
    let root = Root::beneath(root).map_err(here("open the root"))?;
    let (session, secret) = (key::random()?, key::random()?);
    let awaited = sessions.expect(session);
    let offer = Message::Offer { session, secret, port: 0, addresses: Vec::new() };
    main.sink
        .send(&offer)
        .and_then(|()| main.sink.flush())
        .map_err(|cause| RemoteError::write(CLIENT, &cause))?;
    let aes = preface.cipher == Cipher::Aes256Gcm;
    hold(main, Opened { awaited, secret, timeout, root, aes, transport, near })
}

/// Holds a session, from its main lane on.
fn hold(mut main: Lane<'_>, opened: Opened<'_>) -> Result<(), RemoteError> {
    let timeout = opened.timeout;
    let until = Instant::now() + PATIENCE;
    let request = loop {
        if Instant::now() > until {
            let why = format!("it asked for nothing within {} s", PATIENCE.as_secs());
            return Err(RemoteError::Handshake { host: CLIENT.to_owned(), why });
        }
        let message = main.feed.receive();
        match message.map_err(|error| RemoteError::read(CLIENT, error, timeout))? {
            Message::Alive {} => {}
            Message::Ask { request } => break request,
            _ => {
                let what = "it does not say what it wants".to_owned();
                return Err(RemoteError::Protocol { host: CLIENT.to_owned(), what });
            }
        }
    };
    let task = Task::of(&request).and_then(|task| match request.push {
        true => Ok(task),
        false => task.congestion.check().map(|()| task).map_err(|error| error.to_string()),
    });
    let answer = match &task {
        Ok(_) => Message::Accept {},
        Err(why) => Message::Refuse { why: why.clone() },
    };
    let sent = main.sink.send(&answer).and_then(|()| main.sink.flush());
    sent.map_err(|cause| RemoteError::write(CLIENT, &cause))?;
    let Ok(task) = task else { return Ok(()) };
    let arena = tcp::arena(task.lanes)
        .map_err(|error| super::client::open_error(CLIENT, timeout, error))?;
    let congestion = if request.push { task.congestion.of_receiver() } else { &task.congestion };
    let manner = Manner { buffers: Some(&arena), plain: task.plain, congestion, timeout: None };
    let fabric = fabric(&opened, &task);
    let part = if request.push { Part::Receives } else { Part::Sends };
    let fabric = fabric.as_ref().map_err(String::as_str);
    let mut upgrades = task.rdma.then(|| Upgrades::new(fabric, part, timeout));
    let lanes = data_lanes(&opened, task.lanes, &manner, &mut upgrades)?;
    drop(opened.awaited);
    Shelf::new(); // raises the limit of descriptors
    let progress = Arc::new(Progress::default());
    let session = Session::new(CLIENT.to_owned(), timeout, opened.aes, progress, main.sink);
    session.add(main.closer);
    let talk = Far(&session);
    let tally = Tally::default();
    let over = if request.push {
        let target = Target {
            path: task::path(&request.destination).to_owned(),
            onto: Onto::of(request.onto).unwrap_or(Onto::Into), // it was looked at when it came
        };
        let operands = received(&request)?;
        let listing: &dyn Listing = &talk;
        Receiver::new(&session, &task, &opened.root, &talk, &tally, &operands)
            .with_listing(task.sums.then_some(listing))
            .run(&target, &operands, main.feed, lanes)
    } else {
        let operand = |text| {
            let path = task::path(text).to_owned();
            sender::Operand { shown: path.clone(), path, names: None }
        };
        let operands: Vec<_> = request.operands.iter().map(operand).collect();
        Sender::new(&session, &task, &opened.root, &talk, &tally).run(&operands, main.feed, lanes)
    };
    match (over, session.failure()) {
        (Ok(_), _) | (Err(_), None) => Ok(()),
        (Err(_), Some(error)) => Err(error),
    }
}

/// The operands that the client will send, by names that are good.
fn received(request: &Request) -> Result<Vec<receiver::Operand>, RemoteError> {
    let operand = |text: &super::protocol::PathText| {
        let good = text.0 == b"." || super::protocol::Name::new(&text.0).is_ok();
        let shown = PathBuf::from(task::path(text));
        good.then(|| receiver::Operand { name: text.0.clone(), shown })
    };
    let operands: Option<Vec<_>> = request.operands.iter().map(operand).collect();
    operands.ok_or_else(|| RemoteError::Protocol {
        host: CLIENT.to_owned(),
        what: "it names an operand that would lead out of the target".to_owned(),
    })
}

/// This end's devices, if the client wants RDMA; or why it cannot have it.
fn fabric(opened: &Opened<'_>, task: &Task) -> Result<Fabric, String> {
    if !task.rdma {
        return Err(String::new()); // nobody asks
    }
    if opened.transport == Transport::Tcp {
        return Err("there is to be no RDMA (--transport tcp)".to_owned());
    }
    if task.lanes > rdma::LANES_MAX {
        return Err(format!("{} lanes are wanted, and {} can be", task.lanes, rdma::LANES_MAX));
    }
    Fabric::open(opened.near, task.lanes)
}

/// Waits for the lanes that carry pieces.
fn data_lanes<'a>(
    opened: &Opened<'_>,
    count: u32,
    manner: &Manner<'a>,
    upgrades: &mut Option<Upgrades<'_>>,
) -> Result<Vec<Lane<'a>>, RemoteError> {
    let until = Instant::now() + PATIENCE;
    let mut lanes = Vec::new();
    let mut taken = [false; 256];
    taken[0] = true;
    while lanes.len() < count as usize {
        let Some((preface, stream)) = opened.awaited.next(until) else {
            let why = format!("only {} of {count} lanes came", lanes.len());
            return Err(RemoteError::Handshake { host: CLIENT.to_owned(), why });
        };
        let number = usize::from(preface.lane);
        if taken[number] || number > count as usize {
            continue;
        }
        match tcp::accept(stream, &preface, &opened.secret, manner) {
            Ok(lane) => {
                taken[number] = true;
                let lane = match upgrades {
                    Some(upgrades) => upgrades.lane(lane),
                    None => Ok(lane),
                };
                let lost = |error| RemoteError::read(CLIENT, error, rdma::AGREE);
                lanes.push(lane.map_err(lost)?);
            }
            Err(tcp::OpenError::Memory(why)) => {
                let cause = std::io::Error::other(why);
                return Err(here("get buffers")(cause));
            }
            Err(_) => {} // it does not know the secret
        }
    }
    Ok(lanes)
}

/// Tells the client what its user is to know.
struct Far<'s, 'a>(&'s Session<'a>);

impl Talk for Far<'_, '_> {
    fn copying(&self, _: &std::path::Path, _: &std::path::Path) {}

    fn failed(&self, error: &FileError) {
        let text = shortened(&error.to_string());
        let _ = self.0.send_now(&Message::Trouble { text }); // where it fails, it is over
    }

    fn differs(&self, words: &str) {
        let _ = self.0.send(&Message::Differs { text: shortened(words) });
    }

    fn remark(&self, _: &str) {}

    fn explain(&self, _: &FileReport) {}
}

impl Listing for Far<'_, '_> {
    fn copied(&self, Copied { operand, into, way, hash }: Copied) -> bool {
        let _ = self.0.send(&Message::Copied { operand, into, way, hash }); // where it fails, it is over
        true
    }
}

/// As much of `text` as goes into a message.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 4096;
    text.chars().take(LONGEST).collect()
}
