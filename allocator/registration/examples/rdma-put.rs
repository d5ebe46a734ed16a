//! Writes a range of one process's pool into another's, over RDMA, and checks that it came.
//!
//! ```sh
//! rdma-put receive 192.0.2.1:7471 4G [DEVICE]        # one end: gives a range
//! rdma-put send    192.0.2.1:7471 4G [DEVICE]        # the other: fills its own, and puts it there
//! ```
//!
//! The ends meet over TCP to tell each other where they are. The receiver registers its pool, and gives a key
//! of a memory window; the sender writes its scatter-gather list, as many entries a request as the device
//! takes, the last with immediate data. **The receiver takes the key back before it looks at the data**: until
//! then the sender could still change it. Where the device has no windows the key ends with the region.
//! Where the sender's device has no immediate data (iWARP) a message follows the writes instead:
//! `--no-immediate` does that anywhere, `--no-window` the other.
#![allow(unsafe_code)] // posts work requests, reads and writes a pool's memory

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bookend::pool::{FrameOrder, Pool, Rung, SharedPin, Use};
use bookend::scatter::{Limits, ScatterList};
use bookend::units::Bytes;
use bookend_registration::verbs::{
    Access, Device, Domain, QueuePair, QueueSizes, Regions, RemoteMemory, Sge, Window,
};
use bookend_registration::{Region, Registrar};

type Failure = Box<dyn Error>;

/// How long one request, or word of the peer, may take.
const PATIENCE: Duration = Duration::from_secs(120);
const MARK: u32 = 0xb00c_e0d5;
/// Requests under way at once.
const DEPTH: u32 = 16;
/// Bytes of an entry at most: devices take 2 GiB a request, and short ones keep several busy.
const ENTRY: Bytes = Bytes::mib(8);
/// Room for the message that stands for immediate data.
const NOTE: usize = 8;

const USAGE: &str =
    "usage: rdma-put send|receive ADDRESS:PORT SIZE [DEVICE] [--no-immediate] [--no-window]";

struct Options {
    sends: bool,
    address: String,
    size: Bytes,
    device: Option<String>,
    immediate: bool,
    window: bool,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let (flags, words): (Vec<_>, Vec<_>) = arguments.partition(|word| word.starts_with("--"));
        if let Some(unknown) =
            flags.iter().find(|f| !["--no-immediate", "--no-window"].contains(&f.as_str()))
        {
            return Err(format!("{unknown}: no such option\n{USAGE}").into());
        }
        let [role, address, size, rest @ ..] = words.as_slice() else { return Err(USAGE.into()) };
        let sends = match role.as_str() {
            "send" => true,
            "receive" => false,
            other => return Err(format!("{other}: send or receive\n{USAGE}").into()),
        };
        let has = |flag: &str| flags.iter().any(|given| given == flag);
        Ok(Self {
            sends,
            address: address.clone(),
            size: parse_size(size)?,
            device: rest.first().cloned(),
            immediate: !has("--no-immediate"),
            window: !has("--no-window"),
        })
    }
}

fn parse_size(text: &str) -> Result<Bytes, Failure> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'G')) => (&text[..at], 30),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'K')) => (&text[..at], 10),
        _ => (text, 0),
    };
    let number: u64 =
        digits.parse().map_err(|_| format!("{text}: a size such as 4G or 512M is wanted"))?;
    let bytes = number.checked_mul(1 << shift).filter(|&bytes| bytes > 0 && bytes <= 1 << 46);
    Ok(Bytes::new(bytes.ok_or_else(|| format!("{text}: 1 byte to 64 TiB are possible"))?))
}

fn main() -> ExitCode {
    let run = || {
        let options = Options::parse(std::env::args().skip(1))?;
        let end = End::open(&options)?;
        if options.sends { end.send(&options) } else { end.receive(&options) }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("rdma-put: {why}");
            ExitCode::FAILURE
        }
    }
}

/// One end: a pool, its domain, a queue pair.
struct End {
    pool: Arc<Pool>,
    domain: Arc<Domain>,
    queue: QueuePair,
    entries: u32,
    immediate: bool,
}

impl End {
    fn open(options: &Options) -> Result<Self, Failure> {
        let device = Device::open(options.device.as_deref())?;
        let builder = Pool::builder().capacity(options.size).rung(Rung::Huge, Use::Allowed);
        let pool = builder.frame_order(FrameOrder::Ascending { extra: Bytes::ZERO }).build()?;
        let entries = device.limits().max_sge.min(16);
        let sizes = QueueSizes { sends: DEPTH, receives: 4, entries };
        let domain = Domain::new(&device)?;
        let queue = QueuePair::new(&domain, 1, sizes, Access::REMOTE_WRITE)?;
        let software = if device.is_software() { ", software: it tracks base pages" } else { "" };
        eprintln!("{}{software}; {} in {:?}", device.name(), options.size, pool.report().rungs);
        let immediate = options.immediate && device.has_immediates();
        Ok(Self { pool: Arc::new(pool), domain, queue, entries, immediate })
    }

    fn bytes(&self, size: Bytes) -> &[u8] {
        // SAFETY: the pool has as many bytes, present; who writes to them has ended.
        unsafe { std::slice::from_raw_parts(self.pool.base().as_ptr(), size.as_usize()) }
    }

    /// Room for the message that stands for immediate data.
    fn note(&self) -> Result<PoolRegion, Failure> {
        let pool = Arc::new(Pool::builder().capacity(Bytes::mib(2)).build()?);
        let pin = SharedPin::new(pool.clone(), pool.blocks())?;
        Ok(self.domain.registrar(Access::LOCAL_WRITE)?.register(pin)?)
    }

    fn send(&self, options: &Options) -> Result<(), Failure> {
        let size = options.size;
        fill(&self.pool, size);
        let limits = Limits { max_entry_bytes: Some(ENTRY), ..Limits::NONE };
        let list = ScatterList::of_pool(&self.pool, Bytes::ZERO..size, &limits)?;
        let start = Instant::now();
        let region = self.domain.registrar(Access::LOCAL_READ)?.register(list)?;
        let registered = start.elapsed();
        let mut entries = Vec::new();
        for entry in region.held() {
            let found = region.registration().entries(entry.address.as_ptr(), entry.len.as_usize());
            entries.extend(found.ok_or("an entry lies outside of what was registered")?);
        }
        let note = self.note()?;
        let mut peer = Peer::connect(&options.address)?;
        peer.say(&self.queue.endpoint().to_string())?;
        peer.say(&format!("{} {}", size.get(), u8::from(self.immediate)))?;
        self.queue.connect(&peer.hear()?.parse()?)?;
        let target = peer.hear()?;
        let (address, key) =
            target.split_once(' ').ok_or("the receiver says no address and key")?;
        let to = RemoteMemory { address: address.parse()?, key: key.parse()? };
        let start = Instant::now();
        self.put(&entries, to, self.immediate)?;
        if !self.immediate {
            let at = note.held().pool().base();
            let entries = note.registration().entries(at.as_ptr(), NOTE).ok_or("no note")?;
            // SAFETY: the note stays registered until the completion.
            unsafe { self.queue.send(0, &entries)? };
            self.queue.wait(PATIENCE)?;
        }
        println!(
            "put {size} in {} entries: registered in {registered:?}, written in {:?}, end told by {}",
            entries.len(),
            start.elapsed(),
            if self.immediate { "immediate data" } else { "a message" },
        );
        match peer.hear()?.as_str() {
            "verified" => Ok(()),
            other => Err(format!("the receiver says: {other}").into()),
        }
    }

    /// Writes all entries, several requests at a time; the last carries immediate data if that is wanted.
    fn put(&self, entries: &[Sge], to: RemoteMemory, immediate: bool) -> Result<(), Failure> {
        let requests: Vec<_> = entries.chunks(self.entries as usize).collect();
        let (mut address, mut under_way) = (to.address, 0);
        for (n, entries) in requests.iter().enumerate() {
            if under_way == DEPTH {
                self.queue.wait(PATIENCE)?;
                under_way -= 1;
            }
            let mark = (immediate && n + 1 == requests.len()).then_some(MARK);
            // SAFETY: the list stays registered, and nobody writes to it, until all have ended.
            unsafe { self.queue.write(n as u64, entries, RemoteMemory { address, ..to }, mark)? };
            address += entries.iter().map(|entry| u64::from(entry.length)).sum::<u64>();
            under_way += 1;
        }
        while under_way > 0 {
            self.queue.wait(PATIENCE)?;
            under_way -= 1;
        }
        Ok(())
    }

    fn receive(&self, options: &Options) -> Result<(), Failure> {
        let size = options.size;
        let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::WINDOWS;
        let window = if options.window {
            Window::new(&self.domain)
        } else {
            Err(bookend_registration::RegisterError::Unsupported {
                what: "a memory window",
                why: "not wanted (--no-window)".to_owned(),
            })
        };
        let access =
            if window.is_ok() { access } else { Access::LOCAL_WRITE | Access::REMOTE_WRITE };
        let pin = SharedPin::new(self.pool.clone(), self.pool.blocks())?;
        let region = self.domain.registrar(access)?.register(pin)?;
        let note = self.note()?;
        let mut peer = Peer::accept(&options.address)?;
        self.queue.connect(&peer.hear()?.parse()?)?;
        let said = peer.hear()?;
        let immediate = match said.split_once(' ') {
            Some((theirs, flag)) if theirs.parse() == Ok(size.get()) => flag == "1",
            _ => {
                return Err(format!("the sender's size differs from {}: {said}", size.get()).into());
            }
        };
        let at = note.held().pool().base().as_ptr();
        let room = note.registration().entries(at, NOTE).ok_or("no note")?;
        // SAFETY: the note stays registered, and nobody uses it, until the completion.
        unsafe { self.queue.receive(1, if immediate { &[] } else { &room })? };
        let key = Key::give(self, &region, window, size)?;
        peer.say(&self.queue.endpoint().to_string())?;
        peer.say(&format!("{} {}", self.pool.base().addr().get(), key.key()))?;
        // All of it: no link is slower than 1 MiB a second, an emulated one included.
        let came = self.queue.wait(PATIENCE + Duration::from_secs(size.get() >> 20))?;
        if immediate && came.immediate != Some(MARK) {
            return Err(format!("{came:?} instead of the sender's mark").into());
        }
        // From here on the memory is ours alone, and what is checked stays so.
        let how = key.take_back(self, region)?;
        let wrong = self.bytes(size).iter().enumerate().find(|&(at, &byte)| byte != content(at));
        match wrong {
            None => {
                println!("received {size}, {how}, verified byte for byte");
                peer.say("verified")
            }
            Some((at, byte)) => {
                peer.say(&format!("byte {at} is wrong"))?;
                Err(format!("byte {at} is {byte} instead of {}", content(at)).into())
            }
        }
    }
}

type PoolRegion = Region<Regions, SharedPin<Arc<Pool>>>;

/// What the sender may write by.
enum Key {
    Window(Window),
    Region(u32),
}

impl Key {
    fn give(
        end: &End,
        region: &PoolRegion,
        window: Result<Window, bookend_registration::RegisterError>,
        size: Bytes,
    ) -> Result<Self, Failure> {
        let at = end.pool.base().as_ptr();
        let mr = region.registration().region_of(at, size.as_usize());
        match window {
            Ok(mut window) => {
                let mr = mr.ok_or("the range is longer than one region of this device")?;
                let part = (at.cast_const(), size.as_usize());
                end.queue.bind(2, &mut window, mr, part, Access::REMOTE_WRITE)?;
                end.queue.wait(PATIENCE)?;
                Ok(Self::Window(window))
            }
            Err(why) => {
                eprintln!("{why}: the key ends with the region");
                Ok(Self::Region(
                    mr.ok_or("the range is longer than one region of this device")?.rkey(),
                ))
            }
        }
    }

    fn key(&self) -> u32 {
        match self {
            Self::Window(window) => window.rkey(),
            Self::Region(key) => *key,
        }
    }

    /// Ends it, and says how.
    fn take_back(self, end: &End, region: PoolRegion) -> Result<&'static str, Failure> {
        match self {
            Self::Window(window) => {
                end.queue.invalidate(3, window.rkey())?;
                end.queue.wait(PATIENCE)?;
                drop((window, region));
                Ok("key invalidated before use")
            }
            Self::Region(_) => {
                drop(region);
                Ok("deregistered before use")
            }
        }
    }
}

fn content(at: usize) -> u8 {
    (at as u8).wrapping_mul(151) ^ (at >> 8) as u8 ^ (at >> 21) as u8 ^ (at >> 30) as u8
}

fn fill(pool: &Pool, size: Bytes) {
    for at in 0..size.as_usize() {
        // SAFETY: the pool has as many bytes, present, and nobody else uses them.
        unsafe { pool.base().as_ptr().add(at).write(content(at)) };
    }
}

/// The other end, by lines of text.
struct Peer {
    lines: BufReader<TcpStream>,
}

impl Peer {
    fn accept(address: &str) -> Result<Self, Failure> {
        let listener = TcpListener::bind(address).map_err(|why| format!("{address}: {why}"))?;
        Ok(Self { lines: BufReader::new(listener.accept()?.0) })
    }

    /// Tries for some seconds, since the receiver may still be taking its memory.
    fn connect(address: &str) -> Result<Self, Failure> {
        let start = Instant::now();
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Ok(Self { lines: BufReader::new(stream) }),
                Err(why) if start.elapsed() > PATIENCE => {
                    return Err(format!("{address}: {why}").into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn say(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(self.lines.get_mut(), "{line}")?)
    }

    fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.lines.read_line(&mut line)? {
            0 => Err("the other end has hung up".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
