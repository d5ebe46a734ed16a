//! Copy commands: how a copy is cut into them, and what they look like.
//!
//! Source: NVM Express NVM Command Set Specification, Copy command, and Source Range Entries. One command
//! writes one range of blocks and gathers it from several source ranges; the namespace that is written
//! limits the blocks of a range (MSSRL) and of a command (MCL), and how many ranges there are (MSRC).

use super::identify::Limits;

/// Opcode of Copy in the NVM command set.
pub(super) const COPY: u8 = 0x19;
/// No more is asked for at once, so that progress shows, an interruption is noticed, and a slow drive is
/// done before the kernel loses patience.
const COMMAND_BYTES_MAX: u64 = 16 << 20;

/// A contiguous copy of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// First block in the source's namespace.
    pub(super) from: u64,
    /// First block in the target's.
    pub(super) to: u64,
    /// How many.
    pub(super) blocks: u64,
}

/// Descriptor formats of source ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// 0h: ranges of the namespace that the command is sent to.
    Here,
    /// 2h: ranges of a namespace that the descriptor names.
    Of {
        /// Its number.
        namespace: u32,
    },
}

/// One Copy command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Command {
    /// First block that is written.
    pub(super) to: u64,
    /// First block and number of blocks of each source range.
    pub(super) ranges: Vec<(u64, u64)>,
    pub(super) format: Format,
}

/// A Source Range Entry as it goes to the drive.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
pub(super) struct Entry([u8; 32]);

const _: () = assert!(size_of::<Entry>() == 32);

impl Command {
    /// Blocks that it copies.
    pub(super) fn blocks(&self) -> u64 {
        self.ranges.iter().map(|&(_, blocks)| blocks).sum()
    }

    /// The entries: bytes 0 to 3 the namespace (format 2h), 8 to 15 the first block, 16 and 17 the number
    /// of blocks less one. The rest concerns protection information, which is not used.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let entry = |&(start, blocks): &(u64, u64)| {
            let mut bytes = [0; 32];
            if let Format::Of { namespace } = self.format {
                bytes[..4].copy_from_slice(&namespace.to_le_bytes());
            }
            bytes[8..16].copy_from_slice(&start.to_le_bytes());
            let less_one = u16::try_from(blocks - 1).expect("cut to the limit, which is 16 bits");
            bytes[16..18].copy_from_slice(&less_one.to_le_bytes());
            Entry(bytes)
        };
        self.ranges.iter().map(entry).collect()
    }

    /// Command words 10 to 15: 10 and 11 the first block written, 12 the number of ranges less one
    /// (bits 0 to 7) and the format (8 to 11).
    pub(super) fn words(&self) -> [u32; 6] {
        let format = match self.format {
            Format::Here => 0,
            Format::Of { .. } => 2,
        };
        let ranges = self.ranges.len() as u32 - 1;
        [self.to as u32, (self.to >> 32) as u32, ranges | format << 8, 0, 0, 0]
    }
}

/// Cuts `extent` into commands within the limits; none moves more than `bytes_max`.
pub(super) fn commands(
    extent: Extent,
    limits: &Limits,
    format: Format,
    bytes_max: u64,
) -> impl Iterator<Item = Command> {
    let range_max = u64::from(limits.range_blocks);
    let bytes_max = bytes_max.min(COMMAND_BYTES_MAX);
    let most = u64::from(limits.command_blocks)
        .min(range_max * u64::from(limits.ranges))
        .min((bytes_max / limits.block_bytes).max(1));
    let mut done = 0;
    std::iter::from_fn(move || {
        let blocks = most.min(extent.blocks - done);
        if blocks == 0 {
            return None;
        }
        let (from, to) = (extent.from + done, extent.to + done);
        done += blocks;
        let starts = (0..blocks).step_by(range_max as usize);
        let ranges = starts.map(|at| (from + at, range_max.min(blocks - at))).collect();
        Some(Command { to, ranges, format })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        block_bytes: 512,
        blocks: 1 << 20,
        range_blocks: 2048,
        command_blocks: 65535,
        ranges: 128,
    };

    #[test]
    fn a_command_looks_as_the_specification_says() {
        let extent = Extent { from: 0x1_0000_0010, to: 0x2_0000_0020, blocks: 3000 };
        let all: Vec<_> = commands(extent, &LIMITS, Format::Here, u64::MAX).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].words(), [0x20, 2, 1, 0, 0, 0]);
        let entries = all[0].entries();
        let mut first = [0; 32];
        first[8..16].copy_from_slice(&0x1_0000_0010_u64.to_le_bytes());
        first[16..18].copy_from_slice(&2047_u16.to_le_bytes());
        assert_eq!(entries[0].0, first);
        assert_eq!(entries[1].0[8..18], [0x10, 8, 0, 0, 1, 0, 0, 0, 0xb7, 3]); // 952 blocks
        let mut elsewhere = all[0].clone();
        elsewhere.format = Format::Of { namespace: 7 };
        assert_eq!(elsewhere.words()[2], 0x201);
        assert_eq!(elsewhere.entries()[1].0[..4], [7, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn commands_cover_all_blocks_once_within_the_limits(
            blocks in 0_u64..200_000,
            range_blocks in 1_u16..=u16::MAX,
            command_blocks in 1_u32..300_000,
            ranges in 1_u32..=256,
            bytes_max in 512_u64..32 << 20,
        ) {
            let limits = Limits { range_blocks, command_blocks, ranges, ..LIMITS };
            // Ranges of few blocks make many commands: fewer blocks are enough there.
            let blocks = blocks.min(u64::from(range_blocks) * 1000).min(u64::from(command_blocks) * 1000);
            let extent = Extent { from: 5, to: 1_000_000, blocks };
            let mut at = 0;
            for command in commands(extent, &limits, Format::Here, bytes_max) {
                prop_assert_eq!(command.to, extent.to + at);
                prop_assert!(command.ranges.len() as u32 <= ranges);
                prop_assert!(command.blocks() <= u64::from(command_blocks));
                prop_assert!(command.blocks() * 512 <= bytes_max.max(512));
                prop_assert_eq!(command.entries().len(), command.ranges.len());
                for &(from, blocks) in &command.ranges {
                    prop_assert_eq!(from, extent.from + at);
                    prop_assert!(blocks > 0 && blocks <= u64::from(range_blocks));
                    at += blocks;
                }
            }
            prop_assert_eq!(at, blocks);
        }
    }
}
