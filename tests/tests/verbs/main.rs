//! Real verbs on the first RDMA device there is: in the lab Soft-RoCE (rxe0), which tracks base pages
//! whatever the memory stands on, so that this shows what is right and never what is fast.
#![allow(unsafe_code)] // posts work requests, reads a pool's memory

mod importing;
mod on_demand;

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bookend::pool::{FrameOrder, Ladder, Pool, Rung, SharedPin, Use};
use bookend::scatter::{Limits, ScatterList};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes, Node};
use bookend_registration::cache::{Cache, CacheLimits};
use bookend_registration::verbs::{
    Access, Device, Domain, ForkSafety, QueuePair, QueueSizes, Regions, RemoteMemory, Sge, Window,
    WorkError, devices, fork_safety,
};
use bookend_registration::{RegisterError, Registrar};
use bookend_tests::child::{self, Part};
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{or_say, say};

const PATIENCE: Duration = Duration::from_secs(30);
const SIZES: QueueSizes = QueueSizes { sends: 64, receives: 64, entries: 16 };

/// The first device, or the reason why there is none.
fn device() -> Option<Arc<Device>> {
    Device::open(None).map_err(|why| say(&why.to_string())).ok()
}

fn full() -> Access {
    Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ | Access::WINDOWS
}

fn only(rung: Rung) -> Ladder {
    let forbidden = Rung::ALL
        .into_iter()
        .fold(Ladder::default(), |ladder, other| ladder.with(other, Use::Forbidden));
    forbidden.with(rung, Use::Allowed)
}

fn pool_of(rung: Rung, blocks: u32) -> Result<Arc<Pool>, bookend::pool::PoolError> {
    let builder = Pool::builder().capacity(Blocks::new(blocks).bytes()).ladder(only(rung));
    builder.build().map(Arc::new)
}

fn blocks(start: u32, len: u32) -> BlockRange {
    BlockRange::new(BlockId::new(start), Blocks::new(len))
}

fn fill(pool: &Pool, range: BlockRange, seed: u8) {
    let at = pool.address(range.start()).as_ptr();
    for n in 0..range.len().bytes().as_usize() {
        // SAFETY: the blocks are present, and nobody else uses them.
        unsafe { at.add(n).write((n as u8).wrapping_mul(31).wrapping_add((n >> 12) as u8) ^ seed) };
    }
}

fn content(pool: &Pool, range: BlockRange) -> &[u8] {
    let at = pool.address(range.start()).as_ptr();
    // SAFETY: the blocks are present, and what was written to them has ended.
    unsafe { std::slice::from_raw_parts(at, range.len().bytes().as_usize()) }
}

/// Two queue pairs that are each other's peers.
fn pair(domain: &Arc<Domain>) -> (QueuePair, QueuePair) {
    let make = || QueuePair::new(domain, 1, SIZES, full()).unwrap();
    let (one, other) = (make(), make());
    one.connect(&other.endpoint()).unwrap();
    other.connect(&one.endpoint()).unwrap();
    (one, other)
}

/// Writes entries to the peer, as many a request as the device takes, the last with immediate data; waits
/// for both ends.
fn put(
    from: &QueuePair,
    to: &QueuePair,
    entries: &[Sge],
    at: u64,
    key: u32,
) -> Result<u32, WorkError> {
    // SAFETY: immediate data needs no room.
    unsafe { to.receive(1, &[]) }.unwrap();
    let most = (from.domain().device().limits().max_sge).min(SIZES.entries) as usize;
    let (mut address, count) = (at, entries.len().div_ceil(most));
    for (n, entries) in entries.chunks(most).enumerate() {
        let immediate = (n + 1 == count).then_some(0x600d_da7a);
        // SAFETY: the caller keeps what is registered until the completions below.
        unsafe { from.write(n as u64, entries, RemoteMemory { address, key }, immediate) }.unwrap();
        from.wait(PATIENCE)?;
        address += entries.iter().map(|entry| u64::from(entry.length)).sum::<u64>();
    }
    Ok(to.wait(PATIENCE)?.immediate.expect("the last write carries it"))
}

#[test]
fn a_device_says_what_it_can() {
    let Some(device) = device() else { return };
    let limits = device.limits();
    println!("{}: {limits:?}, fork: {:?}", device.name(), fork_safety().unwrap());
    assert!(devices().unwrap().contains(&device.name().to_owned()));
    assert!(limits.max_sge > 0 && limits.max_mr > 0 && limits.ports > 0);
    assert!(limits.max_mr_size >= Bytes::gib(1));
    let unknown = Device::open(Some("no_such_device")).unwrap_err().to_string();
    assert!(unknown.contains("no_such_device") && unknown.contains(device.name()), "{unknown}");
}

#[test]
fn pools_of_every_kind_carry_data_by_their_lists() {
    let Some(device) = device() else { return };
    let lock = MachineLock::take();
    let pages = or_say(HugePages::reserve(&lock, 2 << 20, None, 16));
    let domain = Domain::new(&device).unwrap();
    let registrar = domain.registrar(full()).unwrap();
    let (one, other) = pair(&domain);
    for rung in [Rung::Base, Rung::Transparent, Rung::Huge] {
        if rung == Rung::Huge && pages.is_none() {
            continue;
        }
        let pool = match pool_of(rung, 8) {
            Ok(pool) => pool,
            Err(why) => {
                say(&format!("{} pages: {why}", rung.name()));
                continue;
            }
        };
        let (from, to) = (blocks(0, 4), blocks(4, 4));
        fill(&pool, from, rung as u8);
        let whole = from.start().offset()..from.end().offset();
        let limits = Limits { max_entry_bytes: Some(Bytes::mib(1)), ..Limits::NONE };
        let list = ScatterList::of_pool(&pool, whole, &limits).unwrap();
        let source = registrar.register(list).unwrap();
        let target = registrar.register(SharedPin::new(pool.clone(), to).unwrap()).unwrap();
        let entries: Vec<Sge> = source
            .held()
            .entries()
            .flat_map(|entry| {
                let regions: &Regions = source.registration();
                regions.entries(entry.address.as_ptr(), entry.len.as_usize()).unwrap()
            })
            .collect();
        assert!(entries.len() >= 8, "{} entries", entries.len());
        let key = target.registration().iter().next().unwrap().1.rkey();
        let at = pool.address(to.start()).as_ptr() as u64;
        assert_eq!(put(&one, &other, &entries, at, key).unwrap(), 0x600d_da7a);
        assert!(content(&pool, from) == content(&pool, to), "{} pages", rung.name());
        println!("{} pages: {} entries, 8 MiB", rung.name(), entries.len());
    }
}

#[test]
fn mixed_pages_are_one_region() {
    let Some(device) = device() else { return };
    let lock = MachineLock::take();
    let Some(_pages) = or_say(HugePages::reserve(&lock, 2 << 20, None, 2)) else { return };
    // Two huge pages at the high end, base pages below.
    let ladder = only(Rung::Base).with(Rung::Huge, Use::Allowed);
    let pool = Pool::builder().capacity(Bytes::mib(8)).ladder(ladder).build().unwrap();
    let rungs: Vec<_> = pool.blocks().iter().map(|block| pool.rung(block).unwrap()).collect();
    assert!(rungs.contains(&Rung::Base) && rungs.contains(&Rung::Huge), "{rungs:?}");
    let registrar = Domain::new(&device).unwrap().registrar(full()).unwrap();
    let region = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap();
    assert_eq!(region.registration().iter().len(), 1);
    // In pieces of 3 MiB, several threads: each ends on a page, and has a key of its own.
    let cut = registrar.clone().pieces_of(Bytes::mib(3)).threads(3);
    let region = cut.register(pool.pin(pool.blocks()).unwrap()).unwrap();
    let regions = region.registration();
    assert!(regions.iter().len() >= 3 && regions.bytes() == Bytes::mib(8), "{regions:?}");
    let entries = regions.entries(pool.base().as_ptr(), 8 << 20).unwrap();
    assert_eq!(entries.iter().map(|entry| u64::from(entry.length)).sum::<u64>(), 8 << 20);
    assert_eq!(regions.entries(pool.base().as_ptr(), (8 << 20) + 1), None);
}

#[test]
fn a_key_that_was_invalidated_is_of_no_use() {
    let Some(device) = device() else { return };
    let domain = Domain::new(&device).unwrap();
    let pool = pool_of(Rung::Base, 2).unwrap();
    fill(&pool, pool.blocks(), 7);
    let region = domain.registrar(full()).unwrap();
    let region = region.register(SharedPin::new(pool.clone(), pool.blocks()).unwrap()).unwrap();
    let mr = region.registration().iter().next().unwrap().1;
    let (one, other) = pair(&domain);
    let target = (pool.address(BlockId::new(1)).as_ptr().cast_const(), 2 << 20);
    let entries = region.registration().entries(pool.base().as_ptr(), 2 << 20).unwrap();
    let mut window = match Window::new(&domain) {
        Ok(window) => window,
        Err(why) => return say(&why.to_string()),
    };
    // Bound by the end that is written to.
    other.bind(9, &mut window, mr, target, Access::REMOTE_WRITE).unwrap();
    assert_eq!(other.wait(PATIENCE).unwrap().id, 9);
    put(&one, &other, &entries, target.0 as u64, window.rkey()).unwrap();
    other.invalidate(10, window.rkey()).unwrap();
    assert_eq!(other.wait(PATIENCE).unwrap().id, 10);
    // From here on the data is the program's.
    fill(&pool, blocks(0, 1), 99);
    let refused = put(&one, &other, &entries, target.0 as u64, window.rkey()).unwrap_err();
    assert!(
        matches!(&refused, WorkError::Failed { status, .. } if status.contains("access")),
        "{refused}"
    );
    assert!(content(&pool, blocks(0, 1)) != content(&pool, blocks(1, 1)), "nothing was written");
}

#[test]
fn the_cache_finds_regions_and_lets_go_of_released_blocks() {
    let Some(device) = device() else { return };
    let pool = pool_of(Rung::Base, 4).unwrap();
    let registrar = Domain::new(&device).unwrap().registrar(full()).unwrap();
    let cache = Cache::new(pool.clone(), registrar, CacheLimits::default());
    let key = |range| cache.get(range).unwrap().iter().next().unwrap().1.rkey();
    let first = key(blocks(0, 2));
    assert_eq!(key(blocks(1, 1)), first);
    // SAFETY: nobody uses the pool's memory.
    unsafe { pool.release(blocks(1, 1)) }.unwrap();
    assert_eq!(cache.counts().invalidations, 1);
    pool.populate(blocks(1, 1)).unwrap();
    key(blocks(0, 2));
    assert_eq!(cache.counts().misses, 2);
}

#[test]
fn too_low_a_limit_on_locked_memory_is_told_with_the_figure_needed() {
    let Some(_) = device() else { return };
    let part = Part::start("part_of_the_poor", "register");
    part.finish();
}

#[test]
#[ignore = "a part of another test"]
fn part_of_the_poor() {
    if child::argument().is_none() {
        return;
    }
    let device = device().unwrap();
    let pool = pool_of(Rung::Base, 4).unwrap();
    let registrar = Domain::new(&device).unwrap().registrar(full()).unwrap();
    let limit = libc::rlimit { rlim_cur: 4 << 20, rlim_max: 4 << 20 };
    // SAFETY: the limit is read only; afterwards all capabilities go, from this thread alone.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
        let header = [0x2008_0522u32, 0];
        assert_eq!(libc::syscall(libc::SYS_capset, &header, &[0u32; 6]), 0);
    }
    let refused = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap_err();
    let told = refused.to_string();
    println!("{told}");
    assert!(matches!(refused, RegisterError::LockedMemory { .. }), "{told}");
    assert!(
        told.contains("8 MiB") && told.contains("4 MiB") && told.contains("ulimit -l"),
        "{told}"
    );
    registrar.register(pool.pin(blocks(0, 1)).unwrap()).unwrap();
}

/// A child shares all pages from fork(2) on, and whoever writes one gets another. Pages that a device reaches
/// must not be the ones that are left behind.
#[test]
fn what_a_parent_writes_after_a_fork_is_what_the_device_sends() {
    let Some(device) = device() else { return };
    let safety = fork_safety().unwrap();
    if !matches!(safety, ForkSafety::Kernel | ForkSafety::Unknown) {
        return say(&format!("this kernel does not copy pinned pages for a child: {safety:?}"));
    }
    let domain = Domain::new(&device).unwrap();
    let (one, other) = pair(&domain);
    let registrar = domain.registrar(full()).unwrap();
    for rung in [Rung::Transparent, Rung::Base] {
        let pool = pool_of(rung, 2).unwrap();
        fill(&pool, pool.blocks(), 1);
        let region = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap();
        // SAFETY: the child calls nothing but pause and _exit.
        let child = unsafe { libc::fork() };
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            // SAFETY: both may be called in a child of a process with threads.
            unsafe {
                libc::alarm(60);
                libc::pause();
                libc::_exit(0);
            }
        }
        fill(&pool, blocks(0, 1), 2);
        let entries = region.registration().entries(pool.base().as_ptr(), 2 << 20).unwrap();
        let to = pool.address(BlockId::new(1)).as_ptr();
        let key = region.registration().region_of(to, 2 << 20).unwrap().rkey();
        let sent = put(&one, &other, &entries, to as u64, key);
        // SAFETY: the child is ours, and not yet waited for.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        sent.unwrap();
        assert!(content(&pool, blocks(0, 1)) == content(&pool, blocks(1, 1)), "{rung:?}");
    }
}

#[test]
fn a_descriptor_that_is_no_dmabuf_or_a_device_without_them_is_told() {
    let Some(device) = device() else { return };
    let domain = Domain::new(&device).unwrap();
    let file = tempfile::tempfile().unwrap();
    let fd = file.as_fd();
    let refused = domain.register_dmabuf(fd, Bytes::ZERO, Bytes::mib(2), 0, full()).unwrap_err();
    println!("{refused}");
    assert!(refused.to_string().contains("DMA buffer"), "{refused}");
}

/// A DMA buffer made of ordinary memory: rxe has no use for them (EOPNOTSUPP), which is told.
#[test]
fn a_dmabuf_is_registered_or_that_the_device_cannot_is_told() {
    let Some(device) = device() else { return };
    let Ok(maker) = std::fs::File::options().read(true).write(true).open("/dev/udmabuf") else {
        return say("no /dev/udmabuf to make a DMA buffer with");
    };
    let domain = Domain::new(&device).unwrap();
    // SAFETY: plain calls; the request is as linux/udmabuf.h declares it, and what they return is ours.
    let buffer = unsafe {
        let memory = libc::memfd_create(c"dmabuf".as_ptr(), libc::MFD_ALLOW_SEALING);
        assert_eq!(libc::ftruncate(memory, 2 << 20), 0);
        assert_eq!(libc::fcntl(memory, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), 0);
        let request: [u64; 3] = [memory as u64, 0, 2 << 20];
        const UDMABUF_CREATE: libc::c_ulong = 0x4018_7542;
        let buffer = libc::ioctl(maker.as_raw_fd(), UDMABUF_CREATE, &raw const request);
        libc::close(memory);
        assert!(buffer >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(buffer)
    };
    match domain.register_dmabuf(buffer.as_fd(), Bytes::ZERO, Bytes::mib(2), 0, full()) {
        Ok(region) => println!("{region:?}"),
        Err(error @ RegisterError::Unsupported { .. }) => say(&error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_pool_bound_to_a_node_is_registered_there() {
    let Some(device) = device() else { return };
    if !std::fs::exists("/sys/devices/system/node/node1").unwrap_or(false) {
        return say("this machine has one NUMA node");
    }
    let registrar = Domain::new(&device).unwrap().registrar(full()).unwrap();
    for node in [Node::new(0), Node::new(1)] {
        let builder = Pool::builder().capacity(Bytes::mib(8)).ladder(only(Rung::Base));
        let pool = builder.node(node).frame_order(FrameOrder::AsFaulted).build().unwrap();
        let region = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap();
        let rungs = pool.report().rungs;
        assert!(rungs.iter().all(|rung| rung.node == Some(node)), "{rungs:?}");
        println!("node {}: {:?}", node.get(), region.registration());
    }
}
