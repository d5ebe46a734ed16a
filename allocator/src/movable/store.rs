//! Which place holds which object: slabs in blocks, and extents of their own for what is longer.
//!
//! Everything here is done under the heap's lock, and none of it touches an object's memory or word.
//! New objects go to the lowest slab that has room, so that the highest ones empty by themselves. A
//! block that is *closed* takes nothing in: it is being emptied.

use std::collections::{BTreeMap, BTreeSet};

use super::slab::{Bin, ByBin, Slab, Zone};
use super::word::Offset;
use crate::heap::classes::{SLICE_SHIFT, SLICES};
use crate::heap::filler::{Filler, Slices};
use crate::os::{Array, Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks};

/// An object longer than a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Big {
    pub index: u32,
    pub owner: u16,
    pub zone: Zone,
    pub range: BlockRange,
    /// Bytes of the object, which the last block holds in part.
    pub len: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Store<O: Os> {
    fillers: [Filler<O>; 2],
    slabs: Vec<Option<Slab>>,
    free_slabs: Vec<u32>,
    /// For each slice, the slab that it belongs to plus one.
    slab_of: Array<u32, O>,
    /// Slabs with room in blocks that are open, by the number of their first slice.
    roomy: ByBin<BTreeSet<u32>>,
    /// By first block.
    bigs: BTreeMap<u32, Big>,
    /// Bytes of the places taken in each block.
    live: Array<u32, O>,
    free_indexes: Vec<u32>,
    unused_indexes: core::ops::Range<u32>,
    objects: u32,
}

impl<O: Os> Store<O> {
    pub fn new(os: &O, blocks: Blocks, objects: u32) -> Result<Self, Errno> {
        let filler = || Filler::new(os.clone(), blocks);
        Ok(Self {
            fillers: [filler()?, filler()?],
            slabs: Vec::new(),
            free_slabs: Vec::new(),
            slab_of: Array::new(os.clone(), blocks.as_usize() * SLICES as usize)?,
            roomy: ByBin::default(),
            bigs: BTreeMap::new(),
            live: Array::new(os.clone(), blocks.as_usize())?,
            free_indexes: Vec::new(),
            unused_indexes: 0..objects,
            objects: 0,
        })
    }

    // Objects.

    /// A number for a new object.
    pub fn take_index(&mut self) -> Option<u32> {
        let index = self.free_indexes.pop().or_else(|| self.unused_indexes.next())?;
        self.objects += 1;
        Some(index)
    }

    pub fn give_index(&mut self, index: u32) {
        self.free_indexes.push(index);
        self.objects -= 1;
    }

    pub fn objects(&self) -> u32 {
        self.objects
    }

    /// A free place of a bin, in a block that is open; `None` where a block must be [added]
    /// (Store::add) first.
    pub fn take(&mut self, bin: Bin, index: u32) -> Option<Offset> {
        let slab = self.roomy_slab(bin)?;
        self.take_lowest(slab, index)
    }

    /// The slab that the next object of a bin goes into, which may be a new one; `None` as in
    /// [`Store::take`]. The same one until it is full, as long as nothing is freed.
    pub fn roomy_slab(&mut self, bin: Bin) -> Option<u32> {
        let lowest = self.roomy.get(&bin).and_then(|roomy| roomy.first().copied());
        if let Some(slice) = lowest {
            return Some(self.slab_of[slice as usize] - 1);
        }
        let (slices, _) = bin.size.shape();
        let (run, _) = self.filler_mut(bin.zone).take(slices, 1)?;
        Some(self.add_slab(run, bin))
    }

    /// Takes the lowest free place of a slab; `None` where it is full.
    pub fn take_lowest(&mut self, slab: u32, index: u32) -> Option<Offset> {
        let place = self.slab(slab).lowest_free()?;
        Some(self.take_place(slab, place, index))
    }

    /// Takes one place of a slab.
    pub fn take_place(&mut self, slab: u32, place: u32, index: u32) -> Offset {
        let this = self.slab_mut(slab);
        this.take(place, index);
        let (at, size) = (this.offset(place), this.size);
        // What is not listed had no room before, or is closed.
        let filled = this.listed && this.taken == this.places;
        self.live[at.block().as_usize()] += size;
        if filled {
            self.unlist(slab);
        }
        at
    }

    /// Lets objects of one slab into another, by `put`, which takes places in that.
    pub fn fill(&mut self, slab: u32, into: u32, put: impl FnOnce(&Slab, &mut Slab)) {
        let both = self.slabs.get_disjoint_mut([slab as usize, into as usize]);
        let Ok([Some(from), Some(to)]) = both else {
            unreachable!("slabs {slab} and {into} are there")
        };
        let before = to.taken;
        put(from, to);
        let (bytes, block) = ((to.taken - before) * to.size, to.run.block);
        let filled = to.listed && to.taken == to.places;
        self.live[block.as_usize()] += bytes;
        if filled {
            self.unlist(into);
        }
    }

    /// Frees places. The blocks that nothing is left in: no longer the store's.
    ///
    /// Neighbours mostly come one after the other, and a slab is looked up once for them.
    pub fn give_all(&mut self, places: &[Offset]) -> Vec<BlockRange> {
        let mut empty = Vec::new();
        let mut left = places;
        while let [first, rest @ ..] = left {
            let Some(slab) = self.slab_at(*first) else {
                empty.extend(self.give(*first));
                left = rest;
                continue;
            };
            let (this, mut given) = (self.slab_mut(slab), 0);
            // The last one is left for the rest of the work.
            while let [at, next, ..] = left
                && this.taken > 1
                && this.holds(*next)
            {
                this.give(this.place(*at));
                given += 1;
                left = &left[1..];
            }
            let was_full = this.taken + given == this.places;
            let (size, block) = (this.size, first.block());
            self.live[block.as_usize()] -= given * size;
            if was_full && given > 0 {
                self.list(slab);
            }
            empty.extend(self.give(left[0]));
            left = &left[1..];
        }
        empty
    }

    /// Frees the place at `at`. The block, if nothing is left in it: no longer the store's.
    pub fn give(&mut self, at: Offset) -> Option<BlockRange> {
        let Some(slab) = self.slab_at(at) else {
            let big = self.bigs.remove(&at.block().get());
            return big.map(|big| big.range);
        };
        let this = self.slab_mut(slab);
        this.give(this.place(at));
        let (size, empty, was_full) = (this.size, this.taken == 0, this.taken + 1 == this.places);
        self.live[at.block().as_usize()] -= size;
        if empty {
            return self.remove_slab(slab);
        }
        if was_full {
            self.list(slab);
        }
        None
    }

    // Slabs.

    pub fn slab(&self, slab: u32) -> &Slab {
        self.slabs[slab as usize].as_ref().expect("the slab is there")
    }

    fn slab_mut(&mut self, slab: u32) -> &mut Slab {
        self.slabs[slab as usize].as_mut().expect("the slab is there")
    }

    fn slab_at(&self, at: Offset) -> Option<u32> {
        self.slab_of[at.bytes() >> SLICE_SHIFT].checked_sub(1)
    }

    /// The slab of an offset, and bytes of the place there.
    pub fn place_at(&self, at: Offset) -> Option<(&Slab, u32)> {
        let slab = self.slab(self.slab_at(at)?);
        Some((slab, slab.place(at)))
    }

    /// A slab in a run of slices that the filler has cut out.
    pub fn add_slab(&mut self, run: Slices, bin: Bin) -> u32 {
        let slab = self.free_slabs.pop().unwrap_or_else(|| {
            self.slabs.push(None);
            self.slabs.len() as u32 - 1
        });
        let first = run.slice() as usize;
        self.slab_of[first..first + run.count as usize].fill(slab + 1);
        self.slabs[slab as usize] = Some(Slab::new(run, bin));
        self.list(slab);
        slab
    }

    /// Takes an empty slab away, and its block where that is empty then.
    fn remove_slab(&mut self, slab: u32) -> Option<BlockRange> {
        let Slab { run, bin, .. } = *self.slab(slab);
        self.unlist(slab);
        let first = run.slice() as usize;
        self.slab_of[first..first + run.count as usize].fill(0);
        self.slabs[slab as usize] = None;
        self.free_slabs.push(slab);
        let filler = self.filler_mut(bin.zone);
        let whole = filler.give(run);
        // A closed block waits for whoever has closed it.
        let gone = whole && !filler.is_closed(run.block);
        gone.then(|| self.remove(bin.zone, run.block))
    }

    /// Puts a slab among those with room, if it is to be taken from, or takes it out.
    fn list(&mut self, slab: u32) {
        let Slab { run, bin, taken, places, listed, .. } = *self.slab(slab);
        let roomy = taken < places && !self.filler(bin.zone).is_closed(run.block);
        if roomy == listed {
            return; // as for nearly every object
        }
        if roomy {
            self.roomy.entry(bin).or_default().insert(run.slice());
            self.slab_mut(slab).listed = true;
        } else {
            self.unlist(slab);
        }
    }

    fn unlist(&mut self, slab: u32) {
        let Slab { run, bin, .. } = *self.slab(slab);
        self.slab_mut(slab).listed = false;
        if let Some(roomy) = self.roomy.get_mut(&bin) {
            roomy.remove(&run.slice());
        }
    }

    /// The slabs of a block, lowest first.
    pub fn slabs_of(&self, block: BlockId) -> Vec<u32> {
        let first = block.as_usize() * SLICES as usize;
        let mut slabs: Vec<u32> = self.slab_of[first..first + SLICES as usize]
            .iter()
            .filter_map(|slab| slab.checked_sub(1))
            .collect();
        slabs.dedup();
        slabs
    }

    // Blocks.

    fn filler(&self, zone: Zone) -> &Filler<O> {
        &self.fillers[zone as usize]
    }

    fn filler_mut(&mut self, zone: Zone) -> &mut Filler<O> {
        &mut self.fillers[zone as usize]
    }

    /// Adds a block for slabs.
    pub fn add(&mut self, zone: Zone, block: BlockId) {
        self.filler_mut(zone).add(block, false);
    }

    fn remove(&mut self, zone: Zone, block: BlockId) -> BlockRange {
        self.filler_mut(zone).remove(block);
        BlockRange::new(block, Blocks::ONE)
    }

    /// Whether a block holds slabs, and at which end.
    pub fn zone_of(&self, block: BlockId) -> Option<Zone> {
        Zone::ALL.into_iter().find(|&zone| self.filler(zone).holds(block))
    }

    pub fn is_closed(&self, block: BlockId) -> bool {
        self.fillers.iter().any(|filler| filler.is_closed(block))
    }

    /// Closes a movable block. `false` where it is none, or is closed already.
    pub fn close(&mut self, block: BlockId) -> bool {
        let filler = self.filler_mut(Zone::Movable);
        if !filler.holds(block) || filler.is_closed(block) {
            return false;
        }
        filler.set_closed(block, true);
        self.slabs_of(block).into_iter().for_each(|slab| self.unlist(slab));
        true
    }

    /// Opens a block again. The block, if nothing is left in it: no longer the store's.
    pub fn open(&mut self, block: BlockId) -> Option<BlockRange> {
        let filler = self.filler_mut(Zone::Movable);
        filler.set_closed(block, false);
        if filler.is_empty(block) {
            return Some(self.remove(Zone::Movable, block));
        }
        self.slabs_of(block).into_iter().for_each(|slab| self.list(slab));
        None
    }

    /// Adds a block for slabs that is closed from the beginning: others are to be moved into it whole.
    pub fn add_closed(&mut self, block: BlockId) {
        self.add(Zone::Movable, block);
        self.filler_mut(Zone::Movable).set_closed(block, true);
    }

    /// The same slab in another block, which was added closed for the slabs of this one alone. It is made
    /// when it is first asked for.
    pub fn mirror(&mut self, slab: u32, to: BlockId) -> u32 {
        let Slab { run, bin, .. } = *self.slab(slab);
        let run = Slices { block: to, ..run };
        self.slab_of[run.slice() as usize].checked_sub(1).unwrap_or_else(|| {
            self.filler_mut(Zone::Movable).take_exactly(run);
            self.add_slab(run, bin)
        })
    }

    /// Bytes of the places taken in a block.
    pub fn live(&self, block: BlockId) -> u32 {
        self.live[block.as_usize()]
    }

    /// Slices of a block that no slab has.
    pub fn free_slices(&self, block: BlockId) -> u32 {
        self.fillers.iter().map(|filler| filler.cut_out(block)).fold(0, |a, b| a | b).count_zeros()
    }

    // Long objects.

    pub fn add_big(&mut self, big: Big) {
        self.bigs.insert(big.range.start().get(), big);
    }

    /// The long object that begins with a block.
    pub fn big(&self, block: BlockId) -> Option<Big> {
        self.bigs.get(&block.get()).copied()
    }

    pub fn bigs(&self) -> impl Iterator<Item = &Big> {
        self.bigs.values()
    }

    /// The slabs there are.
    pub fn iter_slabs(&self) -> impl Iterator<Item = &Slab> {
        self.slabs.iter().flatten()
    }

    /// Recomputes what is derived.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.fillers.iter().try_for_each(Filler::validate)?;
        let mut live: BTreeMap<u32, u32> = BTreeMap::new();
        let (mut objects, mut roomy) = (self.bigs.len() as u32, 0);
        for (number, slab) in self.slabs.iter().enumerate() {
            let Some(slab) = slab else { continue };
            slab.validate()?;
            let first = slab.run.slice() as usize;
            let slices = &self.slab_of[first..first + slab.run.count as usize];
            if slices.iter().any(|&of| of != number as u32 + 1) {
                return Err("a slice does not know its slab");
            }
            *live.entry(slab.run.block.get()).or_default() += slab.taken * slab.size;
            objects += slab.taken;
            let open = !self.filler(slab.bin.zone).is_closed(slab.run.block);
            let listed =
                self.roomy.get(&slab.bin).is_some_and(|set| set.contains(&slab.run.slice()));
            if listed != (open && slab.taken < slab.places) || listed != slab.listed {
                return Err("a slab with room is not listed, or one without is");
            }
            roomy += usize::from(listed);
        }
        if roomy != self.roomy.values().map(BTreeSet::len).sum::<usize>() {
            return Err("a slab that is no more is listed as having room");
        }
        if live.iter().any(|(&block, &bytes)| self.live[block as usize] != bytes)
            || self.live.iter().filter(|&&bytes| bytes > 0).count()
                != live.values().filter(|&&bytes| bytes > 0).count()
        {
            return Err("the live bytes of a block are miscounted");
        }
        if objects != self.objects {
            return Err("objects are miscounted: one has two places, or none");
        }
        Ok(())
    }
}
