//! Size classes, and the shape of their slabs.
//!
//! Up to 128 bytes a class every 16, because that is what objects must be aligned to; from there on
//! eight classes a doubling, so that rounding up wastes at most a ninth; but 225 to 240 bytes get 256, so that
//! two of them make 512 (see [`Class::neighbours_of`]): with the few bytes that programs put before what they
//! keep, twice as much does not fit into 480. A slab is a run of slices cut into objects of one class; it
//! has as few slices as leave little of them unused.

#![allow(unsafe_code)] // a lookup without a check

use crate::units::{BLOCK_BYTES, BLOCK_SHIFT};

/// Binary logarithm of [`SLICE_BYTES`].
pub(crate) const SLICE_SHIFT: u32 = 15;
/// What a block is cut into: 64 slices, so that a block's free slices are one word.
pub(crate) const SLICE_BYTES: usize = 1 << SLICE_SHIFT;
/// Slices of a block.
pub(crate) const SLICES: u32 = 1 << (BLOCK_SHIFT - SLICE_SHIFT);
const _: () = assert!(SLICES == u64::BITS && SLICE_BYTES * SLICES as usize == BLOCK_BYTES);

/// Least alignment and least size of an object: what `max_align_t` needs on 64-bit machines.
pub(crate) const ALIGN_MIN: usize = 16;
/// The largest object of a slab.
pub(crate) const SLAB_OBJECT_MAX: usize = 256 << 10;
/// The longest allocation made of slices; longer ones are whole blocks.
pub(crate) const SLICE_RUN_MAX: usize = BLOCK_BYTES / 2;

/// Linear classes, and how many there are in each doubling above.
const LINEAR: usize = 8;
const STEPS: usize = 8;
/// How many classes there are.
pub(crate) const CLASSES: usize =
    LINEAR + STEPS * (SLAB_OBJECT_MAX.ilog2() - (LINEAR * ALIGN_MIN).ilog2()) as usize;
const _: () = assert!(CLASSES == 96 && Class(CLASSES as u8 - 1).size() == SLAB_OBJECT_MAX);

/// Longer than the one and up to the other, 256 bytes are given.
const UNUSED: core::ops::Range<usize> = 224..240;

/// The most slices of a slab.
pub(crate) const SLAB_SLICES_MAX: u32 = 16;
/// The most objects of a slab.
pub(crate) const OBJECTS_MAX: usize = SLICE_BYTES / ALIGN_MIN;

/// Objects of a slab of which several neighbours can be [joined](Class::neighbours_of), at most.
pub(crate) const JOINED_MAX: usize = OBJECTS_MAX / 2;
/// The longest of them: of longer ones, whole pages are free where they are.
const JOINED_SIZE_MAX: usize = 32 << 10;
/// So many neighbours at most.
const NEIGHBOURS_MAX: u32 = 32;

/// A size class, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Class(pub(crate) u8);

impl Class {
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The smallest class of objects of at least `size` bytes, which is at most
    /// [`SLAB_OBJECT_MAX`].
    #[inline(always)]
    pub const fn of(size: usize) -> Self {
        if size <= TABLE_MAX { Self(TABLE[size.div_ceil(ALIGN_MIN)]) } else { Self::computed(size) }
    }

    const fn computed(size: usize) -> Self {
        if size <= LINEAR * ALIGN_MIN {
            return Self(size.saturating_sub(1).div_euclid(ALIGN_MIN) as u8);
        }
        if size > UNUSED.start && size <= UNUSED.end {
            return Self(LINEAR as u8 + STEPS as u8 - 1);
        }
        let last = size - 1;
        let doubling = last.ilog2();
        let step = (last >> (doubling - 3)) & (STEPS - 1);
        Self((LINEAR + (doubling as usize - 7) * STEPS + step) as u8)
    }

    /// Whether an empty slab is worth keeping for the next object: of these classes it is not, as
    /// they are so large that what is done with an object takes longer than making a slab.
    pub const fn is_large(self) -> bool {
        self.size() > SLICE_BYTES
    }

    /// Bytes of its objects.
    pub const fn size(self) -> usize {
        let class = self.0 as usize;
        if class < LINEAR {
            (class + 1) * ALIGN_MIN
        } else {
            let (doubling, step) = ((class - LINEAR) / STEPS, (class - LINEAR) % STEPS);
            (STEPS + step + 1) << (4 + doubling)
        }
    }

    /// The smallest class whose objects are all aligned to `align` and at least `size` long; `None`
    /// where no slab has such. A slab begins on a slice, so an object is aligned where its class's
    /// size is a multiple of the alignment.
    pub fn aligned(size: usize, align: usize) -> Option<Self> {
        if align > SLICE_BYTES || size > SLAB_OBJECT_MAX {
            return None;
        }
        let first = Self::of(size.max(align).next_multiple_of(align));
        (first.0..CLASSES as u8).map(Self).find(|class| class.size().is_multiple_of(align))
    }

    /// Whether neighbours in a slab of this class can be joined.
    #[inline]
    pub fn joins(self) -> bool {
        self.shape().objects as usize <= JOINED_MAX && self.size() < JOINED_SIZE_MAX
    }

    /// How many neighbours of another class make an object of this one: if there are few enough, and they are an
    /// eighth longer at most.
    #[inline]
    pub fn neighbours_of(self, host: Self) -> Option<u32> {
        let (size, of_one) = (self.shape().size, host.shape().size);
        let count = size.div_ceil(of_one);
        let fits = host < self && count <= NEIGHBOURS_MAX && count * of_one <= size + size / 8;
        (fits && host.joins()).then_some(count)
    }

    /// As [`Class::shape`], while compiling.
    pub const fn shape_const(self) -> Shape {
        Shape::new(self)
    }

    #[inline(always)]
    pub fn shape(self) -> &'static Shape {
        &SHAPES[self.index()]
    }
}

/// How the slabs of a class are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes of an object.
    pub size: u32,
    /// Slices of a slab.
    pub slices: u32,
    /// Objects of a slab.
    pub objects: u32,
    /// How many objects a thread keeps at most outside their slabs.
    pub kept: u32,
    /// How many of other threads' it sets aside at most.
    pub aside: u32,
    /// Of how many such objects on it takes them for itself, rather than others from its own slabs.
    /// Single short ones it does not: their neighbours on a cache line are others' and written by
    /// them.
    pub reused: u32,
    /// 2^44 / size, rounded up.
    reciprocal: u64,
}

impl Shape {
    /// Bytes of a slab that are objects.
    #[inline]
    pub fn used(&self) -> usize {
        self.objects as usize * self.size as usize
    }

    /// The object that `offset` bytes into a slab lie in, and how far.
    #[inline]
    pub fn locate(&self, offset: usize) -> (u32, usize) {
        // Exact: with r = (2^44 + e) / size and e < size, the product is off by offset * e / 2^44
        // of an object, which is less than 1 / size as offset < 2^19 and e < 2^18.
        let object = (offset as u64 * self.reciprocal) >> 44;
        (object as u32, offset - object as usize * self.size as usize)
    }

    const fn new(class: Class) -> Self {
        let size = class.size();
        let slices = slices_for(size);
        let kept = KEPT_BYTES / size;
        let kept = if kept > KEPT_MAX {
            KEPT_MAX
        } else if size > SLICE_BYTES {
            1
        } else {
            kept
        };
        Self {
            size: size as u32,
            slices,
            objects: (slices as usize * SLICE_BYTES / size) as u32,
            kept: kept as u32,
            aside: if size > ASIDE_SIZE_MAX {
                0
            } else if kept > ASIDE_MAX {
                ASIDE_MAX as u32
            } else {
                kept as u32
            },
            reused: if size < SHARES_LINES { 8 } else { 1 },
            reciprocal: (1u64 << 44).div_ceil(size as u64),
        }
    }
}

const _: () = assert!(SLAB_SLICES_MAX as usize * SLICE_BYTES <= 1 << 19);

/// A thread keeps about this much of a class, at least one object and at most so many.
const KEPT_BYTES: usize = 64 << 10;
const KEPT_MAX: usize = 128;
/// Of other threads' objects so many, and none that are longer.
const ASIDE_MAX: usize = 64;
const ASIDE_SIZE_MAX: usize = 4 << 10;
/// Objects shorter than two cache lines have most of them in common with others.
const SHARES_LINES: usize = 128;

/// The fewest slices of which at most a 32nd stays unused, with at least 8 objects up to a
/// slice and with one above.
const fn slices_for(size: usize) -> u32 {
    let objects_min = if size <= SLICE_BYTES { 8 } else { 1 };
    let mut slices = 1;
    while slices < SLAB_SLICES_MAX {
        let len = slices as usize * SLICE_BYTES;
        if len / size >= objects_min && (len % size) * 32 <= len {
            break;
        }
        slices += 1;
    }
    slices
}

static SHAPES: [Shape; CLASSES] = {
    let mut shapes = [Shape::new(Class(0)); CLASSES];
    let mut class = 0;
    while class < CLASSES {
        shapes[class] = Shape::new(Class(class as u8));
        class += 1;
    }
    shapes
};

/// Sizes up to this are looked up.
pub(crate) const TABLE_MAX: usize = 1024;
static TABLE: [u8; TABLE_MAX / ALIGN_MIN + 1] = {
    let mut table = [0; TABLE_MAX / ALIGN_MIN + 1];
    let mut at = 0;
    while at < table.len() {
        table[at] = Class::computed(at * ALIGN_MIN).0;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_gets_the_smallest_class_that_holds_it() {
        for size in 0..=SLAB_OBJECT_MAX {
            let class = Class::of(size);
            assert!(class.size() >= size, "{size}");
            let shorter = class.0.checked_sub(1).map(Class);
            let unused = size > UNUSED.start && size <= UNUSED.end;
            assert!(shorter.is_none_or(|shorter| shorter.size() < size || unused), "{size}");
            assert!(!unused || class.size() == 256);
        }
    }

    #[test]
    fn rounding_up_wastes_at_most_an_eighth_above_the_linear_classes() {
        for size in 129..=SLAB_OBJECT_MAX {
            let class = Class::of(size).size();
            assert!((class - size) * 8 <= class, "{size} in {class}");
        }
    }

    #[test]
    fn slabs_leave_little_unused() {
        for class in (0..CLASSES as u8).map(Class) {
            let shape = class.shape();
            let len = shape.slices as usize * SLICE_BYTES;
            let unused = len - shape.objects as usize * class.size();
            assert!(unused * 16 <= len, "{class:?}: {unused} of {len}, {shape:?}");
            assert!(shape.objects >= 1 && shape.objects as usize <= OBJECTS_MAX);
        }
    }

    #[test]
    fn objects_are_found_from_any_byte_of_theirs() {
        for class in (0..CLASSES as u8).map(Class) {
            let shape = class.shape();
            let len = shape.slices as usize * SLICE_BYTES;
            let step = if class.size() < 1024 { 1 } else { 61 };
            for offset in (0..len).step_by(step).chain(len - 1..len) {
                let found = (offset / class.size()) as u32;
                assert_eq!(shape.locate(offset), (found, offset % class.size()));
            }
        }
    }

    #[test]
    fn neighbours_make_an_object_that_is_little_longer() {
        let all = || (0..CLASSES as u8).map(Class);
        for (class, host) in all().flat_map(|class| all().map(move |host| (class, host))) {
            let (size, of_one) = (class.size(), host.size());
            let few = host.shape().objects as usize <= JOINED_MAX && of_one < JOINED_SIZE_MAX;
            match class.neighbours_of(host) {
                Some(count) => {
                    let len = of_one * count as usize;
                    assert!(
                        few && of_one < size && len >= size && len * 8 <= size * 9,
                        "{class:?}, {host:?}"
                    );
                    assert!(len - of_one < size, "{class:?} of fewer {host:?}");
                }
                None => assert!(!few || of_one * 2 != size, "{class:?} of two {host:?}"),
            }
        }
    }

    #[test]
    fn aligned_classes_are_multiples_of_their_alignment() {
        for shift in 4..=SLICE_SHIFT {
            for size in [1, 17, 100, 1000, 5000, 40_000, SLAB_OBJECT_MAX] {
                let class = Class::aligned(size, 1 << shift).unwrap();
                assert!(class.size() >= size && class.size().is_multiple_of(1 << shift));
            }
        }
        assert_eq!(Class::aligned(1, 2 * SLICE_BYTES), None);
        assert_eq!(Class::aligned(SLAB_OBJECT_MAX + 1, 16), None);
    }
}
