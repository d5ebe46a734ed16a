//! A survey in a file, so that the machine of an hour ago can be held against that of now.
//!
//! A line of text that says what it is (`bookend-map 1 4096 9216`: version, bytes of a base page,
//! blocks), then four bytes a block, lowest first, little-endian. Sums by zone are not kept.

use std::io::{self, BufRead, Read, Write};

use bookend::units::{Bytes, PageSize};

use super::block::{Block, Class};

const MAGIC: &str = "bookend-map";
const VERSION: u32 = 1;
/// 8 PiB; more is no machine but a broken file.
const BLOCKS_MAX: u64 = u32::MAX as u64;

/// Blocks as they were.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The base page.
    pub base: PageSize,
    /// Every block from physical address 0 on.
    pub blocks: Vec<Block>,
}

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("cannot read")]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("not a map saved by \"hugectl map --save\"")]
    NotAMap,
    /// It is of another version.
    #[error("a map of version {0}, and this hugectl reads version {VERSION}")]
    Version(u32),
    /// It ends too early, or holds what is no block.
    #[error("the map is damaged at block {0}; save it anew")]
    Damaged(u64),
}

impl Snapshot {
    /// Writes it.
    ///
    /// # Errors
    /// What writing failed with.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (base, blocks) = (self.base.bytes().get(), self.blocks.len());
        writeln!(out, "{MAGIC} {VERSION} {base} {blocks}")?;
        for block in &self.blocks {
            out.write_all(&block.to_word().to_le_bytes())?;
        }
        out.flush()
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(input: &mut impl BufRead) -> Result<Self, SnapshotError> {
        let (base, count) = heading(input)?;
        let mut blocks = Vec::new(); // grows as it is read: the count may be a lie
        for index in 0..count {
            let mut word = [0; 4];
            input.read_exact(&mut word).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => SnapshotError::Damaged(index),
                _ => error.into(),
            })?;
            let block = Block::from_word(u32::from_le_bytes(word));
            blocks.push(block.ok_or(SnapshotError::Damaged(index))?);
        }
        Ok(Self { base, blocks })
    }

    /// Blocks that came from one class to another, most frequent first.
    pub fn changes(&self, later: &Self) -> Vec<(Class, Class, u64)> {
        let mut counts = [[0; Class::COUNT]; Class::COUNT];
        let len = self.blocks.len().max(later.blocks.len());
        let at = |blocks: &[Block], n: usize| blocks.get(n).copied().unwrap_or(Block::ABSENT);
        for n in 0..len {
            let (from, to) = (at(&self.blocks, n).class(), at(&later.blocks, n).class());
            counts[from.index()][to.index()] += 1;
        }
        let pairs = Class::ALL.into_iter().flat_map(|from| Class::ALL.map(|to| (from, to)));
        let mut changes: Vec<_> = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (from, to, counts[from.index()][to.index()]))
            .filter(|&(.., count)| count > 0)
            .collect();
        changes.sort_by_key(|&(.., count)| std::cmp::Reverse(count));
        changes
    }
}

fn heading(input: &mut impl BufRead) -> Result<(PageSize, u64), SnapshotError> {
    let mut line = Vec::new();
    input.by_ref().take(64).read_until(b'\n', &mut line)?;
    let line = String::from_utf8(line).map_err(|_| SnapshotError::NotAMap)?;
    let mut words = line.strip_suffix('\n').ok_or(SnapshotError::NotAMap)?.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(SnapshotError::NotAMap);
    }
    let mut number = || words.next()?.parse::<u64>().ok();
    match number() {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => return Err(SnapshotError::Version(version as u32)),
        None => return Err(SnapshotError::NotAMap),
    }
    let base = number().and_then(|bytes| PageSize::from_bytes(Bytes::new(bytes)));
    let count = number().filter(|&count| count <= BLOCKS_MAX);
    base.zip(count).ok_or(SnapshotError::NotAMap)
}
