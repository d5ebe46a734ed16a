//! A climb of the [ladder](super::ladder) under way: what is done on each rung.
//!
//! Every step asks the pool for what it made ready and reads it back; what a machine cannot do, or
//! may not, becomes the note of the rung's report.

use bookend::units::{Bytes, PageSize};

use super::bounded::Stop;
use super::files::FileError;
use super::ladder::{Cache, Goal, Progress, climb};
use super::machine::{Did, Machine, State};
use super::rung::{Rung, RungReport};
use super::status::why;

/// Writes that gain nothing before a pool is not asked any more: pages just freed may still be in
/// per-CPU lists.
const FRUITLESS_TRIES: u32 = 2;
/// Writes in a row at most: somebody else may take the memory as fast as it comes.
const TRIES: u32 = 40;
/// What is reclaimed in the first step; twice as much in each that follows a good one, so that
/// little is given up where it does not help.
const FIRST_STEP: Bytes = Bytes::mib(512);
/// No more than this is reclaimed in one step, so that what is won is seen to.
const STEP: Bytes = Bytes::gib(4);
/// Rounds of compaction at most, where each gains.
const COMPACT_ROUNDS: u32 = 8;
/// Pages that the kernel is asked for at a time where it has to move others for them.
const COAXED: u64 = 128;
/// Cache that may go meanwhile for other reasons; beyond it, an eighth of what is won.
const COAX_LOSS: Bytes = Bytes::mib(128);
/// Where free memory is less than this part of what is missing, it is not compacted.
const WORTH_ONE_IN: u64 = 20;
/// Rounds of shrinking slab at most, where it falls ever further.
const SLAB_ROUNDS: u32 = 8;

/// Why what would move much memory is not tried.
const STAYS: &str = "what stands in the way of the rest cannot be moved";

/// A climb under way.
pub(super) struct Climber<'a, M> {
    machine: &'a mut M,
    goal: &'a Goal,
    progress: &'a mut dyn FnMut(Progress),
    rung: Rung,
    note: Option<String>,
}

impl<'a, M: Machine> Climber<'a, M> {
    /// At the foot of the ladder.
    pub(super) fn new(
        machine: &'a mut M,
        goal: &'a Goal,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self { machine, goal, progress, rung: Rung::Ask, note: None }
    }

    /// Whether it is time to stop.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.machine.stopped()
    }

    /// Tries one rung and says what it gave.
    pub(super) fn step(&mut self, rung: Rung) -> Result<RungReport, FileError> {
        self.rung = rung;
        self.tell()?;
        let (time, pages) = (self.machine.now(), self.machine.pool(self.goal.page)?);
        let before = self.machine.state().unwrap_or_default();
        let tried = self.work(rung);
        if let Err(error) = tried {
            if rung == Rung::Ask {
                return Err(error); // nothing of what follows can work
            }
            self.note = Some(why(&error));
        }
        let after = self.machine.state().unwrap_or(before);
        Ok(RungReport {
            rung,
            gained: self.machine.pool(self.goal.page)?.saturating_sub(pages),
            seconds: self.machine.now().saturating_sub(time).as_secs_f64(),
            cache_bytes_before: before.cache.get(),
            cache_bytes_after: after.cache.get(),
            pages_migrated: after.migrated.saturating_sub(before.migrated),
            note: self.note.take(),
        })
    }

    fn work(&mut self, rung: Rung) -> Result<(), FileError> {
        match rung {
            Rung::Ask => self.ask().map(drop),
            Rung::Compact => self.compact(),
            Rung::Reclaim => self.reclaim(),
            Rung::Slab => self.slab(),
            Rung::Drop => self.drop_all(),
            Rung::Contiguous => self.contiguous(),
            Rung::Offline => self.offline(),
        }
    }

    fn tell(&mut self) -> Result<(), FileError> {
        let pages = self.machine.pool(self.goal.page)?;
        (self.progress)(Progress { rung: self.rung, pages });
        Ok(())
    }

    /// Pages that the goal still wants.
    pub(super) fn missing(&self) -> Result<u64, FileError> {
        Ok(self.goal.pages.saturating_sub(self.machine.pool(self.goal.page)?))
    }

    /// Memory of so many pages.
    fn bytes(&self, pages: u64) -> Bytes {
        Bytes::new(pages.saturating_mul(self.goal.page.bytes().get()))
    }

    /// Whether the climb can go on; notes why not.
    fn goes_on(&mut self, did: &Did) -> bool {
        match did {
            Did::Done | Did::Short => self.machine.stopped().is_none(),
            Did::Unsupported(why) => {
                self.note = Some(why.clone());
                false
            }
            Did::Stopped(_) => false,
        }
    }

    /// Asks for the pages that are ready, again while many are; gives how many more there are.
    fn ask(&mut self) -> Result<u64, FileError> {
        let mut gained = 0;
        while let Some(ready) = self.machine.ready(self.goal.page)? {
            if ready == 0 && self.rung == Rung::Ask {
                // Whether the pool can be asked at all has to come out, and for a page that is not
                // ready the kernel would reclaim.
                let pool = self.machine.pool(self.goal.page)?;
                self.machine.resize(self.goal.page, pool)?;
            }
            // Few pages after many are what the kernel reclaims in the background meanwhile.
            if gained > 0 && ready < self.missing()?.div_ceil(WORTH_ONE_IN) {
                return Ok(gained);
            }
            let more = self.ask_for(ready)?;
            gained += more;
            if more == 0 || self.missing()? == 0 {
                return Ok(gained);
            }
        }
        self.ask_for(u64::MAX)
    }

    /// Asks for so many more pages, and no more than are missing.
    fn ask_for(&mut self, pages: u64) -> Result<u64, FileError> {
        let pool = self.machine.pool(self.goal.page)?;
        let pages = self.goal.pages.min(pool.saturating_add(pages));
        let gained = grow(self.machine, self.goal.page, pages)?;
        self.tell()?;
        Ok(gained)
    }

    fn compact(&mut self) -> Result<(), FileError> {
        let State { spare, .. } = self.machine.state()?;
        // Compaction looks at all of memory: for a few pages it is not worth it.
        if spare < self.bytes(self.missing()?.div_ceil(WORTH_ONE_IN)) {
            self.note = Some("too little memory is free to move pages to".to_owned());
            return Ok(());
        }
        // A round ends early where a large folio finds no room of its size; the next gets further.
        for _ in 0..COMPACT_ROUNDS {
            let worth = self.missing()?.div_ceil(WORTH_ONE_IN);
            let did = self.machine.compact()?;
            if !self.goes_on(&did) {
                return Ok(());
            }
            if self.ask()? < worth {
                break;
            }
        }
        self.coax()
    }

    /// Has the kernel empty blocks one by one, as it does for a page that it is asked for, while
    /// memory is free to move their pages to. Reclaims nothing, and ends as soon as the kernel does.
    fn coax(&mut self) -> Result<(), FileError> {
        let cache = self.machine.state()?.cache.get();
        let (mut won, mut fruitless) = (0, 0);
        while fruitless < FRUITLESS_TRIES && self.machine.stopped().is_none() {
            let pages = self.reach()?.min(COAXED);
            let State { spare, cache: now, .. } = self.machine.state()?;
            let lost = cache.saturating_sub(now.get());
            let may_cost = self.bytes(won).get() / 8 + COAX_LOSS.get();
            if pages == 0 || spare.get() < 2 * self.bytes(pages).get() || lost > may_cost {
                return Ok(());
            }
            let gained = self.ask_for(pages)?;
            won += gained;
            fruitless = if gained == 0 { fruitless + 1 } else { 0 };
        }
        Ok(())
    }

    fn reclaim(&mut self) -> Result<(), FileError> {
        if self.goal.cache == Cache::Keep {
            self.note = Some("the page cache is to be kept".to_owned());
            return Ok(());
        }
        let (mut fruitless, mut step) = (0, FIRST_STEP);
        while fruitless < FRUITLESS_TRIES && self.missing()? > 0 {
            let wanted = match self.to_reclaim()? {
                Ok(wanted) => wanted.min(step),
                Err(why) => {
                    self.note = Some(why);
                    return Ok(());
                }
            };
            match self.reclaim_step(wanted)? {
                None => break,
                Some(0) => fruitless += 1,
                Some(gained) => {
                    fruitless = 0;
                    let is_good = self.bytes(gained).get() >= wanted.get() / 2;
                    step = if is_good { (step + step).min(STEP) } else { FIRST_STEP };
                }
            }
        }
        // What is left the kernel is to try itself, page by page.
        let reach = self.reach()?;
        if reach > 0 && self.machine.stopped().is_none() {
            self.ask_for(reach)?;
        }
        Ok(())
    }

    /// Reclaims so much and asks for it; gives how many pages that gained, or nothing where there is
    /// no more to reclaim.
    fn reclaim_step(&mut self, wanted: Bytes) -> Result<Option<u64>, FileError> {
        let before = self.machine.state()?.cache;
        let did = self.machine.reclaim(wanted)?;
        if !self.goes_on(&did) {
            return Ok(None);
        }
        // What was given up need not lie together; the kernel moves what little is in between.
        let mut gained = self.ask_for(wanted.get().div_ceil(self.goal.page.bytes().get()))?;
        let is_poor = self.bytes(gained).get() < wanted.get() / 4;
        if is_poor && self.missing()? > 0 && self.goal.page <= PageSize::MIB2 {
            let did = self.machine.compact()?;
            gained += if self.goes_on(&did) { self.ask()? } else { 0 };
        }
        let fell = before.get().saturating_sub(self.machine.state()?.cache.get());
        let is_all = did == Did::Short && fell < self.goal.page.bytes().get();
        Ok((gained > 0 || !is_all).then_some(gained))
    }

    /// How many pages more the rung could help to.
    fn reach(&self) -> Result<u64, FileError> {
        let missing = self.missing()?;
        let pool = self.machine.pool(self.goal.page)?;
        let ceiling = self.goal.ceiling.map(|most| match self.rung {
            Rung::Ask | Rung::Compact | Rung::Reclaim => most.reclaim,
            Rung::Slab | Rung::Drop | Rung::Contiguous => most.slab,
            Rung::Offline => most.offline,
        });
        Ok(ceiling.map_or(missing, |most| most.saturating_sub(pool)).min(missing))
    }

    /// How much has to be reclaimed, or why that would not help: what is missing, but no more than
    /// could become huge pages; and of gigantic ones, which gather free memory from everywhere,
    /// only what is not free.
    fn to_reclaim(&self) -> Result<Result<Bytes, String>, FileError> {
        let reach = self.reach()?;
        if reach == 0 {
            return Ok(Err("what stands in the way of the rest cannot be reclaimed".to_owned()));
        }
        let wanted = self.bytes(reach);
        if self.goal.page <= PageSize::MIB2 {
            return Ok(Ok(wanted));
        }
        let State { spare, .. } = self.machine.state()?;
        let enough = || "enough memory is free, but broken up".to_owned();
        Ok(if spare < wanted { Ok(wanted - spare) } else { Err(enough()) })
    }

    /// Shrinks slab; what then stands between the goal and what was freed can be reclaimed.
    fn slab(&mut self) -> Result<(), FileError> {
        let before = self.machine.pool(self.goal.page)?;
        self.shrink_slab()?;
        let gained = self.machine.pool(self.goal.page)?.saturating_sub(before);
        if gained > 0 && self.goal.cache != Cache::Keep && self.reach()? > 0 {
            self.reclaim()?;
        }
        Ok(())
    }

    fn shrink_slab(&mut self) -> Result<(), FileError> {
        for _ in 0..SLAB_ROUNDS {
            let before = self.machine.state()?.slab;
            let did = self.machine.drop_caches(false)?;
            if !self.goes_on(&did) {
                return Ok(());
            }
            let mut gained = self.ask()?;
            if self.missing()? == 0 {
                return Ok(());
            }
            if self.goal.page <= PageSize::MIB2 {
                let did = self.machine.compact()?;
                if !self.goes_on(&did) {
                    return Ok(());
                }
                gained += self.ask()?;
            }
            let after = self.machine.state()?.slab;
            let falls = after.get() < before.get() - before.get() / 20;
            if self.missing()? == 0 || (gained == 0 && !falls) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn drop_all(&mut self) -> Result<(), FileError> {
        if self.goal.cache != Cache::Drop {
            self.note = Some("not allowed: --allow-drop".to_owned());
            return Ok(());
        }
        for work in [|m: &mut M| m.drop_caches(true), |m: &mut M| m.compact()] {
            let did = work(self.machine)?;
            if !self.goes_on(&did) {
                return Ok(());
            }
            self.ask()?;
        }
        Ok(())
    }

    /// Takes gigantic pages for what is missing and splits them.
    fn contiguous(&mut self) -> Result<(), FileError> {
        let large = PageSize::GIB1;
        let each = large.bytes().get() / self.goal.page.bytes().get();
        let missing = self.missing()?;
        // Where runs are not asked for, a gigantic page for a few small ones is not worth it.
        let wanted = if self.goal.contiguous { missing.div_ceil(each) } else { missing / each };
        let had = match self.machine.pool(large) {
            Err(FileError::Absent { .. }) => {
                self.note = Some(format!("this kernel has no pages of {large}"));
                return Ok(());
            }
            pool => pool?,
        };
        if !self.goal.contiguous && self.reach()? == 0 {
            self.note = Some(STAYS.to_owned());
            return Ok(());
        }
        if wanted == 0 {
            self.note = Some(format!("fewer are missing than one page of {large} holds"));
            return Ok(());
        }
        let won = self.gigantic(large, had + wanted)?.saturating_sub(had);
        let split = match won {
            0 => Ok(Did::Unsupported(format!("no page of {large} could be had"))),
            _ => self.machine.split(large, self.goal.page, won),
        };
        self.trim(large, had)?; // also where splitting failed
        self.goes_on(&split?);
        // Where none could be had, its range may have been emptied all the same.
        if self.missing()? > 0 { self.ask().map(drop) } else { Ok(()) }
    }

    /// Grows the pool of gigantic pages; where long runs matter by a small ladder of its own.
    fn gigantic(&mut self, large: PageSize, pages: u64) -> Result<u64, FileError> {
        if !self.goal.contiguous {
            grow(self.machine, large, pages)?;
            return self.machine.pool(large);
        }
        let max_rung = self.goal.max_rung.min(Rung::Slab);
        let goal =
            Goal { page: large, pages, contiguous: false, max_rung, ceiling: None, ..*self.goal };
        climb(self.machine, &goal, &mut |_| {})?;
        self.machine.pool(large)
    }

    /// Gives back gigantic pages that were not split, and what splitting gave too many.
    fn trim(&mut self, large: PageSize, had: u64) -> Result<(), FileError> {
        if self.machine.pool(large)? > had {
            self.machine.resize(large, had)?;
        }
        if self.machine.pool(self.goal.page)? > self.goal.pages {
            self.machine.resize(self.goal.page, self.goal.pages)?;
        }
        self.tell()
    }

    fn offline(&mut self) -> Result<(), FileError> {
        let mut fruitless = 0;
        if self.reach()? == 0 {
            self.note = Some(STAYS.to_owned());
        }
        while fruitless < FRUITLESS_TRIES && self.reach()? > 0 {
            let did = self.machine.recycle()?;
            if did == Did::Short || !self.goes_on(&did) {
                return Ok(());
            }
            fruitless = if self.ask()? == 0 { fruitless + 1 } else { 0 };
        }
        Ok(())
    }
}

/// Asks for a pool of `pages` while that still helps; gives how many more there are.
fn grow<M: Machine>(machine: &mut M, page: PageSize, pages: u64) -> Result<u64, FileError> {
    let before = machine.pool(page)?;
    let (mut now, mut fruitless) = (before, 0);
    for _ in 0..TRIES {
        if now >= pages || fruitless == FRUITLESS_TRIES || machine.stopped().is_some() {
            break;
        }
        let after = machine.resize(page, pages)?;
        fruitless = if after > now { 0 } else { fruitless + 1 };
        now = after;
    }
    Ok(now.saturating_sub(before))
}
