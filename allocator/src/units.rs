//! A type for every quantity, so that a count of blocks is never added to a count of bytes.
//!
//! None of them converts from a bare integer: constructors name the unit. Arithmetic that can
//! leave the range of a type is checked and panics in the constructor's name, because every such
//! quantity here describes memory of one machine and can only overflow by a defect.

use core::fmt;
use core::ops::{Add, Sub};

/// Size of a block, in bytes: the machine's huge page at the PMD level.
///
/// 2 MiB with 4 KiB base pages on x86-64 and AArch64. Start-up code compares it with
/// `/sys/kernel/mm/transparent_hugepage/hpage_pmd_size`; see `os::SystemInfo`.
pub const BLOCK_BYTES: usize = 1 << BLOCK_SHIFT;
/// Binary logarithm of [`BLOCK_BYTES`].
pub const BLOCK_SHIFT: u32 = 21;

const _: () = assert!(BLOCK_BYTES.is_power_of_two());
const _: () = assert!(size_of::<usize>() == 8, "lengths of memory are converted to u64 and back");

/// A length in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// `n` bytes.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The length of something in memory.
    pub const fn of_len(n: usize) -> Self {
        Self(n as u64)
    }

    /// `n` KiB (1,024 bytes each).
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` GiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// As a bare number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As a length in memory (64-bit targets only, so nothing is lost).
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Rounded up to a multiple of `page`; `None` where that overflows.
    pub const fn checked_round_up(self, page: PageSize) -> Option<Self> {
        let mask = page.bytes().0 - 1;
        match self.0.checked_add(mask) {
            Some(n) => Some(Self(n & !mask)),
            None => None,
        }
    }

    /// Rounded down to a multiple of `page`.
    pub const fn round_down(self, page: PageSize) -> Self {
        Self(self.0 & !(page.bytes().0 - 1))
    }

    /// Whether it is a multiple of `page`.
    pub const fn is_multiple_of(self, page: PageSize) -> bool {
        self.0 & (page.bytes().0 - 1) == 0
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0)
    }
}

/// Binary units, exact where the value is a whole number of them: `2 MiB`, `1.5 GiB`, `513 B`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (name, shift) in UNITS {
            if self.0 >> shift != 0 {
                return if self.0 & ((1 << shift) - 1) == 0 {
                    write!(f, "{} {name}", self.0 >> shift)
                } else {
                    write!(f, "{:.1} {name}", self.0 as f64 / (1u64 << shift) as f64)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.checked_add(other.0).expect("Bytes + Bytes leaves 64 bits"))
    }
}

impl Sub for Bytes {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.checked_sub(other.0).expect("Bytes - Bytes below zero"))
    }
}

/// A page size: a power of two, kept as its exponent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    /// 4 KiB, the base page of x86-64. What this machine's is, only
    /// [`crate::os::Os::base_page_size`] can tell.
    pub const KIB4: Self = Self { shift: 12 };
    /// 2 MiB, one block.
    pub const MIB2: Self = Self { shift: BLOCK_SHIFT as u8 };
    /// 1 GiB, a gigantic page.
    pub const GIB1: Self = Self { shift: 30 };

    /// The page size of that many bytes, if it is a power of two.
    pub const fn from_bytes(bytes: Bytes) -> Option<Self> {
        if bytes.0.is_power_of_two() {
            Some(Self { shift: bytes.0.trailing_zeros() as u8 })
        } else {
            None
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> Bytes {
        Bytes(1 << self.shift)
    }

    /// Binary logarithm of the size in bytes.
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.bytes())
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.bytes(), f)
    }
}

/// A count of blocks of [`BLOCK_BYTES`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blocks(u32);

impl Blocks {
    /// No blocks.
    pub const ZERO: Self = Self(0);
    /// One block.
    pub const ONE: Self = Self(1);

    /// `n` blocks.
    pub const fn new(n: u32) -> Self {
        Self(n)
    }

    /// As many blocks as hold `bytes`; `None` beyond 2^32 − 1 of them (8 PiB).
    pub const fn holding(bytes: Bytes) -> Option<Self> {
        let blocks = bytes.0.div_ceil(BLOCK_BYTES as u64);
        if blocks <= u32::MAX as u64 { Some(Self(blocks as u32)) } else { None }
    }

    /// As a bare count.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// As a bare count, for indexing.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Their length in bytes.
    pub const fn bytes(self) -> Bytes {
        Bytes((self.0 as u64) << BLOCK_SHIFT)
    }
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}blocks", self.0)
    }
}

impl Add for Blocks {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.checked_add(other.0).expect("Blocks + Blocks leaves 32 bits"))
    }
}

impl Sub for Blocks {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.checked_sub(other.0).expect("Blocks - Blocks below zero"))
    }
}

/// The number of a block in its pool; 0 stands at the low end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(u32);

impl BlockId {
    /// The block at `index` from the low end.
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// As a bare index.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// As a bare index, for indexing.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    /// Distance of the block's first byte from the pool's, in bytes.
    pub const fn offset(self) -> Bytes {
        Bytes((self.0 as u64) << BLOCK_SHIFT)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "B{}", self.0)
    }
}

impl Add<Blocks> for BlockId {
    type Output = Self;
    fn add(self, n: Blocks) -> Self {
        Self(self.0.checked_add(n.0).expect("BlockId + Blocks leaves 32 bits"))
    }
}

/// Blocks that follow one another: `start`, and `len` of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRange {
    start: BlockId,
    len: Blocks,
}

impl BlockRange {
    /// `len` blocks from `start` on. Panics where the end would leave 32 bits.
    pub const fn new(start: BlockId, len: Blocks) -> Self {
        assert!(start.0.checked_add(len.0).is_some(), "BlockRange ends beyond 32 bits");
        Self { start, len }
    }

    /// The first block.
    pub const fn start(self) -> BlockId {
        self.start
    }

    /// How many blocks.
    pub const fn len(self) -> Blocks {
        self.len
    }

    /// The block after the last.
    pub const fn end(self) -> BlockId {
        BlockId(self.start.0 + self.len.0)
    }

    /// Whether it holds no block.
    pub const fn is_empty(self) -> bool {
        self.len.0 == 0
    }

    /// Whether `block` is one of them.
    pub const fn contains(self, block: BlockId) -> bool {
        self.start.0 <= block.0 && block.0 < self.end().0
    }

    /// Whether the two have a block in common.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.start.0 < other.end().0
            && other.start.0 < self.end().0
    }

    /// Each block, lowest first.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = BlockId> + ExactSizeIterator {
        (self.start.0..self.end().0).map(BlockId)
    }
}

impl fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "B{}..B{}", self.start.0, self.start.0 + self.len.0)
    }
}

/// A page frame number: physical address divided by the base page size.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u64);

impl Pfn {
    /// Frame number `n`.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// As a bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame `frames` base pages further.
    pub const fn offset(self, frames: u64) -> Self {
        Self(self.0 + frames)
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pfn({:#x})", self.0)
    }
}

/// A NUMA node's number, as in `/sys/devices/system/node/nodeN`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(u32);

impl Node {
    /// Node `n`.
    pub const fn new(n: u32) -> Self {
        Self(n)
    }

    /// As a bare number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node{}", self.0)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_whole_binary_units_where_exact() {
        for (bytes, shown) in [
            (Bytes::new(0), "0 B"),
            (Bytes::new(1023), "1023 B"),
            (Bytes::kib(4), "4 KiB"),
            (Bytes::mib(2), "2 MiB"),
            (Bytes::new(3 << 29), "1.5 GiB"),
            (Bytes::gib(4096), "4 TiB"),
        ] {
            assert_eq!(bytes.to_string(), shown);
        }
    }

    #[test]
    fn rounding_refuses_to_overflow() {
        assert_eq!(Bytes::new(1).checked_round_up(PageSize::MIB2), Some(Bytes::mib(2)));
        assert_eq!(Bytes::mib(2).checked_round_up(PageSize::MIB2), Some(Bytes::mib(2)));
        assert_eq!(Bytes::new(u64::MAX).checked_round_up(PageSize::MIB2), None);
        assert_eq!(Bytes::new(u64::MAX).round_down(PageSize::GIB1).get() & ((1 << 30) - 1), 0);
    }

    #[test]
    fn a_pool_of_8_pib_is_the_largest() {
        let largest = Blocks::new(u32::MAX).bytes();
        assert_eq!(Blocks::holding(largest), Some(Blocks::new(u32::MAX)));
        assert_eq!(Blocks::holding(largest + Bytes::new(1)), None);
        assert_eq!(Blocks::holding(Bytes::new(1)), Some(Blocks::ONE));
    }

    #[test]
    fn page_sizes_are_powers_of_two() {
        assert_eq!(PageSize::from_bytes(Bytes::mib(2)), Some(PageSize::MIB2));
        assert_eq!(PageSize::from_bytes(Bytes::new(3)), None);
        assert_eq!(PageSize::from_bytes(Bytes::ZERO), None);
    }

    #[test]
    fn ranges_overlap_only_where_they_share_a_block() {
        let a = BlockRange::new(BlockId::new(2), Blocks::new(3));
        assert!(a.overlaps(BlockRange::new(BlockId::new(4), Blocks::new(9))));
        assert!(!a.overlaps(BlockRange::new(BlockId::new(5), Blocks::new(1))));
        assert!(!a.overlaps(BlockRange::new(BlockId::new(3), Blocks::ZERO)));
        assert_eq!(a.iter().len(), 3);
    }
}
