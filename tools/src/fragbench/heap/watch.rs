//! Looks at a heap while a workload runs.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::resident::Watcher;
use super::table::Table;
use super::values::{Counted, Values};
use crate::cli::interrupt::Interrupts;

/// How often a heap is looked at.
const LOOKS: f64 = 100.0;

/// What a heap had at a moment.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// How much of the workload was done: 0 to 1.
    pub done: f64,
    /// Bytes that the workload had asked for and not ended.
    pub live: u64,
    /// Bytes that were resident.
    pub resident: u64,
    /// Of these, in huge pages.
    pub huge: u64,
}

/// All that was seen of a heap.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// In the order of time; the last one after the rest.
    pub samples: Vec<Sample>,
    /// Most bytes that lived.
    pub peak_live: u64,
    /// Blocks of 2 MiB of address space in which there was ever a page.
    pub blocks: u64,
    /// Of these, those without one at the end.
    pub blocks_given_back: u64,
    /// How long the workload took, without the looks and the rest.
    pub seconds: f64,
}

/// Looks every now and then.
#[derive(Debug)]
pub struct Watch {
    watcher: Watcher,
    samples: Table<Sample>,
    next: f64,
    began: Instant,
    looking: Duration,
    took: Duration,
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// No memory for its tables.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            watcher: Watcher::new()?,
            samples: Table::new(4 * LOOKS as usize)?,
            next: 0.0,
            began: Instant::now(),
            looking: Duration::ZERO,
            took: Duration::ZERO,
        })
    }

    /// So much of the workload is done: a look, if it is time for one.
    ///
    /// # Errors
    /// The heap cannot be looked at, or a signal came.
    #[inline]
    pub fn at<V: Values>(&mut self, done: f64, values: &Counted<V>) -> io::Result<()> {
        if done < self.next {
            return Ok(());
        }
        self.next = done + 1.0 / LOOKS;
        values.rest();
        let began = Instant::now();
        let looked = self.look(done, values);
        self.looking += began.elapsed();
        looked
    }

    /// The last look, after the rest.
    ///
    /// # Errors
    /// As [`Watch::at`].
    pub fn finish<V: Values>(&mut self, values: &Counted<V>) -> io::Result<()> {
        self.look(1.0, values)
    }

    /// The workload is done, and rests from now on.
    pub fn rests(&mut self) {
        self.took = self.began.elapsed().saturating_sub(self.looking);
    }

    fn look<V: Values>(&mut self, done: f64, values: &Counted<V>) -> io::Result<()> {
        if Interrupts::any() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let resident = self.watcher.look()?;
        let live = values.live().0;
        let sample = Sample { done, live, resident: resident.bytes, huge: resident.huge };
        self.samples.push(sample).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// What was seen.
    pub fn seen<V: Values>(&self, values: &Counted<V>) -> Seen {
        let (blocks, blocks_given_back) = self.watcher.blocks();
        Seen {
            samples: self.samples.to_vec(),
            peak_live: values.live().1,
            blocks,
            blocks_given_back,
            seconds: self.took.as_secs_f64(),
        }
    }
}
