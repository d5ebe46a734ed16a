//! `hugectl watch`: contiguity as it changes, in a terminal.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use bookend::units::{Bytes, PageSize};
use bookend_defrag::system::counters::Counters;
use bookend_defrag::system::indices::FreeBlocks;
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::zones::zones;
use bookend_defrag::system::{FileError, HugePools};
use clap::Args;

use super::{Context, Failure};
use crate::cli::{exit, format, terminal};

/// Shows free huge blocks, fragmentation and pools as they change, with their history
///
/// In a terminal the view is drawn over itself until Ctrl-C; elsewhere a line is written each time.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Seconds between looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Look so often, then end
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| (0.05..=86_400.0).contains(s));
    seconds.ok_or_else(|| format!("\"{text}\" is no number of seconds from 0.05 to 86400"))
}

/// Looks kept for the history.
const HISTORY: usize = 60;

/// One look.
#[derive(Clone, Debug)]
struct Look {
    free: Bytes,
    huge_blocks: u64,
    unusable: f64,
    pools: Vec<(PageSize, u64, u64)>,
    vmstat: Counters,
}

fn look(context: &Context) -> Result<Look, FileError> {
    let mut free = FreeBlocks::default();
    zones(&context.files)?.iter().for_each(|zone| free += &zone.blocks);
    let order = (PageSize::MIB2.shift() - context.base.shift()) as usize;
    let pools = HugePools::of(&context.files);
    let mut sizes = Vec::new();
    for page in pools.sizes().unwrap_or_default() {
        let counts = pools.counts(page, Place::Machine)?;
        sizes.push((page, counts.total, counts.free));
    }
    Ok(Look {
        free: Bytes::new(free.pages() << context.base.shift()),
        huge_blocks: free.suitable(order),
        unusable: f64::from(free.unusable(order)) / 1000.0,
        pools: sizes,
        vmstat: Counters::vmstat(&context.files)?,
    })
}

/// Shows looks until it is told to stop.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let is_terminal = io::stdout().is_terminal();
    let mut screen = Screen::open(is_terminal).map_err(Failure::Output)?;
    let mut history = VecDeque::new();
    let pause = Duration::from_secs_f64(options.interval);
    for number in 1.. {
        let began = Instant::now();
        history.push_back(look(context)?);
        if history.len() > HISTORY {
            history.pop_front();
        }
        let text = match is_terminal {
            // Anew each time: a terminal can be made larger or smaller.
            true => fitting(&history, terminal::size(&io::stdout()).unwrap_or(terminal::USUAL)),
            false => line(&history),
        };
        match screen.show(&text) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit::SUCCESS),
            shown => shown.map_err(Failure::Output)?,
        }
        if options.count == Some(number) {
            break;
        }
        while began.elapsed() < pause {
            if context.interrupts.check().is_err() {
                return Ok(exit::SUCCESS); // the way to end it
            }
            std::thread::sleep((pause - began.elapsed().min(pause)).min(Duration::from_millis(50)));
        }
    }
    Ok(exit::SUCCESS)
}

/// The terminal's other screen, left again at the end.
struct Screen {
    is_terminal: bool,
}

impl Screen {
    fn open(is_terminal: bool) -> io::Result<Self> {
        if is_terminal {
            write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        }
        Ok(Self { is_terminal })
    }

    fn show(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.is_terminal {
            // Line by line over the old view, so that nothing flickers.
            write!(out, "\x1b[H{}\x1b[K\x1b[J", text.replace('\n', "\x1b[K\r\n"))?;
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l");
            let _ = io::stdout().flush();
        }
    }
}

/// Eight heights, by the largest of the values.
fn spark(values: impl Iterator<Item = f64> + Clone) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().fold(0.0, f64::max);
    let height = |value: f64| if most > 0.0 { (value / most * 7.0).round() as usize } else { 0 };
    values.map(|value| BARS[height(value).min(7)]).collect()
}

/// What was counted between a look and the one before it.
fn steps(history: &VecDeque<Look>, name: &str) -> Vec<f64> {
    let pairs = history.iter().zip(history.iter().skip(1));
    pairs.map(|(before, now)| now.vmstat.since(&before.vmstat, name) as f64).collect()
}

/// The view that a terminal has room for: the last bars, and no line longer than it is wide.
fn fitting(history: &VecDeque<Look>, (columns, rows): (usize, usize)) -> String {
    terminal::cut(&view(history, columns.saturating_sub(BARS_AT)), (columns, rows))
}

/// Where bars begin.
const BARS_AT: usize = 40;

fn view(history: &VecDeque<Look>, most: usize) -> String {
    let Some(now) = history.back() else { return String::new() };
    let row = |name: &str, value: String, bars: String| {
        let shown: String = bars.chars().skip(bars.chars().count().saturating_sub(most)).collect();
        let line = format!("{name:<26}{value:>12}  {shown}");
        format!("{}\n", line.trim_end())
    };
    let of = |get: fn(&Look) -> f64| spark(history.iter().map(get));
    let mut text = "hugectl watch: Ctrl-C ends it\n\n".to_owned();
    text += &row("free memory", now.free.to_string(), of(|look| look.free.get() as f64));
    let blocks = of(|look| look.huge_blocks as f64);
    text += &row("free blocks of 2 MiB", format::count(now.huge_blocks), blocks);
    let unusable = super::table::percent(now.unusable);
    text += &row("unusable for them", unusable, of(|look| look.unusable));
    for (name, counter) in [
        ("pages moved", "pgmigrate_success"),
        ("compactions waited for", "compact_stall"),
        ("huge pages faulted", "thp_fault_alloc"),
        ("huge pages not had", "thp_fault_fallback"),
    ] {
        let steps = steps(history, counter);
        let last = steps.last().map_or(0, |&last| last as u64);
        text += &row(name, format::count(last), spark(steps.iter().copied()));
    }
    text.push('\n');
    for (page, total, free) in &now.pools {
        let [total, free] = [*total, *free].map(format::count);
        text += &format!("pool of {page:<18}{total:>12}  {free} free\n");
    }
    text
}

fn line(history: &VecDeque<Look>) -> String {
    let Some(now) = history.back() else { return String::new() };
    let moved = steps(history, "pgmigrate_success").last().map_or(0, |&last| last as u64);
    let unusable = super::table::percent(now.unusable);
    let blocks = format::count(now.huge_blocks);
    let free = now.free;
    format!("{free} free, {blocks} blocks of 2 MiB, {unusable} unusable, {moved} pages moved")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_values() {
        assert_eq!(spark([0.0, 7.0, 14.0].into_iter()), "▁▅█");
        assert_eq!(spark([0.0, 0.0].into_iter()), "▁▁");
        assert_eq!(spark(std::iter::empty()), "");
    }

    #[test]
    fn looks_are_not_too_frequent() {
        assert!(interval("0.5").is_ok() && interval("0").is_err() && interval("x").is_err());
    }
}
