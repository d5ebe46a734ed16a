//! Climbs of a simulated machine: which rungs are tried, what they cost, and how they end.

use std::collections::BTreeMap;

use bookend::units::Bytes;

use super::super::machine::{Did, State};
use super::*;

/// A machine in which huge pages become available in fixed portions.
#[derive(Default)]
struct Simulated {
    pools: BTreeMap<PageSize, u64>,
    /// Pages that the next writes find, by size.
    ready: BTreeMap<PageSize, u64>,
    /// Pages of 2 MiB that compaction makes ready, at most as many as there is spare memory for.
    compactable: u64,
    /// The most of them in a round, where there is such a bound.
    round: Option<u64>,
    /// Pages that the kernel makes when it is asked for them, of spare memory; and whether each
    /// costs as much of the cache.
    coaxable: u64,
    coaxing_reclaims: bool,
    spare: u64,
    /// Cold and hot cache, in pages of 2 MiB.
    cold: u64,
    hot: u64,
    /// Whether giving these up opens no blocks.
    useless: bool,
    slab: u64,
    recyclable: u64,
    /// Stops after so many calls.
    patience: Option<u32>,
    calls: Vec<&'static str>,
    denied: Option<&'static str>,
}

const SMALL: PageSize = PageSize::MIB2;
const LARGE: PageSize = PageSize::GIB1;

impl Simulated {
    fn call(&mut self, name: &'static str) -> Result<(), FileError> {
        self.calls.push(name);
        if self.denied == Some(name) {
            let source = std::io::ErrorKind::PermissionDenied.into();
            return Err(FileError::Write { path: name.into(), value: "1".into(), source });
        }
        Ok(())
    }

    fn count(&self, name: &str) -> usize {
        self.calls.iter().filter(|call| **call == name).count()
    }
}

impl Machine for Simulated {
    fn pool(&self, page: PageSize) -> Result<u64, FileError> {
        Ok(self.pools.get(&page).copied().unwrap_or(0))
    }

    fn resize(&mut self, page: PageSize, pages: u64) -> Result<u64, FileError> {
        self.call("resize")?;
        let now = self.pools.entry(page).or_default();
        let ready = self.ready.entry(page).or_default();
        if pages <= *now {
            *ready += *now - pages;
            *now = pages;
        } else {
            let taken = (*ready).min(pages - *now);
            *now += taken;
            *ready -= taken;
            let made = self.coaxable.min(self.spare).min(pages - *now);
            *now += made;
            self.coaxable -= made;
            self.spare -= made;
            if self.coaxing_reclaims {
                self.cold = self.cold.saturating_sub(made);
            }
        }
        self.pool(page)
    }

    fn ready(&self, page: PageSize) -> Result<Option<u64>, FileError> {
        Ok((page == SMALL).then(|| self.ready.get(&page).copied().unwrap_or(0)))
    }

    fn state(&self) -> Result<State, FileError> {
        let blocks = |n: u64| Bytes::new(n << 21);
        Ok(State {
            spare: blocks(self.spare),
            cache: blocks(self.cold + self.hot),
            slab: blocks(self.slab),
            migrated: 0,
        })
    }

    fn compact(&mut self) -> Result<Did, FileError> {
        self.call("compact")?;
        let made = self.compactable.min(self.spare).min(self.round.unwrap_or(u64::MAX));
        self.compactable -= made;
        self.spare -= made;
        *self.ready.entry(SMALL).or_default() += made;
        Ok(Did::Done)
    }

    fn reclaim(&mut self, bytes: Bytes) -> Result<Did, FileError> {
        self.call("reclaim")?;
        let wanted = bytes.get() >> 21;
        let cold = wanted.min(self.cold);
        let hot = (wanted - cold).min(self.hot);
        self.cold -= cold;
        self.hot -= hot;
        if !self.useless {
            *self.ready.entry(SMALL).or_default() += cold + hot;
        }
        Ok(if cold + hot < wanted { Did::Short } else { Did::Done })
    }

    fn drop_caches(&mut self, all: bool) -> Result<Did, FileError> {
        self.call(if all { "drop" } else { "slab" })?;
        let freed = self.slab.div_ceil(2);
        self.slab -= freed;
        *self.ready.entry(SMALL).or_default() += freed;
        if all {
            *self.ready.entry(SMALL).or_default() += self.cold + self.hot;
            (self.cold, self.hot) = (0, 0);
        }
        Ok(Did::Done)
    }

    fn split(&mut self, page: PageSize, into: PageSize, pages: u64) -> Result<Did, FileError> {
        self.call("split")?;
        *self.pools.entry(page).or_default() -= pages;
        *self.pools.entry(into).or_default() += pages * 512;
        Ok(Did::Done)
    }

    fn recycle(&mut self) -> Result<Did, FileError> {
        self.call("recycle")?;
        if self.recyclable == 0 {
            return Ok(Did::Short);
        }
        self.recyclable -= 1;
        *self.ready.entry(SMALL).or_default() += 1;
        Ok(Did::Done)
    }

    fn stopped(&self) -> Option<Stop> {
        self.patience.filter(|&calls| self.calls.len() >= calls as usize).map(|_| Stop::Asked)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.calls.len() as u64)
    }
}

fn goal(pages: u64) -> Goal {
    let max_rung = Rung::Offline;
    Goal { page: SMALL, pages, contiguous: false, cache: Cache::Coldest, max_rung, ceiling: None }
}

fn ceiling(reclaim: u64, slab: u64) -> Option<Ceiling> {
    Some(Ceiling { reclaim, slab, offline: slab })
}

fn ready(pages: u64) -> BTreeMap<PageSize, u64> {
    BTreeMap::from([(SMALL, pages)])
}

fn names(outcome: &Outcome) -> Vec<Rung> {
    outcome.rungs.iter().map(|report| report.rung).collect()
}

fn climbed(machine: &mut Simulated, goal: &Goal) -> Outcome {
    climb(machine, goal, &mut |_| {}).unwrap()
}

#[test]
fn what_is_there_is_asked_for_and_nothing_else_is_done() {
    let mut machine = Simulated { ready: ready(10), cold: 5, ..Default::default() };
    let outcome = climbed(&mut machine, &goal(10));
    assert_eq!((outcome.obtained, names(&outcome)), (10, vec![Rung::Ask]));
    assert_eq!(machine.calls, ["resize"]);
    let again = climbed(&mut machine, &goal(10));
    assert_eq!((again.obtained, again.rungs.len()), (10, 0), "there already");
}

#[test]
fn only_what_is_missing_is_reclaimed_and_the_hot_stays() {
    let mut machine = Simulated { ready: ready(4), cold: 100, hot: 50, ..Default::default() };
    let outcome = climbed(&mut machine, &goal(30));
    assert_eq!(names(&outcome), [Rung::Ask, Rung::Compact, Rung::Reclaim]);
    assert_eq!((outcome.obtained, machine.cold, machine.hot), (30, 100 - 26, 50));
    assert_eq!(
        outcome.rungs[1].note.as_deref(),
        Some("too little memory is free to move pages to")
    );
    assert_eq!(outcome.rungs[2].gained, 26);
    let fell = outcome.rungs[2].cache_bytes_before - outcome.rungs[2].cache_bytes_after;
    assert_eq!(fell, 26 << 21);
}

#[test]
fn nothing_is_reclaimed_that_cannot_become_a_huge_page() {
    let lot = || Simulated { ready: ready(4), cold: 100, hot: 50, ..Default::default() };
    let mut machine = lot();
    let outcome = climbed(&mut machine, &Goal { ceiling: ceiling(4, 4), ..goal(30) });
    assert_eq!((outcome.obtained, machine.cold, machine.count("reclaim")), (4, 100, 0));
    assert!(outcome.rungs[2].note.as_deref().unwrap().contains("cannot be reclaimed"));
    let mut machine = lot();
    let outcome = climbed(&mut machine, &Goal { ceiling: ceiling(10, 10), ..goal(30) });
    assert_eq!((outcome.obtained, machine.cold), (10, 94));
}

#[test]
fn what_shrunk_slab_lets_reclaim_reach_is_reclaimed() {
    let lot = || Simulated { cold: 100, slab: 8, ..Default::default() };
    let mut machine = lot();
    let outcome = climbed(&mut machine, &Goal { ceiling: ceiling(10, 25), ..goal(30) });
    assert_eq!((outcome.obtained, machine.cold, machine.slab), (25, 83, 0));
    let mut machine = lot();
    let keep = Goal { ceiling: ceiling(10, 25), cache: Cache::Keep, ..goal(30) };
    assert_eq!((climbed(&mut machine, &keep).obtained, machine.cold), (8, 100));
}

#[test]
fn where_compaction_suffices_nothing_is_reclaimed() {
    let mut machine =
        Simulated { compactable: 20, spare: 20, cold: 9, hot: 9, slab: 9, ..Default::default() };
    let outcome = climbed(&mut machine, &goal(20));
    assert_eq!((outcome.obtained, names(&outcome)), (20, vec![Rung::Ask, Rung::Compact]));
    assert_eq!((machine.cold, machine.hot, machine.slab), (9, 9, 9));
}

#[test]
fn compaction_that_ends_early_goes_on_while_it_gains() {
    let mut machine = Simulated {
        compactable: 400,
        round: Some(100),
        spare: 4000,
        coaxable: 700,
        cold: 900,
        ..Default::default()
    };
    let outcome = climbed(&mut machine, &goal(1000));
    assert_eq!((outcome.obtained, names(&outcome)), (1000, vec![Rung::Ask, Rung::Compact]));
    assert!((3..=8).contains(&machine.count("compact")), "{:?}", machine.calls);
    assert_eq!(machine.cold, 900, "nothing was reclaimed");
}

/// A machine that gives up cache for each page that it has to make.
fn costly_to_ask() -> Simulated {
    Simulated {
        spare: 40_000,
        coaxable: 5000,
        coaxing_reclaims: true,
        cold: 9000,
        ..Default::default()
    }
}

#[test]
fn the_kernel_is_not_asked_to_move_pages_where_it_gives_up_cache_instead() {
    let mut machine = costly_to_ask();
    climbed(&mut machine, &Goal { max_rung: Rung::Compact, ..goal(5000) });
    let gone = 9000 - machine.cold;
    assert!((1..400).contains(&gone), "{gone} pages of cache went");
}

#[test]
fn no_more_is_tried_than_could_be_had() {
    let lot = || Simulated {
        pools: BTreeMap::from([(LARGE, 3)]),
        ready: ready(2),
        recyclable: 9,
        ..costly_to_ask()
    };
    let mut machine = lot();
    let outcome = climbed(&mut machine, &Goal { ceiling: ceiling(2, 2), ..goal(5000) });
    assert_eq!((outcome.obtained, machine.cold, machine.pools[&LARGE]), (2, 9000, 3));
    assert_eq!(machine.count("recycle") + machine.count("reclaim") + machine.count("split"), 0);
    let notes: Vec<_> = outcome.rungs.iter().filter_map(|rung| rung.note.as_deref()).collect();
    assert_eq!(
        notes.iter().filter(|note| note.contains("cannot be moved")).count(),
        2,
        "{notes:?}"
    );
    let mut machine = lot();
    let some = Ceiling { reclaim: 7, slab: 7, offline: 10 };
    let outcome = climbed(&mut machine, &Goal { ceiling: Some(some), ..goal(5000) });
    assert_eq!((outcome.obtained, machine.recyclable), (10, 9 - 3));
}

#[test]
fn asking_has_nothing_reclaimed_for_a_page_that_is_not_ready() {
    let mut machine = costly_to_ask();
    let outcome = climbed(&mut machine, &Goal { max_rung: Rung::Ask, ..goal(5000) });
    assert_eq!((outcome.obtained, machine.cold, machine.calls), (0, 9000, vec!["resize"]));
}

#[test]
fn little_is_reclaimed_before_it_has_helped() {
    // What is reclaimed lies among what cannot go.
    let mut machine = Simulated { cold: 9000, useless: true, ..Default::default() };
    let outcome = climbed(&mut machine, &goal(8000));
    assert_eq!(outcome.obtained, 0);
    assert!(machine.cold > 9000 - 1024, "{} of 9000 are left", machine.cold);
}

#[test]
fn a_cache_that_is_to_be_kept_is_kept_and_slab_shrunk_instead() {
    let mut machine = Simulated { cold: 99, slab: 40, ..Default::default() };
    let outcome = climbed(&mut machine, &Goal { cache: Cache::Keep, ..goal(30) });
    assert_eq!((outcome.obtained, machine.cold), (30, 99));
    assert_eq!(names(&outcome).last(), Some(&Rung::Slab));
}

#[test]
fn all_caches_are_dropped_only_where_that_is_allowed() {
    let lot = || Simulated { cold: 0, hot: 3, slab: 1, ..Default::default() };
    let mut machine = lot();
    climbed(&mut machine, &goal(1000));
    assert_eq!(machine.count("drop"), 0);
    let mut machine = lot();
    let outcome = climbed(&mut machine, &Goal { cache: Cache::Drop, ..goal(1000) });
    assert_eq!((machine.count("drop"), outcome.obtained), (1, 4));
    assert!(outcome.rungs.iter().all(|report| report.rung != Rung::Drop || report.note.is_none()));
}

#[test]
fn no_rung_above_the_last_allowed_is_tried() {
    let mut machine = Simulated { cold: 9, slab: 9, recyclable: 9, ..Default::default() };
    let outcome = climbed(&mut machine, &Goal { max_rung: Rung::Compact, ..goal(9) });
    assert_eq!((outcome.obtained, names(&outcome)), (0, vec![Rung::Ask, Rung::Compact]));
    assert_eq!(machine.count("reclaim") + machine.count("slab") + machine.count("recycle"), 0);
}

#[test]
fn an_impossible_goal_ends_after_all_rungs() {
    let mut machine = Simulated { cold: 2, slab: 4, recyclable: 1, ..Default::default() };
    let outcome = climbed(&mut machine, &goal(5000));
    assert_eq!(outcome.obtained, 2 + 4 + 1);
    assert_eq!(names(&outcome).len(), 7);
    assert_eq!(outcome.stopped, None);
    assert!(machine.calls.len() < 100, "{:?}", machine.calls);
}

#[test]
fn being_asked_to_stop_ends_the_climb_with_what_was_won() {
    for patience in 1..12 {
        let mut machine = Simulated {
            ready: ready(3),
            cold: 2,
            slab: 50,
            patience: Some(patience),
            ..Default::default()
        };
        let wanted = goal(5000);
        let outcome = climbed(&mut machine, &wanted);
        assert_eq!(outcome.stopped, Some(Stop::Asked), "{patience}");
        assert!(outcome.obtained >= 3);
        assert_eq!(roll_back(&mut machine, &wanted, &outcome).unwrap(), 0);
    }
}

#[test]
fn long_runs_come_from_gigantic_pages_which_are_tried_first() {
    let mut machine =
        Simulated { ready: BTreeMap::from([(SMALL, 5000), (LARGE, 9)]), ..Default::default() };
    machine.pools.insert(LARGE, 2);
    let outcome = climbed(&mut machine, &Goal { contiguous: true, ..goal(1000) });
    assert_eq!((outcome.obtained, names(&outcome)), (1000, vec![Rung::Contiguous]));
    assert_eq!(machine.pools, BTreeMap::from([(SMALL, 1000), (LARGE, 2)]), "2 are somebody's");
}

#[test]
fn gigantic_pages_that_do_not_help_are_given_back() {
    let mut machine = Simulated {
        ready: BTreeMap::from([(LARGE, 1)]),
        denied: Some("split"),
        ..Default::default()
    };
    let outcome = climbed(&mut machine, &goal(600));
    assert_eq!((outcome.obtained, machine.pools[&LARGE]), (0, 0));
    let split = outcome.rungs.iter().find(|report| report.rung == Rung::Contiguous).unwrap();
    assert!(split.note.as_deref().unwrap().contains("split"), "{split:?}");
}

#[test]
fn what_may_not_be_done_is_noted_and_passed_over() {
    for denied in ["compact", "reclaim", "slab", "recycle"] {
        let mut machine = Simulated {
            spare: 5,
            compactable: 5,
            cold: 5,
            slab: 8,
            recyclable: 5,
            denied: Some(denied),
            ..Default::default()
        };
        let outcome = climbed(&mut machine, &goal(5000));
        assert_eq!(names(&outcome).len(), 7, "{denied}");
        let notes: Vec<_> = outcome.rungs.iter().filter_map(|r| r.note.as_deref()).collect();
        assert!(notes.iter().any(|note| note.contains(denied)), "{denied}: {notes:?}");
    }
    let mut machine = Simulated { denied: Some("resize"), ..Default::default() };
    assert!(climb(&mut machine, &goal(1), &mut |_| {}).is_err());
}

#[test]
fn gigantic_pages_have_no_use_for_compaction_and_reclaim_only_room() {
    let mut machine = Simulated { spare: 5000, cold: 9, slab: 9, ..Default::default() };
    let outcome = climbed(&mut machine, &Goal { page: LARGE, ..goal(2) });
    assert_eq!(machine.count("compact") + machine.count("reclaim") + machine.count("split"), 0);
    let expected = [Rung::Ask, Rung::Reclaim, Rung::Slab, Rung::Drop];
    assert_eq!(names(&outcome), expected);
}
