//! The hourly look: what is free, and whether it can be had in long pieces.
//!
//! **The probe** asks for 1 GiB as often as 97% of the free bytes hold it, one request after the other, and
//! keeps what it got until the last one; then the same with 64 MiB. So it does not ask whether *one* long
//! piece is left, but how much of the free memory can be had in such pieces: a success rate of 0.3 says that
//! seven tenths of it cannot. Then it gives everything back. Moves that it caused are counted apart, and
//! stay made.

use bookend::units::{Blocks, Bytes};

use super::backing::Backing;
use super::latency::Latencies;
use super::server::{FITS, Server};

/// The probe's requests.
const LARGE: Blocks = Blocks::new(512); // 1 GiB
const MIDDLE: Blocks = Blocks::new(32); // 64 MiB

/// Requests made and granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Made.
    pub asked: u64,
    /// Granted.
    pub granted: u64,
}

impl Rate {
    /// The part that was granted; `None` where nothing was asked for, because none would have fitted.
    pub fn success(self) -> Option<f64> {
        (self.asked > 0).then(|| self.granted as f64 / self.asked as f64)
    }

    /// Of both.
    pub fn and(self, other: Self) -> Self {
        Self { asked: self.asked + other.asked, granted: self.granted + other.granted }
    }
}

/// What one hour shows.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Hours since Monday began.
    pub hour: u32,
    /// Bytes that no object has.
    pub free_bytes: Bytes,
    /// Bytes of whole free blocks.
    pub free: Bytes,
    /// The longest run of them.
    pub largest_free_run: Bytes,
    /// Requests of 64 MiB.
    pub middle: Rate,
    /// Requests of 1 GiB.
    pub large: Rate,
    /// Scatter-gather entries that 1 GiB of free memory takes: 1 where it was had in one piece, else the
    /// fewest free runs. `None` where less is free.
    pub sg_entries: Option<u64>,
    /// Bytes moved in this hour, by the trace's requests and by the probe's.
    pub moved: Bytes,
    /// Of these, by the probe's.
    pub moved_for_probe: Bytes,
    /// How long the trace's requests took that needed blocks.
    pub latencies: Latencies,
    /// Requests of the trace that were refused though they fit in 97% of the free bytes.
    pub refused: u64,
}

/// Looks at a server; `moved_before` is what had been moved when the hour began.
pub fn look<B: Backing>(server: &mut Server<B>, hour: u32, moved_before: Bytes) -> Sample {
    let free = server.table().free_blocks().bytes();
    let largest_free_run = server.table().largest_free().bytes();
    let moved_by_trace = server.moved();
    let pieces = fewest_runs(server, LARGE);
    let large = probe(server, LARGE);
    let middle = probe(server, MIDDLE);
    let asked = server.take_asked();
    Sample {
        hour,
        free_bytes: server.free_bytes(),
        free,
        largest_free_run,
        middle,
        large,
        sg_entries: if large.granted > 0 { Some(1) } else { pieces },
        moved: server.moved() - moved_before,
        moved_for_probe: server.moved() - moved_by_trace,
        latencies: asked.latencies,
        refused: asked.refused,
    }
}

/// Asks as often as 97% of the free bytes hold it, and gives everything back.
fn probe<B: Backing>(server: &mut Server<B>, blocks: Blocks) -> Rate {
    let usable = FITS * server.free_bytes().get() as f64;
    let asked = (usable / blocks.bytes().get() as f64) as u64;
    server.prepare(blocks, asked);
    // After a refusal the next would be refused as well: nothing is given back in between.
    let held: Vec<_> = (0..asked).map_while(|_| server.probe(blocks)).collect();
    let granted = held.len() as u64;
    held.into_iter().for_each(|range| server.give(range));
    Rate { asked, granted }
}

/// The fewest free runs that hold so many blocks, the longest first.
fn fewest_runs<B: Backing>(server: &Server<B>, wanted: Blocks) -> Option<u64> {
    if server.table().free_blocks() < wanted {
        return None;
    }
    let mut runs: Vec<_> = server.table().iter_free().map(|run| run.len().get()).collect();
    // Each has a block at least, so no more are needed than blocks are wanted.
    let needed = wanted.as_usize().min(runs.len());
    if needed < runs.len() {
        runs.select_nth_unstable_by(needed, |a, b| b.cmp(a));
        runs.truncate(needed);
    }
    runs.sort_unstable_by(|a, b| b.cmp(a));
    let mut left = wanted.get();
    let full = runs.iter().take_while(|&&run| {
        let more = left > 0;
        left = left.saturating_sub(run);
        more
    });
    Some(full.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::super::backing::Nothing;
    use super::super::policy::Policy;
    use super::*;

    #[test]
    fn an_empty_server_gives_all_but_the_last_piece() {
        let capacity = Blocks::holding(Bytes::gib(8)).unwrap();
        let mut server = Server::new(Policy::TwoEnded, capacity, Nothing).unwrap();
        let sample = look(&mut server, 1, Bytes::ZERO);
        assert_eq!(sample.large, Rate { asked: 7, granted: 7 }, "97% of 8 GiB");
        assert_eq!(sample.middle.success(), Some(1.0));
        assert_eq!(sample.sg_entries, Some(1));
        assert_eq!((sample.free, sample.largest_free_run), (capacity.bytes(), capacity.bytes()));
        assert_eq!(server.table().free_blocks(), capacity, "everything was given back");
    }

    #[test]
    fn pieces_are_counted_longest_first() {
        let mut server = Server::new(Policy::FirstFit, Blocks::new(1024), Nothing).unwrap();
        // Runs of 300, 200 and 100 free blocks, and the rest of the table.
        let used: Vec<_> = [10, 300, 10, 200, 10, 100, 394]
            .map(|blocks| server.probe(Blocks::new(blocks)).unwrap())
            .into();
        for &index in &[1, 3, 5] {
            server.give(used[index]);
        }
        assert_eq!(fewest_runs(&server, Blocks::new(300)), Some(1));
        assert_eq!(fewest_runs(&server, Blocks::new(512)), Some(3));
        assert_eq!(fewest_runs(&server, Blocks::new(601)), None);
        assert_eq!(Rate::default().success(), None);
    }
}
