//! What is behind the heap's lock: its blocks, cut into slices for slabs and runs, and its huge
//! extents.
#![allow(unsafe_code)] // tables that are shared

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use super::classes::{CLASSES, Class, SLICE_BYTES, SLICE_RUN_MAX, SLICES};
use super::config::Config;
use super::filler::{Filler, Slices};
use super::record::State;
use super::stats::Stats;
use super::supply::{NoSupply, Supply};
use super::tables::{Entry, OWNERS_MAX, Owner, Tables};
use crate::os::{Array, Errno, Os};
use crate::placement::Class as Place;
use crate::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

/// The smallest span worth a heap.
const SPAN_MIN: Bytes = Bytes::mib(16);
/// The largest: a heap's tables are a 50th of it, in address space.
const SPAN_MAX: Bytes = Bytes::gib(32 << 10);
/// How many times the machine's memory: programs reserve what they never touch.
const SPAN_TIMES: u64 = 16;

/// What is behind the lock.
#[derive(Debug)]
pub(super) struct Central<O: Os> {
    pub os: O,
    pub supply: Supply<O>,
    pub filler: Filler<O>,
    pub tables: Tables<O>,
    pub locals: Array<AtomicU64, O>,
    /// Owners so far.
    pub owners: u32,
    /// The first of the threads' heaps that wait for another thread; 0: none.
    pub retired: u32,
    /// How many of those have kept what is in their bins.
    pub warm: u32,
    pub active: u32,
    /// A wholly free block that the filler keeps, so that one slab coming and going does not take
    /// and give back a block each time.
    spare: Option<BlockId>,
    pub slab_slices: u64,
    /// Slabs of each class.
    slabs: [u32; CLASSES],
    pub run_slices: u64,
    pub huge_blocks: u64,
    failures: u64,
    /// Whether the system takes parts of blocks back.
    pub parts: bool,
    /// Blocks of which it has some.
    pub split_blocks: u64,
    /// When somebody last began to look for such, in milliseconds.
    pub round_ms: u32,
    /// Bytes of parts that it has had so far.
    pub returned_parts: u64,
}

impl<O: Os> Central<O> {
    pub fn new(os: O, config: Config) -> Result<Self, Errno> {
        let mut capacity = span(&os);
        loop {
            match Self::with_capacity(os.clone(), capacity, config) {
                Err(_) if capacity > SPAN_MIN => capacity = Bytes::new(capacity.get() / 2),
                result => return result,
            }
        }
    }

    fn with_capacity(os: O, capacity: Bytes, config: Config) -> Result<Self, Errno> {
        let supply = Supply::new(os.clone(), capacity, config).map_err(|why| match why {
            NoSupply::Table(errno) => errno,
            NoSupply::Pool(_) => Errno::NOMEM,
        })?;
        let blocks = supply.pool().capacity();
        Ok(Self {
            filler: Filler::new(os.clone(), blocks)?,
            tables: Tables::new(os.clone(), supply.pool().base(), blocks)?,
            locals: Array::new(os.clone(), OWNERS_MAX as usize + 1)?,
            os,
            supply,
            owners: 0,
            retired: 0,
            warm: 0,
            active: 0,
            spare: None,
            slab_slices: 0,
            slabs: [0; CLASSES],
            run_slices: 0,
            huge_blocks: 0,
            failures: 0,
            parts: true,
            split_blocks: 0,
            round_ms: 0,
            returned_parts: 0,
        })
    }

    /// Milliseconds since some time; wraps around.
    fn now_ms(&self) -> u32 {
        (self.os.now_ns() / 1_000_000) as u32
    }

    // Slices.

    /// A run of slices, of one more block where there is none and it `may_grow`; whether it is zero.
    fn slices(&mut self, count: u32, align: u32, may_grow: bool) -> Option<(Slices, bool)> {
        if let Some(found) = self.filler.take(count, align) {
            return Some(found);
        }
        if !may_grow {
            return None;
        }
        let (block, zero) = self.supply.take()?;
        if self.tables.ensure(block, true).is_err() {
            let now = self.now_ms();
            self.supply.give(block, now);
            return None;
        }
        self.filler.add(block.start(), zero);
        self.filler.take(count, align)
    }

    fn give_slices(&mut self, run: Slices) {
        let now = self.now_ms();
        if self.filler.give(run) {
            match self.spare {
                Some(spare) if spare != run.block && self.filler.is_empty(spare) => {
                    self.give_block(run.block, now);
                }
                _ => self.spare = Some(run.block),
            }
        }
        self.supply.release_idle(now);
    }

    /// Gives back a block that is wholly free and the filler's.
    fn give_block(&mut self, block: BlockId, now_ms: u32) {
        if self.filler.is_split(block) {
            self.mend(block);
        }
        self.filler.remove(block);
        self.supply.give(BlockRange::new(block, Blocks::ONE), now_ms);
    }

    /// The same of the one that was kept, which has been free for long.
    pub fn give_spare(&mut self, block: BlockId) {
        if self.spare == Some(block) {
            self.spare = None;
        }
        let now = self.now_ms();
        self.give_block(block, now);
    }

    /// A new slab of an owner, all its objects free; its first slice. Of one more block only where it
    /// `may_grow`.
    pub fn new_slab(&mut self, class: Class, owner: Owner, may_grow: bool) -> Option<u32> {
        let Some((run, _)) = self.slices(class.shape().slices, 1, may_grow) else {
            self.failures += u64::from(may_grow);
            return None;
        };
        self.slab_slices += u64::from(run.count);
        self.slabs[class.index()] += 1;
        let head = run.slice();
        let view = self.tables.view();
        // SAFETY: (1) the block's tables are there; (2) the slices are nobody's but this slab's,
        // which has no owner yet.
        unsafe {
            let record = view.record(head);
            record.set_to_head(0);
            record.forget_pages();
            record.slab().begin(class);
            for slice in 0..run.count {
                view.record(head + slice).set_to_head(slice as u8);
                view.set_entry(head + slice, Entry::Slab(owner, class));
            }
        }
        Some(head)
    }

    /// Takes a slab back, whose objects are all free.
    pub fn end_slab(&mut self, head: u32, class: Class) {
        let run = Slices::from_slice(head, class.shape().slices);
        let view = self.tables.view();
        // SAFETY: (1) the block's tables are there; (2) its owner, who calls this, is the last to
        // know of the slab.
        unsafe {
            view.record(head).slab().end();
            for slice in head..head + run.count {
                view.set_entry(slice, Entry::Nothing);
                view.record(slice).set_to_head(0);
            }
        }
        self.slab_slices -= u64::from(run.count);
        self.slabs[class.index()] -= 1;
        self.give_slices(run);
    }

    // Longer allocations.

    /// An allocation that is too long for a slab, or aligned to more than one is; whether it is
    /// zero.
    pub fn allocate(&mut self, size: usize, align: usize) -> Option<(NonNull<u8>, bool)> {
        let now = self.now_ms();
        self.supply.release_idle(now);
        let found = if size <= SLICE_RUN_MAX && align <= SLICE_RUN_MAX {
            self.allocate_run(size, align)
        } else {
            self.allocate_huge(size, align)
        };
        self.failures += u64::from(found.is_none());
        found
    }

    fn allocate_run(&mut self, size: usize, align: usize) -> Option<(NonNull<u8>, bool)> {
        let count = size.div_ceil(SLICE_BYTES).max(1) as u32;
        let (run, zero) = self.slices(count, align.div_ceil(SLICE_BYTES) as u32, true)?;
        self.run_slices += u64::from(count);
        let view = self.tables.view();
        // SAFETY: the block's tables are there, and the slices were free.
        unsafe { view.set_entry(run.slice(), Entry::Run(count)) };
        NonNull::new(view.address(run.slice()) as *mut u8).map(|at| (at, zero))
    }

    fn allocate_huge(&mut self, size: usize, align: usize) -> Option<(NonNull<u8>, bool)> {
        let used = Bytes::of_len(size.max(1));
        let blocks = Blocks::holding(used)?;
        let align = u32::try_from(align.div_ceil(BLOCK_BYTES)).ok()?;
        let (range, zero) = self.supply.take_extent(blocks, align, used)?;
        let first = BlockRange::new(range.start(), Blocks::ONE);
        if self.tables.ensure(first, false).is_err() {
            let now = self.now_ms();
            self.supply.give_extent(range, now);
            return None;
        }
        self.supply.set_extent(range);
        self.huge_blocks += u64::from(range.len().get());
        // SAFETY: the words of the first block are there, and the blocks were free.
        unsafe { self.tables.view().set_entry(first_slice(range.start()), Entry::Huge) };
        Some((self.supply.pool().address(range.start()), zero))
    }

    /// Frees what [`Central::allocate`] gave; whether anything begins there.
    pub fn free(&mut self, slice: u32) -> bool {
        let entry = self.tables.view().entry(slice);
        match entry {
            Entry::Run(count) => {
                self.run_slices -= u64::from(count);
                // SAFETY: the slice's word says that it has one.
                unsafe { self.tables.view().set_entry(slice, Entry::Nothing) };
                self.give_slices(Slices::from_slice(slice, count));
            }
            Entry::Huge => {
                let range = self.supply.extent(BlockId::new(slice / SLICES));
                self.huge_blocks -= u64::from(range.len().get());
                // SAFETY: as above.
                unsafe { self.tables.view().set_entry(slice, Entry::Nothing) };
                let now = self.now_ms();
                self.supply.give_extent(range, now);
                self.supply.release_idle(now);
            }
            Entry::Slab(..) | Entry::Nothing => return false,
        }
        true
    }

    /// Bytes of the allocation that begins at a slice, which is no slab.
    pub fn usable(&self, slice: u32) -> usize {
        match self.tables.view().entry(slice) {
            Entry::Run(count) => count as usize * SLICE_BYTES,
            Entry::Huge => {
                self.supply.extent(BlockId::new(slice / SLICES)).len().bytes().as_usize()
            }
            Entry::Slab(..) | Entry::Nothing => 0,
        }
    }

    /// Makes the allocation that begins at a slice `size` bytes long where it stands, or gives a
    /// huge one other blocks and moves its pages; `None` where neither can be done.
    pub fn resize(&mut self, slice: u32, size: usize) -> Option<NonNull<u8>> {
        let at = NonNull::new(self.tables.view().address(slice) as *mut u8)?;
        match self.tables.view().entry(slice) {
            Entry::Run(count) => self.resize_run(slice, count, size).then_some(at),
            Entry::Huge if size > SLICE_RUN_MAX && self.supply.can_resize() => {
                self.resize_huge(slice, size)
            }
            _ => None,
        }
    }

    fn resize_run(&mut self, slice: u32, count: u32, size: usize) -> bool {
        let wanted = size.div_ceil(SLICE_BYTES).max(1);
        if wanted > SLICES as usize / 2 {
            return false;
        }
        let (wanted, run) = (wanted as u32, Slices::from_slice(slice, count));
        if wanted > count && !self.filler.grow(run, wanted - count) {
            return false;
        }
        if wanted < count {
            self.give_slices(Slices::from_slice(slice + wanted, count - wanted));
        }
        self.run_slices = self.run_slices + u64::from(wanted) - u64::from(count);
        // SAFETY: the slice's word says that it has one.
        unsafe { self.tables.view().set_entry(slice, Entry::Run(wanted)) };
        true
    }

    fn resize_huge(&mut self, slice: u32, size: usize) -> Option<NonNull<u8>> {
        let extent = self.supply.extent(BlockId::new(slice / SLICES));
        let wanted = Blocks::holding(Bytes::of_len(size))?;
        let used = Bytes::of_len(size);
        let now = self.now_ms();
        if wanted > extent.len() {
            let by = wanted - extent.len();
            if self.supply.grow(extent, by, used).is_none() {
                return self.move_huge(extent, wanted, used);
            }
            self.huge_blocks += u64::from(by.get());
        } else if wanted < extent.len() {
            let start = BlockId::new(extent.start().get() + wanted.get());
            let part = BlockRange::new(start, extent.len() - wanted);
            self.supply.trim(part, now);
            self.huge_blocks -= u64::from(part.len().get());
        }
        self.supply.set_extent(BlockRange::new(extent.start(), wanted));
        Some(self.supply.pool().address(extent.start()))
    }

    /// Other blocks for a huge extent, and its pages with them.
    fn move_huge(
        &mut self,
        extent: BlockRange,
        wanted: Blocks,
        used: Bytes,
    ) -> Option<NonNull<u8>> {
        let (to, _) = self.supply.take_extent(wanted, 1, used)?;
        let first = BlockRange::new(to.start(), Blocks::ONE);
        let moved = self.tables.ensure(first, false).is_ok() && self.supply.move_pages(extent, to);
        let now = self.now_ms();
        if !moved {
            self.supply.give_extent(to, now);
            return None;
        }
        self.huge_blocks += u64::from((wanted - extent.len()).get());
        self.supply.set_extent(to);
        // SAFETY: both have words.
        unsafe {
            self.tables.view().set_entry(first_slice(extent.start()), Entry::Nothing);
            self.tables.view().set_entry(first_slice(to.start()), Entry::Huge);
        }
        self.supply.give_extent(extent, now);
        Some(self.supply.pool().address(to.start()))
    }

    /// Gives back blocks that are free; whether there were any.
    pub fn trim(&mut self) -> bool {
        if let Some(spare) = self.spare.take()
            && self.filler.is_empty(spare)
        {
            let now = self.now_ms();
            self.give_block(spare, now);
        }
        self.supply.release_all()
    }

    /// How many threads' heaps there are.
    #[cfg(test)]
    pub fn owners(&self) -> u32 {
        self.owners
    }

    /// Classes that have slabs: bytes of an object, and bytes of the slabs.
    pub fn slabs_by_size(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let slabs = self.slabs.iter().enumerate().filter(|slabs| *slabs.1 > 0);
        slabs.map(|(index, &count)| {
            let shape = Class(index as u8).shape();
            (shape.size as usize, count as usize * shape.slices as usize * SLICE_BYTES)
        })
    }

    /// How much of the blocks with memory behind them the kernel has mapped by huge pages.
    pub fn huge_mapped(&self) -> Bytes {
        let pool = self.supply.pool();
        let placement = self.supply.placement();
        let extents = placement.iter_extents(BlockId::new(0));
        let huge = extents.map(|extent| {
            let range = extent.range;
            let mapped = self.os.huge_mapped(pool.address(range.start()), range.len().bytes());
            mapped.unwrap_or(Bytes::ZERO).get()
        });
        Bytes::new(huge.sum())
    }

    /// Bytes of objects that are not free in their slabs. Threads may take and free some meanwhile.
    fn objects(&self) -> u64 {
        let view = self.tables.view();
        let extents = self.supply.placement().iter_extents(BlockId::new(0));
        let blocks = extents.flat_map(|extent| extent.range.iter());
        let slices = blocks.flat_map(|block| first_slice(block)..first_slice(block) + SLICES);
        let used = slices.filter_map(|slice| {
            let Entry::Slab(_, class) = view.entry(slice) else { return None };
            // SAFETY: a slab's slices have records.
            let record = unsafe { view.record(slice) };
            let shape = class.shape();
            let used = shape.objects.saturating_sub(record.free_objects());
            (record.to_head() == 0).then_some(u64::from(used) * u64::from(shape.size))
        });
        used.sum()
    }

    pub fn stats(&self) -> Stats {
        let counts = self.supply.counts;
        Stats {
            reserved: self.supply.pool().capacity().bytes().get(),
            committed: self.supply.present().bytes().get(),
            hugetlb: self.supply.hugetlb().bytes().get(),
            slabs: self.slab_slices * SLICE_BYTES as u64,
            objects: self.objects(),
            runs: self.run_slices * SLICE_BYTES as u64,
            huge: self.huge_blocks * BLOCK_BYTES as u64,
            released_blocks: counts.released,
            kept_blocks: counts.kept,
            misplaced_blocks: counts.misplaced,
            hugetlb_refused_blocks: counts.hugetlb_refused,
            transparent_refused_blocks: counts.transparent_refused,
            unmoved: counts.unmoved,
            other_node_blocks: counts.other_node,
            failures: self.failures,
            split_blocks: self.split_blocks,
            returned_parts: self.returned_parts,
            heaps: u64::from(self.owners),
            threads: u64::from(self.active),
        }
    }

    /// Checks blocks, slices and slabs against each other.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.supply.validate()?;
        self.filler.validate()?;
        let placement = self.supply.placement();
        let (pinned, huge) = (placement.blocks(Place::Pinned), placement.blocks(Place::Huge));
        let held = u64::from(self.filler.blocks().get());
        let guards = u64::from(self.supply.guards().get());
        if u64::from((pinned + huge).get()) != held + self.huge_blocks + guards {
            return Err("the blocks in use are not the filler's and those of huge extents");
        }
        let used = held * u64::from(SLICES) - u64::from(self.filler.free_slices());
        if used != self.slab_slices + self.run_slices {
            return Err("the slices in use are not those of slabs and runs");
        }
        Ok(())
    }
}

const fn first_slice(block: BlockId) -> u32 {
    block.get() * SLICES
}

/// How long a span to reserve.
fn span<O: Os>(os: &O) -> Bytes {
    let wanted = os.memory().get().saturating_mul(SPAN_TIMES).checked_next_power_of_two();
    let wanted = wanted.unwrap_or(SPAN_MAX.get()).clamp(SPAN_MIN.get(), SPAN_MAX.get());
    // Of a limited address space half, for all tables as well: the rest is the program's.
    let limit = os.address_space_limit().map_or(u64::MAX, |limit| limit.get() / 2);
    Bytes::new(wanted.min(limit).max(SPAN_MIN.get()))
}

/// The state that a slab of nobody is in.
const _: () = assert!(State::None as u8 == 0);
