//! Rings of slots on the first RDMA device there is (in the lab rxe): data in every manner, and what a sender
//! that means harm can do.
#![allow(unsafe_code)] // posts a malicious sender's work requests

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bookend::pool::{Pool, SharedPin};
use bookend::units::Bytes;
use bookend_registration::Registrar;
use bookend_registration::ring::{Patience, ReceiveRing, RingError, SendRing, Shape};
use bookend_registration::verbs::{
    Access, Device, Domain, QueuePair, QueueSizes, RemoteMemory, Sge, WorkError,
};
use bookend_tests::skip::say;

const SHAPE: Shape = Shape { slots: 3, slot: Bytes::kib(64) };
static GO_ON: AtomicBool = AtomicBool::new(false);
const PATIENCE: Patience<'_> = Patience { limit: Duration::from_secs(30), stop: &GO_ON };

/// A domain of the first device, or the reason why there is none.
fn domain() -> Option<Arc<Domain>> {
    let device = Device::open(None).map_err(|why| say(&why.to_string())).ok()?;
    Some(Domain::new(&device).unwrap())
}

fn receiver(domain: &Arc<Domain>, windows: bool) -> ReceiveRing {
    let made = if windows {
        ReceiveRing::new(domain, SHAPE)
    } else {
        ReceiveRing::without_windows(domain, SHAPE)
    };
    let ring = made.unwrap();
    assert_eq!(ring.has_windows(), windows, "the device has windows of type 2");
    ring
}

fn content(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ number as u8).collect()
}

#[test]
fn slots_arrive_in_order_in_every_manner() {
    let Some(domain) = domain() else { return };
    for (windows, immediates) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut from = SendRing::new(&domain, SHAPE).unwrap();
        let mut to = receiver(&domain, windows);
        from.connect(&to.endpoint(), immediates).unwrap();
        to.connect(&from.endpoint(), immediates).unwrap();
        assert!(!from.is_free());
        from.open(to.open(&PATIENCE).unwrap()).unwrap();
        let len = |number: u64| SHAPE.slot.as_usize() - number as usize * 100;
        let (mut sent, mut received) = (0, 0);
        // The sender is ahead by as many slots as there are.
        while received < 20 {
            while from.is_free() && sent < 20 {
                let content = content(sent, len(sent));
                from.buffer(&PATIENCE).unwrap()[..content.len()].copy_from_slice(&content);
                from.send(content.len()).unwrap();
                sent += 1;
            }
            assert!(sent == 20 || sent - received == 3, "{sent} sent, {received} received");
            to.arrive(len(received), &PATIENCE).unwrap();
            assert!(to.data() == content(received, len(received)), "slot {received}");
            let key = to.give_back(&PATIENCE).unwrap().unwrap();
            assert!(to.data().is_empty());
            assert_eq!(to.give_back(&PATIENCE).unwrap(), None, "there is no other");
            from.grant(key).unwrap();
            received += 1;
        }
        from.settle(&PATIENCE).unwrap();
        assert!(matches!(from.grant(1), Err(RingError::Breach(_))), "every slot has a key");
    }
}

#[test]
fn nothing_that_comes_is_waited_for_without_end() {
    let Some(domain) = domain() else { return };
    let mut ring = receiver(&domain, true);
    let peer = SendRing::new(&domain, SHAPE).unwrap();
    ring.connect(&peer.endpoint(), true).unwrap();
    let since = Instant::now();
    let short = Patience { limit: Duration::from_millis(100), ..PATIENCE };
    let late = ring.arrive(1, &short).unwrap_err();
    assert!(matches!(late, RingError::Work(WorkError::TimedOut(_))), "{late}");
    let stop = AtomicBool::new(true);
    let stopped = ring.arrive(1, &Patience { stop: &stop, ..PATIENCE }).unwrap_err();
    assert!(matches!(stopped, RingError::Stopped), "{stopped}");
    assert!(since.elapsed() < Duration::from_secs(20));
    let long = ring.arrive(SHAPE.slot.as_usize() + 1, &PATIENCE).unwrap_err();
    assert!(matches!(long, RingError::Breach(_)), "{long}");
}

/// A sender that does as it likes.
struct Evil {
    queue: QueuePair,
    entry: Sge,
    _memory:
        bookend_registration::Region<bookend_registration::verbs::Regions, SharedPin<Arc<Pool>>>,
}

impl Evil {
    fn new(domain: &Arc<Domain>) -> Self {
        let pool = Arc::new(Pool::builder().capacity(Bytes::mib(2)).build().unwrap());
        let start = pool.base().as_ptr();
        // SAFETY: the pool has as many bytes, and nobody else uses them.
        unsafe { std::ptr::write_bytes(start, 0xee, 4096) };
        let pin = SharedPin::new(pool.clone(), pool.blocks()).unwrap();
        let memory = domain.registrar(Access::LOCAL_WRITE).unwrap().register(pin).unwrap();
        let entry = memory.registration().entries(start, 4096).unwrap()[0];
        let sizes = QueueSizes { sends: 16, receives: 1, entries: 1 };
        let queue = QueuePair::new(domain, 1, sizes, Access::LOCAL_READ).unwrap();
        Self { queue, entry, _memory: memory }
    }

    fn write(&self, to: RemoteMemory, mark: Option<u32>) -> Result<(), WorkError> {
        // SAFETY: the entry stays registered, and is not written to.
        unsafe { self.queue.write(1, &[self.entry], to, mark) }.unwrap();
        self.queue.wait(PATIENCE.limit).map(drop)
    }
}

/// A receiver and an evil sender; the receiver's slots.
fn ends(domain: &Arc<Domain>, windows: bool) -> (Evil, ReceiveRing, Vec<RemoteMemory>) {
    let (evil, mut ring) = (Evil::new(domain), receiver(domain, windows));
    evil.queue.connect(&ring.endpoint()).unwrap();
    ring.connect(&evil.queue.endpoint(), true).unwrap();
    let slots = ring.open(&PATIENCE).unwrap();
    (evil, ring, slots)
}

#[test]
fn what_was_accepted_stays_as_it_is() {
    let Some(domain) = domain() else { return };
    for windows in [true, false] {
        let (evil, mut ring, slots) = ends(&domain, windows);
        evil.write(slots[0], Some(0)).unwrap();
        ring.arrive(4096, &PATIENCE).unwrap();
        assert!(ring.data().iter().all(|&byte| byte == 0xee));
        // SAFETY: no request names the evil sender's memory now.
        unsafe { std::ptr::write_bytes(evil.entry.addr as *mut u8, 0x11, 4096) };
        let again = evil.write(slots[0], None);
        assert_eq!(again.is_err(), windows, "{again:?}: a key that was taken back opens nothing");
        assert!(ring.data().iter().all(|&byte| byte == 0xee), "windows: {windows}");
    }
}

#[test]
fn nobody_writes_beside_the_slots() {
    let Some(domain) = domain() else { return };
    let beside: [fn(&[RemoteMemory]) -> RemoteMemory; 4] = [
        |slots| RemoteMemory { address: slots[0].address - 1, ..slots[0] },
        |slots| RemoteMemory { address: slots[0].address + SHAPE.slot.get() - 4095, ..slots[0] },
        |slots| RemoteMemory { address: slots[1].address, key: slots[0].key },
        |slots| RemoteMemory { address: slots[2].address, key: slots[2].key.wrapping_add(1) },
    ];
    for (which, beside) in beside.into_iter().enumerate() {
        let (evil, _ring, slots) = ends(&domain, true);
        let written = evil.write(beside(&slots), None);
        assert!(matches!(written, Err(WorkError::Failed { .. })), "{which}: {written:?}");
    }
    // Without windows the key is for the ring, and for nothing else.
    let (evil, _ring, slots) = ends(&domain, false);
    let behind = Bytes::mib(2).get() + slots[0].address - 4095;
    let written = evil.write(RemoteMemory { address: behind, ..slots[0] }, None);
    assert!(matches!(written, Err(WorkError::Failed { .. })), "{written:?}");
}

#[test]
fn words_out_of_turn_end_it() {
    let Some(domain) = domain() else { return };
    // Not what comes next; and more than there are keys for, where keys do not end by themselves.
    for marks in [&[1][..], &[0, 0], &[0, 1, 2, 3]] {
        let (evil, mut ring, slots) = ends(&domain, false);
        let mut ended = None;
        for (at, &mark) in marks.iter().enumerate() {
            evil.write(slots[at % slots.len()], Some(mark)).unwrap();
            ended = ring.arrive(4096, &PATIENCE).err();
        }
        assert!(matches!(ended, Some(RingError::Breach(_))), "{marks:?}: {ended:?}");
    }
}
