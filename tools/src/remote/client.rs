//! The end that the user is at: it reaches the other machine, says what is wanted, and sends or receives.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::carried::Carried;
use super::channel::{Channel, Program};
use super::error::{RemoteError, printable};
use super::key;
use super::lists::{List, Lists};
use super::manifest::{self, Listing};
use super::options::Transport;
use super::path::{Path, Streams};
use super::protocol::{Counts, Message, Naming};
use super::receiver::{self, Receiver};
use super::request::{Direction, Wanted};
use super::root::Root;
use super::secure::{Cipher, HandshakeError, ReadError, SECRET_BYTES};
use super::sender::{self, Sender};
use super::session::{Over, Session};
use super::task::{self, Task};
use super::transport::congestion::Congestion;
use super::transport::rdma::{self, Fabric, Part, Upgrades};
use super::transport::tcp::{self, Manner, OpenError, Preface, Secret};
use super::transport::{Feed, Lane};
use crate::copy::engine::Progress;
use crate::copy::manifest_file::{self, Here};
use crate::copy::resolve;
use crate::copy::run_trees;
use crate::copy::sum::has_aes;
use crate::copy::tree::context::Talk;
use crate::copy::tree::directory::Shelf;
use crate::copy::tree::tally::{Tally, Totals};

/// The port of a server, where none is said.
pub const PORT: u16 = 4987;
/// How long a user may take to answer what `ssh` asks.
const LOGIN: Duration = Duration::from_secs(120);
/// How long one address may take to answer.
const CONNECT: Duration = Duration::from_secs(10);

/// Copies what `wanted` says.
pub fn copy(wanted: &Wanted) -> ExitCode {
    let ahead = match wanted.direction {
        Direction::Push => Some(&wanted.task.wishes),
        Direction::Pull => None,
    };
    run_trees::run(
        &wanted.request,
        |monitor| run_trees::look_ahead(&wanted.request, ahead, monitor),
        |progress, voice| run(wanted, progress, voice, &|line| voice.tell(line)),
    )
}

/// What is known of the other end before there are lanes.
struct Reached {
    /// Kept as long as the copy lasts.
    _program: Option<Program>,
    stream: TcpStream,
    address: SocketAddr,
    preface: Preface,
    secret: [u8; SECRET_BYTES],
}

/// Copies or compares; tells `talk` what happens, and `explain` how.
///
/// # Errors
/// [`RemoteError`] where it did not come to its end.
pub(super) fn run(
    wanted: &Wanted,
    progress: Arc<Progress>,
    talk: &dyn Talk,
    explain: &dyn Fn(&str),
) -> Result<Totals, RemoteError> {
    let host = wanted.host.as_str();
    let timeout = wanted.timeout;
    let failed = |error| open_error(host, timeout, error);
    let here = match wanted.direction {
        Direction::Push => Here::Sources,
        Direction::Pull => Here::Target,
    };
    manifest_file::check_apart(&wanted.request, here)?;
    let Lists { lists, failures, twice } = Lists::of(wanted)?;
    let congestion = match wanted.direction {
        Direction::Push => &wanted.task.congestion,
        Direction::Pull => wanted.task.congestion.of_receiver(),
    };
    congestion.check()?;
    let reached = reach(wanted, congestion)?;
    let manner = Manner::talking(timeout, congestion);
    let near = reached.stream.local_addr().ok().map(|address| address.ip());
    let patience = timeout.min(CONNECT);
    let Reached { _program: mut program, stream, address, mut preface, mut secret } = reached;
    let measured = stream.try_clone().ok();
    let mut main = tcp::open(stream, &preface, &secret, patience, &manner).map_err(failed)?;
    if preface.secret == Secret::KeyFile {
        (preface.session, secret) = session_of_server(&mut main, host, timeout)?;
        preface.secret = Secret::Session;
    }
    let fabric = fabric(wanted, near)?;
    let mut task = wanted.task.clone();
    task.rdma = fabric.is_ok();
    let streams = streams(wanted, &fabric, measured.as_ref());
    task.lanes = streams.count;
    let sources = match task.naming {
        Naming::Operands => wanted.sources.clone(),
        _ => lists.iter().map(|list| list.top.clone()).collect(),
    };
    ask(wanted, &task, &sources, &mut main)?;
    let arena = tcp::arena(task.lanes).map_err(failed)?;
    let manner = Manner { buffers: Some(&arena), plain: task.plain, congestion, timeout: None };
    let part = match wanted.direction {
        Direction::Push => Part::Sends,
        Direction::Pull => Part::Receives,
    };
    let device = fabric.as_ref().map_err(String::as_str);
    let mut upgrades = task.rdma.then(|| Upgrades::new(device, part, timeout));
    let open = |preface: &Preface| {
        let stream = congestion.connect(address, patience).map_err(|cause| {
            RemoteError::Connect { host: host.to_owned(), tried: address.to_string(), cause }
        })?;
        tcp::open(stream, preface, &secret, patience, &manner).map_err(failed)
    };
    let lanes = lanes(host, task.lanes, preface, &mut upgrades, open)?;
    let how = Carried::of(wanted, upgrades, fabric.as_ref().err())?;
    let sends = wanted.direction == Direction::Push;
    let by = measured.filter(|_| sends).and_then(|main| congestion.described(&main));
    let why: Vec<&str> = [streams.why.as_str(), by.as_deref().unwrap_or_default()]
        .into_iter()
        .filter(|why| !why.is_empty())
        .collect();
    explain(&how.described(&task, &why.join("; "), address, preface.cipher));
    Shelf::new(); // raises the limit of descriptors
    let aes = preface.cipher == Cipher::Aes256Gcm;
    let session = Session::new(host.to_owned(), timeout, aes, progress, main.sink);
    session.add(main.closer);
    let tally = Tally::default();
    for path in wanted.twice.iter().chain(&twice) {
        talk.remark(&resolve::named_twice(path));
    }
    for error in failures {
        talk.failed(&error);
        tally.failed(error.to_string());
    }
    let list = manifest::List::new(wanted, &sources);
    let over =
        transfer(wanted, &task, &session, (talk, &tally), (lists, &list), (main.feed, lanes));
    if let Some(error) = session.unkept() {
        talk.failed(&error);
        tally.failed(error.to_string());
    }
    if let (Some(program), Ok(_)) = (&mut program, &over) {
        program.wait(Duration::from_secs(2)); // it has said that it is done
    }
    drop(program);
    let Ok(counts) = over else {
        return Err(session.failure().unwrap_or(RemoteError::Interrupted));
    };
    let manifest = wanted.request.manifest.is_some().then_some(list.manifest);
    let (failed, stopped) = (tally.has_failures(), session.progress.is_cancelled());
    if let Err(error) = manifest_file::write(manifest, &wanted.request, here, failed, stopped) {
        talk.failed(&error);
        tally.failed(error.to_string());
    }
    Ok(totals(counts, tally))
}

/// The session that a server opens for whoever has its key, and the secret of it.
fn session_of_server(
    main: &mut Lane<'_>,
    host: &str,
    timeout: Duration,
) -> Result<([u8; 16], [u8; SECRET_BYTES]), RemoteError> {
    match receive(main, host, timeout)? {
        Message::Offer { session, secret, .. } => Ok((session, secret)),
        Message::Refuse { why } => {
            Err(RemoteError::Refused { host: host.to_owned(), why: printable(&why) })
        }
        _ => Err(breach(host, "it does not open a session")),
    }
}

/// What the receiver has counted, and the failures of both ends.
fn totals(counts: Counts, tally: Tally) -> Totals {
    Totals {
        files: counts.files,
        bytes: counts.bytes,
        resumed: counts.resumed,
        directories: counts.directories,
        symlinks: counts.symlinks,
        hard_links: counts.hard_links,
        specials: counts.specials,
        left: counts.left,
        deleted: counts.deleted,
        parts: 0,
        failures: tally.totals().failures,
    }
}

/// How many lanes there are to be, and why if that is not what is usual.
fn streams(
    wanted: &Wanted,
    fabric: &Result<Fabric, String>,
    measured: Option<&TcpStream>,
) -> Streams {
    let usual = wanted.task.lanes;
    let count = match (fabric, wanted.streams) {
        // One at least for each device.
        (Ok(fabric), None) => usual.max(fabric.devices()).min(rdma::LANES_MAX),
        (Ok(_), Some(count)) => count.min(rdma::LANES_MAX),
        (Err(_), Some(count)) => count,
        (Err(_), None) => {
            let limit = wanted.task.settings.tuning.bwlimit;
            // A comparison sends no pieces.
            let path = measured.filter(|_| !wanted.task.check);
            let path = path.map_or_else(Path::default, |main| Path::of(main, limit));
            return path.streams(usual);
        }
    };
    Streams { count, why: String::new() }
}

/// So many lanes, each opened by `open`, with rings where there are upgrades.
fn lanes<'a>(
    host: &str,
    count: u32,
    preface: Preface,
    upgrades: &mut Option<Upgrades<'_>>,
    open: impl Fn(&Preface) -> Result<Lane<'a>, RemoteError> + Sync,
) -> Result<Vec<Lane<'a>>, RemoteError> {
    /// Lanes that are opened at the same time: each takes a few round trips.
    const ABREAST: u32 = 16;
    let open = &open;
    let one = |number: u32| open(&Preface { lane: number as u8, ..preface }); // at most LANES_MAX
    let Some(upgrades) = upgrades else {
        let mut lanes = Vec::new();
        let numbers: Vec<u32> = (1..=count).collect();
        for numbers in numbers.chunks(ABREAST as usize) {
            lanes.extend(abreast(numbers, one)?);
        }
        return Ok(lanes);
    };
    // Both ends agree on one ring after the other.
    let upgraded = |number| {
        let lane = upgrades.lane(one(number)?);
        lane.map_err(|error| RemoteError::read(host, error, rdma::AGREE))
    };
    (1..=count).map(upgraded).collect()
}

/// What `open` gives for each of the numbers, all asked at the same time.
fn abreast<T: Send>(
    numbers: &[u32],
    open: impl Fn(u32) -> Result<T, RemoteError> + Copy + Send,
) -> Result<Vec<T>, RemoteError> {
    std::thread::scope(|scope| {
        let start = |&number| {
            let started = std::thread::Builder::new().spawn_scoped(scope, move || open(number));
            started.map_err(|cause| RemoteError::Here {
                operation: "start a thread".to_owned(),
                cause,
            })
        };
        let opening: Vec<_> = numbers.iter().map(start).collect();
        let opened = opening.into_iter().map(|thread| match thread?.join() {
            Ok(opened) => opened,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        opened.collect()
    })
}

/// Sends or receives, until all is done or it is over.
fn transfer<'a>(
    wanted: &Wanted,
    task: &Task,
    session: &Session<'_>,
    (talk, tally): (&dyn Talk, &Tally),
    (lists, list): (Vec<List>, &manifest::List<'_>),
    (feed, lanes): (Box<dyn Feed + 'a>, Vec<Lane<'a>>),
) -> Result<Counts, Over> {
    let listing = task.sums.then_some(list as &dyn Listing);
    match wanted.direction {
        Direction::Push => {
            let operand = |path: PathBuf, names| {
                let shown = sender::shown(&wanted.host, &wanted.shown_target(&path));
                sender::Operand { path, shown, names }
            };
            let operands: Vec<_> = match task.naming {
                Naming::Operands => {
                    wanted.sources.iter().map(|path| operand(path.clone(), None)).collect()
                }
                _ => lists.into_iter().map(|list| operand(list.top, Some(list.names))).collect(),
            };
            Sender::new(session, task, &Root::Free, talk, tally)
                .with_listing(listing)
                .run(&operands, feed, lanes)
        }
        Direction::Pull => {
            let operand = |path: &PathBuf| receiver::Operand {
                name: task::name_of(path).0,
                shown: sender::shown(&wanted.host, path),
            };
            let operands: Vec<_> = match task.naming {
                Naming::Operands => wanted.sources.iter().map(operand).collect(),
                _ => lists.iter().map(|list| operand(&list.top)).collect(),
            };
            Receiver::new(session, task, &Root::Free, talk, tally, &operands)
                .with_lists(&lists)
                .with_listing(listing)
                .run(&wanted.target, &operands, feed, lanes)
        }
    }
}

fn breach(host: &str, what: &str) -> RemoteError {
    RemoteError::Protocol { host: host.to_owned(), what: what.to_owned() }
}

/// The next message of the main lane that says something, within `timeout`: that the other end is alive is not enough, as
/// long as it has nothing to do.
fn receive(main: &mut Lane<'_>, host: &str, timeout: Duration) -> Result<Message, RemoteError> {
    let until = Instant::now() + timeout;
    loop {
        if Instant::now() > until {
            return Err(RemoteError::Silent { host: host.to_owned(), after: timeout });
        }
        match main.feed.receive() {
            Ok(Message::Alive {}) => {}
            Ok(message) => return Ok(message),
            Err(error) => return Err(RemoteError::read(host, error, timeout)),
        }
    }
}

/// Says what is wanted, and hears whether it can be had.
fn ask(
    wanted: &Wanted,
    task: &Task,
    sources: &[PathBuf],
    main: &mut Lane<'_>,
) -> Result<(), RemoteError> {
    let host = wanted.host.as_str();
    let push = wanted.direction == Direction::Push;
    let request = task.request(push, sources, &wanted.target);
    let asked = main.sink.send(&Message::Ask { request }).and_then(|()| main.sink.flush());
    asked.map_err(|cause| match cause.kind() {
        io::ErrorKind::InvalidInput => {
            let cause = io::Error::other("too many operands for one run: name a directory, or -r");
            RemoteError::Here { operation: "ask for so much".to_owned(), cause }
        }
        _ => RemoteError::write(host, &cause),
    })?;
    match receive(main, host, wanted.timeout)? {
        Message::Accept {} => Ok(()),
        Message::Refuse { why } => {
            Err(RemoteError::Refused { host: host.to_owned(), why: printable(&why) })
        }
        _ => Err(breach(host, "it does not answer what it was asked")),
    }
}

/// Reaches the other end: through `ssh` or the like, or where a server listens.
fn reach(wanted: &Wanted, congestion: &Congestion) -> Result<Reached, RemoteError> {
    let host = wanted.host.as_str();
    if let Some(file) = &wanted.key_file {
        let secret = key::from_file(file)?;
        let cipher = Cipher::choose(has_aes());
        let preface = preface(Secret::KeyFile, [0; 16], cipher);
        let addresses = [machine(host).to_owned()];
        let (stream, address) =
            connect_any(wanted, congestion, &addresses, wanted.port.unwrap_or(PORT))?;
        return Ok(Reached { _program: None, stream, address, preface, secret });
    }
    let (mut program, mut channel) = Program::start(&words(wanted), host)?;
    let offer = offer(&mut channel).map_err(|error| match error {
        RemoteError::Lost { .. } => program.ended(host).unwrap_or(error),
        other => other,
    })?;
    let (aes, Message::Offer { session, secret, port, mut addresses }) = offer else {
        return Err(breach(host, "it does not open a session"));
    };
    addresses.truncate(8);
    addresses.push(machine(host).to_owned());
    let preface = preface(Secret::Session, session, Cipher::choose(aes && has_aes()));
    let (stream, address) = connect_any(wanted, congestion, &addresses, port)?;
    Ok(Reached { _program: Some(program), stream, address, preface, secret })
}

fn preface(secret: Secret, session: [u8; 16], cipher: Cipher) -> Preface {
    Preface { version: super::protocol::VERSION, secret, session, lane: 0, cipher }
}

fn offer(channel: &mut Channel) -> Result<(bool, Message), RemoteError> {
    let until = Instant::now() + LOGIN;
    // A program that is already gone is found out by what it said, or did not.
    let greeted = channel.greet();
    let aes = channel.hear_greeting(until)?;
    greeted?;
    Ok((aes, channel.receive(until)?))
}

/// The command that starts the other end.
fn words(wanted: &Wanted) -> Vec<OsString> {
    let mut words = wanted.rsh.clone();
    words.push(login(&wanted.host).into());
    words.push(wanted.remote_program.clone());
    words.push("--remote-side".into());
    words.push("--timeout".into());
    words.push(wanted.timeout.as_secs().to_string().into());
    if let Some(port) = wanted.port {
        words.push("--port".into());
        words.push(port.to_string().into());
    }
    words
}

/// The host as ssh takes it, which knows no brackets.
fn login(host: &str) -> String {
    match host.rsplit_once('@') {
        Some((user, _)) => format!("{user}@{}", machine(host)),
        None => machine(host).to_owned(),
    }
}

/// The machine in `user@machine`, without the brackets of an address.
fn machine(host: &str) -> &str {
    let machine = host.rsplit_once('@').map_or(host, |(_, machine)| machine);
    machine.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(machine)
}

/// Connects to the first address that answers.
fn connect_any(
    wanted: &Wanted,
    congestion: &Congestion,
    addresses: &[String],
    port: u16,
) -> Result<(TcpStream, SocketAddr), RemoteError> {
    let mut tried = Vec::new();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for name in addresses {
        let found = match (name.as_str(), port).to_socket_addrs() {
            Ok(found) => found,
            Err(error) => {
                tried.push(printable(name));
                last = error;
                continue;
            }
        };
        for address in found {
            match congestion.connect(address, wanted.timeout.min(CONNECT)) {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => {
                    tried.push(address.to_string());
                    last = error;
                }
            }
        }
    }
    let (host, tried) = (wanted.host.clone(), tried.join(", "));
    Err(RemoteError::Connect { host, tried, cause: last })
}

/// This end's devices, or why there is no RDMA: nothing to say where nobody asked for it.
///
/// # Errors
/// [`RemoteError::NoRdma`] where it must be.
fn fabric(wanted: &Wanted, near: Option<IpAddr>) -> Result<Result<Fabric, String>, RemoteError> {
    let refused = match wanted.transport {
        Transport::Tcp => return Ok(Err(String::new())),
        Transport::Auto if !wanted.task.plain => {
            "it would go unencrypted, which --plain or --transport rdma allows".to_owned()
        }
        _ => match Fabric::open(near, wanted.streams.unwrap_or(rdma::LANES_MAX)) {
            Ok(fabric) => return Ok(Ok(fabric)),
            Err(why) => why,
        },
    };
    must(wanted, &refused)?;
    Ok(Err(refused))
}

/// No RDMA because of `why`, which is an error where it must be.
pub(super) fn must(wanted: &Wanted, why: &str) -> Result<(), RemoteError> {
    match wanted.transport {
        Transport::Rdma => {
            Err(RemoteError::NoRdma { host: wanted.host.clone(), why: why.to_owned() })
        }
        _ => Ok(()),
    }
}

/// A lane to `host` that was not opened.
pub fn open_error(host: &str, timeout: Duration, error: OpenError) -> RemoteError {
    let host_owned = || host.to_owned();
    match error {
        OpenError::Version(theirs) => {
            RemoteError::Version { host: host_owned(), theirs, program: String::new() }
        }
        OpenError::Memory(why) => {
            RemoteError::Here { operation: "get buffers".to_owned(), cause: io::Error::other(why) }
        }
        OpenError::Handshake(HandshakeError::Unknown) => RemoteError::Key { host: host_owned() },
        OpenError::Handshake(HandshakeError::Io(cause)) => match cause.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                RemoteError::Key { host: host_owned() }
            }
            _ => RemoteError::read(host, ReadError::Io(cause), timeout),
        },
    }
}
