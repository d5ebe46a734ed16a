//! Where there is memory at all, from `/proc/iomem`.
//!
//! A zone spans holes, and the flags of a page in a hole may read as zero, which is what a page of
//! the kernel looks like. Where iomem cannot be read, or shows no addresses (to whoever is not
//! root), everything counts as memory.

use bookend::units::PageSize;

use crate::system::files::Files;

/// Ranges of blocks that have memory, in part at least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ram {
    blocks: Vec<std::ops::RangeInclusive<u64>>,
}

impl Ram {
    /// The machine's.
    pub fn of(files: &Files) -> Self {
        files.text("proc/iomem").map_or(Self { blocks: Vec::new() }, |text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        // Lines that begin with a blank are parts of the range above them.
        let whole = text.lines().filter(|line| !line.starts_with(' '));
        Self { blocks: whole.filter_map(range).collect() }
    }

    /// Whether a block has memory, as far as is known.
    pub fn has(&self, block: u64) -> bool {
        self.blocks.is_empty() || self.blocks.iter().any(|range| range.contains(&block))
    }
}

/// `100000000-63fffffff : System RAM`, and the kinds of it that come later.
fn range(line: &str) -> Option<std::ops::RangeInclusive<u64>> {
    let (range, name) = line.split_once(" : ")?;
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = hex(start).zip(hex(end))?;
    let known = name.starts_with("System RAM") && end > 0;
    known.then_some(start >> PageSize::MIB2.shift()..=end >> PageSize::MIB2.shift())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_no_memory() {
        let text = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n\
                    00400000-007fffff : System RAM\n  00500000-005fffff : Kernel code\n\
                    00a00000-00bfffff : System RAM (kmem)\n";
        let ram = Ram::parse(text);
        let has: Vec<_> = (0..7).filter(|&block| ram.has(block)).collect();
        assert_eq!(has, [0, 2, 3, 5]);
    }

    #[test]
    fn where_addresses_are_hidden_everything_counts() {
        let ram = Ram::parse("00000000-00000000 : System RAM\n");
        assert!(ram.has(0) && ram.has(99));
    }
}
