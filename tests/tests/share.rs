//! One pool in many processes: what they see of each other, and what is left when they are killed.
#![allow(unsafe_code)] // reads and writes a shared pool

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bookend::os::Linux;
use bookend::pool::{Pool, Rung, SharedPin, Use};
use bookend::units::{Blocks, Bytes};
use bookend_registration::share::{Guest, Server, Share, ShareError, Worker};
use bookend_registration::verbs::{Access, Device, Domain, QueuePair, QueueSizes};
use bookend_registration::{Registrar, uring};
use bookend_tests::child::{self, Part, wait_until};
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{or_say, say};
use io_uring::IoUring;
use rand::{RngExt, SeedableRng};

const BLOCKS: u32 = 4;
const KILLS: u32 = 200;
/// As many workers live at a time, beside the one that must not be disturbed.
const KILLERS: u32 = 2;

fn pool(rung: Rung) -> Arc<Pool> {
    let mut builder = Pool::builder().capacity(Blocks::new(BLOCKS).bytes()).shareable(true);
    for other in Rung::ALL {
        builder = builder.rung(other, if other == rung { Use::Required } else { Use::Forbidden });
    }
    Arc::new(builder.build().unwrap())
}

/// The pool, registered with the first device where there is one.
fn share(pool: &Arc<Pool>) -> (Share<Linux>, bool) {
    let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
    let registered = Device::open(None).ok().map(|device| {
        let domain = Domain::new(&device).unwrap();
        let pin = SharedPin::new(pool.clone(), pool.blocks()).unwrap();
        let region = domain.registrar(access).unwrap().register(pin).unwrap();
        Share::registered(pool.clone(), domain, region).unwrap()
    });
    let has_device = registered.is_some();
    (registered.unwrap_or_else(|| Share::new(pool.clone()).unwrap()), has_device)
}

/// One test at a time: they count the descriptors of their process.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Place {
    server: Server,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    Place { server: Server::listen(&path).unwrap(), path, _dir: dir }
}

impl Place {
    fn worker(&self, share: &Share<Linux>) -> (Part, Guest<Linux>) {
        let part = Part::start("part_of_a_worker", self.path.to_str().unwrap());
        let id = part.id() as i32;
        let guest = self.server.accept(share, |peer| peer.process == id).unwrap();
        (part, guest.expect("it is our worker"))
    }
}

fn byte(pool: &Pool, at: usize) -> u8 {
    assert!(at < pool.capacity().bytes().as_usize());
    // SAFETY: the pool is present; workers write whole bytes.
    unsafe { pool.base().as_ptr().add(at).read_volatile() }
}

#[test]
fn workers_share_memory_registration_and_end() {
    let _alone = alone();
    let lock = MachineLock::take();
    let pages = or_say(HugePages::reserve(&lock, 2 << 20, None, u64::from(BLOCKS)));
    for rung in [Rung::Base, Rung::Huge] {
        if rung == Rung::Huge && pages.is_none() {
            continue;
        }
        let pool = pool(rung);
        let (share, _) = share(&pool);
        let place = place();
        let (mut one, first) = place.worker(&share);
        let (mut other, second) = place.worker(&share);
        assert_eq!(share.holders(), 3);
        one.tell("write 4096 65");
        assert_eq!(one.listen(), "done");
        assert_eq!(byte(&pool, 4096), 65);
        other.tell("read 4096");
        assert_eq!(other.listen(), "65");
        one.tell("ring");
        println!("{} pages: a worker's ring: {}", rung.name(), one.listen());
        drop(share); // the guests hold it on
        one.finish();
        wait_until("its end shows", || first.is_gone());
        assert!(!second.is_gone());
        drop(first);
        other.tell("read 4096");
        assert_eq!(other.listen(), "65");
        assert_eq!(second.share().holders(), 1, "the last user frees");
        other.finish();
    }
}

#[test]
fn who_is_not_admitted_gets_nothing_and_a_private_pool_is_not_shared() {
    let _alone = alone();
    let pool = pool(Rung::Base);
    let (share, _) = share(&pool);
    let place = place();
    let part = Part::start("part_of_the_refused", place.path.to_str().unwrap());
    assert!(place.server.accept(&share, |_| false).unwrap().is_none());
    part.finish();
    let private = Arc::new(Pool::builder().capacity(Bytes::mib(2)).build().unwrap());
    assert!(matches!(Share::new(private), Err(ShareError::Private)));
}

#[test]
#[ignore = "a part of another test"]
fn part_of_the_refused() {
    let Some(path) = child::argument() else { return };
    let refused = Worker::connect(path).unwrap_err();
    assert!(matches!(refused, ShareError::ServerGone), "{refused}");
}

/// Workers are killed at random moments, some before they have connected, some at work.
#[test]
fn two_hundred_workers_killed_at_random_leave_nothing_and_disturb_nobody() {
    let _alone = alone();
    let pool = pool(Rung::Base);
    let (share, has_device) = share(&pool);
    if !has_device {
        say("imports of verbs objects (the memory is shared all the same): no RDMA device");
    }
    let place = place();
    let start = Instant::now();
    let (mut witness, guest) = place.worker(&share);
    witness.tell("write 100 1");
    assert_eq!(witness.listen(), "done");
    // From its start to its first answer: whoever is killed within that may be anywhere.
    let life = start.elapsed();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    let resources = rdma_resources();
    let kill = |seed| kill_workers(&share, seed, KILLS / KILLERS, life);
    let admitted: u32 = std::thread::scope(|scope| {
        let killers: Vec<_> = (0..KILLERS).map(|seed| scope.spawn(move || kill(seed))).collect();
        killers.into_iter().map(|killer| killer.join().unwrap()).sum()
    });
    println!("{KILLS} killed, half of them early; {admitted} had the pool");
    assert!(admitted >= KILLS / 2);
    assert_eq!((files(), share.holders()), (before, 2), "nothing is left of them");
    assert_eq!(rdma_resources(), resources, "nor in the device");
    witness.tell("read 100");
    assert_eq!(witness.listen(), "1", "nobody was disturbed");
    witness.tell("queue");
    println!("the witness's queue pair: {}", witness.listen());
    assert!(!guest.is_gone());
    // What was shared is still registered, and good for one who comes after.
    let (mut last, _guest) = place.worker(&share);
    last.tell("write 101 2");
    assert_eq!(last.listen(), "done");
    assert_eq!(byte(&pool, 101), 2);
}

/// Starts workers and kills them, one after the other, at a place of their own; how many had the pool.
fn kill_workers(share: &Share<Linux>, seed: u32, kills: u32, life: Duration) -> u32 {
    let place = place();
    let mut random = rand::rngs::StdRng::seed_from_u64(6 + u64::from(seed));
    let mut within_life = || Duration::from_micros(random.random_range(0..life.as_micros() as u64));
    let mut admitted = 0;
    for kill in 0..kills {
        let part = Part::start("part_of_a_worker", place.path.to_str().unwrap());
        // Half of them at once, or while they start; the others after they were given everything.
        if kill % 2 == 0 {
            std::thread::sleep(within_life());
            part.kill();
            while let Some(guest) = accept_now(&place.server, share) {
                admitted += u32::from(guest.is_some());
            }
        } else {
            let guest = place.server.accept(share, |_| true).unwrap();
            std::thread::sleep(within_life());
            part.kill();
            if let Some(guest) = guest {
                wait_until("its end shows", || guest.is_gone());
                admitted += 1;
            }
        }
    }
    admitted
}

/// A worker that has come already, without waiting for one.
fn accept_now(server: &Server, share: &Share<Linux>) -> Option<Option<Guest<Linux>>> {
    use std::os::fd::AsFd;
    let fd = server.as_fd().as_raw_fd();
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor is asked for.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) } > 0;
    ready.then(|| server.accept(share, |_| true).unwrap())
}

/// What the kernel says that devices hold: queue pairs, domains, regions.
fn rdma_resources() -> String {
    let output = std::process::Command::new("rdma").args(["resource", "show"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

#[test]
fn a_killed_server_is_told_of_and_the_memory_stays() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut server = Part::start("part_of_the_server", path.to_str().unwrap());
    assert_eq!(server.listen(), "listening");
    let worker = Worker::connect(&path).unwrap();
    worker.check().unwrap();
    // SAFETY: the pool is mapped, and the server writes no more.
    let read = || unsafe { worker.base().as_ptr().add(7).read_volatile() };
    assert_eq!(read(), 42);
    server.kill();
    wait_until("its end shows", || worker.check().is_err());
    let told = worker.check().unwrap_err().to_string();
    assert!(told.contains("server") && told.contains("gone"), "{told}");
    assert_eq!(read(), 42, "the memory stays");
    if let Some(domain) = worker.domain() {
        // The last holder of the device's file: its objects are there still.
        let sizes = QueueSizes { sends: 1, receives: 1, entries: 1 };
        QueuePair::new(domain, 1, sizes, Access::REMOTE_WRITE).unwrap();
    }
    let refused = Worker::connect(&path).unwrap_err();
    assert!(matches!(refused, ShareError::Socket { .. }), "{refused}");
}

#[test]
#[ignore = "a part of another test"]
fn part_of_the_server() {
    let Some(path) = child::argument() else { return };
    let pool = pool(Rung::Base);
    // SAFETY: nobody else has the pool yet.
    unsafe { pool.base().as_ptr().add(7).write(42) };
    let (share, _) = share(&pool);
    let server = Server::listen(path).unwrap();
    child::say("listening");
    let _guest = server.accept(&share, |_| true).unwrap();
    child::hear();
}

#[test]
#[ignore = "a part of another test"]
fn part_of_a_worker() {
    let Some(path) = child::argument() else { return };
    let worker = Worker::connect(path).unwrap();
    while let Some(line) = child::hear() {
        let words: Vec<_> = line.split(' ').collect();
        let at = |n: usize| words[n].parse::<usize>().unwrap();
        match words[0] {
            "write" => {
                // SAFETY: all of the pool is mapped; nobody else uses this byte now.
                unsafe { worker.base().as_ptr().add(at(1)).write_volatile(at(2) as u8) };
                child::say("done");
            }
            "read" => {
                // SAFETY: as above.
                let byte = unsafe { worker.base().as_ptr().add(at(1)).read_volatile() };
                child::say(&byte.to_string());
            }
            "ring" => child::say(&register_with_a_ring(&worker)),
            "queue" => child::say(&make_queue(&worker)),
            _ => panic!("{line}"),
        }
    }
}

/// A worker registers the shared memory with a ring of its own.
fn register_with_a_ring(worker: &Worker) -> String {
    let uring = match IoUring::new(4) {
        Ok(uring) => uring,
        Err(why) => return format!("no io_uring: {why}"),
    };
    // SAFETY: the ring is open for as long as it is borrowed.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(uring.as_raw_fd()) };
    let ring = uring::Ring::new(fd, 4).unwrap();
    let region = ring.register(worker).unwrap();
    assert_eq!(region.registration().bytes(), worker.bytes());
    "registered".to_owned()
}

fn make_queue(worker: &Worker) -> String {
    let Some(domain) = worker.domain() else { return "no device".to_owned() };
    let sizes = QueueSizes { sends: 1, receives: 1, entries: 1 };
    match QueuePair::new(domain, 1, sizes, Access::REMOTE_WRITE) {
        Ok(_) => "made".to_owned(),
        Err(why) => why.to_string(),
    }
}
