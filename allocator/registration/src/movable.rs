//! Movable objects under registration.
//!
//! What a device may reach cannot move, and one object that cannot move spoils a block of those that can.
//! So a movable object is registered by a long-term pin: it goes to the pinned end of its arena first, as the
//! kernel moves pages out of its movable zone before it pins them for long. Compaction goes on around it.
#![allow(unsafe_code)] // declares what holds memory

use core::fmt;
use core::ptr::NonNull;

use bookend::movable::{Budget, Movable, MovableBytes, MovableError, MovableHeap, Pinned};
use bookend::os::{Linux, Os};
use bookend::scatter::{Held, HeldPages};
use bookend::units::Bytes;

use crate::{Region, RegisterError, Registrar};

/// An object of a movable heap that a device may reach: it stands at the pinned end, and stays there for as
/// long as this lives.
pub struct LongTerm<'a, T: ?Sized, O: Os = Linux> {
    pinned: Pinned<'a, T>,
    heap: &'a MovableHeap<O>,
}

impl<'a, T, O: Os> LongTerm<'a, T, O> {
    /// Moves an object to the pinned end, unless it is there, and pins it.
    ///
    /// # Errors
    /// As [`MovableHeap::pin_long_term`]; the object is where it was then.
    pub fn of(
        heap: &'a MovableHeap<O>,
        object: &'a Movable<T>,
        budget: Budget,
    ) -> Result<Self, MovableError> {
        Ok(Self { pinned: heap.pin_long_term(object, budget)?, heap })
    }
}

impl<'a, O: Os> LongTerm<'a, [u8], O> {
    /// The same for bytes.
    ///
    /// # Errors
    /// As [`MovableHeap::pin_bytes_long_term`].
    pub fn of_bytes(
        heap: &'a MovableHeap<O>,
        object: &'a MovableBytes,
        budget: Budget,
    ) -> Result<Self, MovableError> {
        Ok(Self { pinned: heap.pin_bytes_long_term(object, budget)?, heap })
    }
}

impl<'a, T: ?Sized, O: Os> LongTerm<'a, T, O> {
    /// The object.
    pub fn object(&self) -> &Pinned<'a, T> {
        &self.pinned
    }
}

// SAFETY: (1) and (2) while the pin lives the object is not freed and stays where it is, so its blocks are an
// extent of the arena, populated, and their memory is not given back; (3) the pool maps pages at multiples
// of their size.
unsafe impl<T: ?Sized, O: Os> Held for LongTerm<'_, T, O> {
    type Os = O;

    fn os(&self) -> &O {
        self.heap.arena().pool().os()
    }

    fn base(&self) -> NonNull<u8> {
        self.pinned.as_ptr().cast()
    }

    fn len(&self) -> Bytes {
        Bytes::of_len(size_of_val(&*self.pinned))
    }

    fn pages(&self, offset: Bytes) -> Option<HeldPages> {
        let pool = self.heap.arena().pool();
        let at = self.base().as_ptr().wrapping_add(offset.as_usize());
        HeldPages::of(pool, pool.locate(at)?)
    }
}

impl<T: ?Sized, O: Os> fmt::Debug for LongTerm<'_, T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LongTerm({:?})", self.pinned)
    }
}

/// Why a movable object could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MovableRegisterError {
    /// It could not be pinned for long.
    #[error("cannot pin a movable object for a device: {0}")]
    Pin(#[from] MovableError),
    /// It could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// The region of bytes in a movable heap.
type BytesRegion<'a, R, O> = Region<<R as Registrar>::Registration, LongTerm<'a, [u8], O>>;

/// Registering movable objects; every [`Registrar`] can.
pub trait RegisterMovable: Registrar + Sized {
    /// Registers bytes of a movable heap, at the pinned end of its arena.
    ///
    /// # Errors
    /// [`MovableRegisterError`] by what failed; nothing is pinned then.
    fn register_movable<'a, O: Os>(
        &self,
        heap: &'a MovableHeap<O>,
        object: &'a MovableBytes,
        budget: Budget,
    ) -> Result<BytesRegion<'a, Self, O>, MovableRegisterError> {
        Ok(self.register(LongTerm::of_bytes(heap, object, budget)?)?)
    }
}

impl<R: Registrar> RegisterMovable for R {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bookend::placement::Arena;
    use bookend::pool::{Pool, Populate, Rung, Use};
    use bookend::units::BLOCK_BYTES;
    use io_uring::IoUring;

    use super::*;
    use crate::Counting;
    use crate::uring::{Ring, tests};

    const OBJECT: usize = 4096;
    /// Every so many is registered.
    const EVERY: usize = 4;
    const OBJECTS: usize = 12_000;

    fn heap() -> MovableHeap {
        let pool = Pool::builder().capacity(Bytes::mib(256)).populate(Populate::OnDemand);
        let pool = pool.rung(Rung::Transparent, Use::Forbidden).build().unwrap();
        MovableHeap::new(Arc::new(Arena::new(pool).unwrap())).unwrap()
    }

    fn content(n: usize) -> [u8; OBJECT] {
        std::array::from_fn(|at| (n * 31 + at) as u8)
    }

    fn fill(heap: &MovableHeap) -> Vec<MovableBytes> {
        (0..OBJECTS).map(|n| heap.insert_bytes(&content(n)).unwrap()).collect()
    }

    /// Every so many-th of them, which are to be registered.
    fn take_some(objects: &mut Vec<MovableBytes>) -> Vec<MovableBytes> {
        let mut n = 0;
        let is_taken = |_: &mut MovableBytes| {
            n += 1;
            (n - 1) % EVERY == 0
        };
        objects.extract_if(.., is_taken).collect()
    }

    /// Blocks that movable objects stand in, and the fewest they could.
    fn movable_blocks(heap: &MovableHeap) -> (usize, usize) {
        let snapshot = heap.snapshot();
        let blocks = snapshot.movable.iter().map(|extent| extent.range.len().as_usize()).sum();
        let live: u64 = snapshot.movable.iter().map(|extent| extent.live.get()).sum();
        (blocks, (live as usize).div_ceil(BLOCK_BYTES))
    }

    fn compact(heap: &MovableHeap) {
        heap.compact(&mut Budget::UNLIMITED.clone()).unwrap();
    }

    /// Of the objects that are not registered most are freed, so that the rest stands scattered.
    fn thin(objects: Vec<MovableBytes>) -> Vec<(usize, MovableBytes)> {
        let numbered = objects.into_iter().enumerate();
        numbered.filter(|(n, _)| n % 16 == 1).collect()
    }

    #[test]
    fn thousands_of_registered_objects_hold_no_movable_block() {
        let Some(uring) = tests::ring() else { return };
        let ring = Ring::new(tests::fd(&uring), (OBJECTS / EVERY) as u32).unwrap();
        let heap = heap();
        let mut objects = fill(&heap);
        let registered = take_some(&mut objects);
        let regions: Vec<_> = registered
            .iter()
            .map(|object| ring.register_movable(&heap, object, Budget::UNLIMITED).unwrap())
            .collect();
        assert_eq!(regions.len(), OBJECTS / EVERY);
        let end = heap.snapshot().pinned_end.unwrap();
        let pool = heap.arena().pool();
        for (n, region) in regions.iter().enumerate() {
            let object = region.held().object();
            assert!(**object == content(n * EVERY), "its bytes went along");
            assert!(
                pool.locate(object.as_ptr().as_ptr().cast()).unwrap() < end,
                "at the pinned end"
            );
        }
        let left = thin(objects);
        compact(&heap);
        let (blocks, least) = movable_blocks(&heap);
        assert!(blocks <= least + 1, "{blocks} blocks for what fits in {least}");
        // What is registered is reached where it is, after all that.
        check_by_device(uring, &regions);
        let session = heap.session();
        assert!(left.iter().all(|(n, object)| session.bytes(object) == content(original(*n))));
        drop(session);
        drop(regions);
        heap.validate();
    }

    /// The number of an object among those that were not registered, among all.
    fn original(n: usize) -> usize {
        n / (EVERY - 1) * EVERY + n % (EVERY - 1) + 1
    }

    type InRing<'a> = Region<crate::uring::RingBuffers, LongTerm<'a, [u8]>>;

    /// The device writes each object's bytes into a file by its index.
    fn check_by_device(mut uring: IoUring, regions: &[InRing<'_>]) {
        use io_uring::{opcode, types};
        use std::os::fd::AsRawFd;
        let file = tempfile::tempfile().unwrap();
        for (n, region) in regions.iter().enumerate() {
            let at = region.held().object().as_ptr().as_ptr().cast::<u8>();
            let index = region.registration().index_of(at, OBJECT).unwrap();
            let fd = types::Fd(file.as_raw_fd());
            let write = opcode::WriteFixed::new(fd, at, OBJECT as u32, index);
            let write = write.offset((n * OBJECT) as u64).build();
            // SAFETY: the object is pinned until the completion below, and nobody changes it.
            unsafe { uring.submission().push(&write) }.unwrap();
            uring.submit_and_wait(1).unwrap();
            assert_eq!(uring.completion().next().unwrap().result(), OBJECT as i32);
        }
        for n in 0..regions.len() {
            let mut bytes = [0; OBJECT];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, (n * OBJECT) as u64)
                .unwrap();
            assert!(bytes == content(n * EVERY));
        }
    }

    #[test]
    fn an_ordinary_pin_would_spoil_its_block() {
        let heap = heap();
        let mut objects = fill(&heap);
        let registered = take_some(&mut objects);
        // The same without going to the pinned end.
        let pins: Vec<_> =
            registered.iter().map(|object| heap.pin_bytes(object).unwrap()).collect();
        let before = movable_blocks(&heap).0;
        let _left = thin(objects);
        compact(&heap);
        let blocks = movable_blocks(&heap).0;
        assert_eq!(blocks, before, "each block has an object that holds it");
        drop(pins);
        compact(&heap);
        let (blocks, least) = movable_blocks(&heap);
        assert!(
            blocks <= least + 1,
            "{blocks} blocks for what fits in {least}, once they are let go"
        );
    }

    #[test]
    fn what_is_not_registered_is_not_pinned_either() {
        let (heap, counting) = (heap(), Counting::new());
        let object = heap.insert_bytes(&content(0)).unwrap();
        counting.fail_nth(1, libc::ENOMEM);
        let refused = counting.register_movable(&heap, &object, Budget::UNLIMITED).unwrap_err();
        assert!(matches!(refused, MovableRegisterError::Register(_)), "{refused}");
        let session = heap.session();
        let refused = counting.register_movable(&heap, &object, Budget::UNLIMITED).unwrap_err();
        assert!(matches!(refused, MovableRegisterError::Pin(MovableError::InSession)), "{refused}");
        drop(session);
        assert_eq!(counting.counts().registered, 0);
        let region = counting.register_movable(&heap, &object, Budget::UNLIMITED).unwrap();
        assert_eq!(region.registration().pieces()[0].len, Bytes::of_len(OBJECT));
    }
}
