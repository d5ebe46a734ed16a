//! Memory blocks taken offline and back: the strongest way to empty one.
//!
//! A block goes offline only when everything in it has been moved away, for which the kernel tries
//! harder than compaction does, and without end: so each try has a time limit. It always comes back
//! online, also where going offline failed half-way. Only SIGKILL, of this process and at just that
//! moment, leaves a block offline; `echo online > /sys/devices/system/memory/memoryN/state` then
//! brings it back.

use std::time::Duration;

use bookend::units::{Bytes, Node, PageSize};

use super::bounded::{self, Limit, Written};
use super::files::{FileError, Files};
use super::holders::{is_held, pinned, processes};
use super::machine::Did;
use super::survey::{Block, Class, Survey, survey};

/// How long one block may take.
const TRY: Duration = Duration::from_secs(2);
/// How many blocks are tried in all.
pub(super) const TRIES: usize = 16;

const MEMORY: &str = "sys/devices/system/memory";

/// Empties the block that promises most and was not tried yet; [`Did::Short`] where there is none.
///
/// # Errors
/// [`FileError`] where blocks cannot be looked at, or a block does not come back online.
pub fn recycle_one(
    files: &Files,
    base: PageSize,
    node: Option<Node>,
    limit: &Limit,
    tried: &mut Vec<u64>,
) -> Result<Did, FileError> {
    let Ok(size) = block_size(files) else {
        return Ok(Did::Unsupported("memory cannot be taken offline here".to_owned()));
    };
    if tried.len() >= TRIES {
        return Ok(Did::Short);
    }
    let survey = survey(files, base)?;
    let pinned = processes(files).and_then(|all| pinned(files, base, &all)).unwrap_or_default();
    let empty = that_empty(&survey, size, node, |block| !is_held(&pinned, block));
    let there = files.numbered(MEMORY, "memory", "")?;
    let left = empty.filter(|(number, _)| there.contains(number) && !tried.contains(number));
    let Some(number) = most_promising(left) else {
        return Ok(Did::Short);
    };
    tried.push(number);
    let state = files.path(format!("{MEMORY}/memory{number}/state"));
    let went = bounded::write(&state, "offline", &limit.within(TRY));
    if files.text(format!("{MEMORY}/memory{number}/state"))? != "online" {
        bounded::write(&state, "online", &Limit::NONE)?;
    }
    match went {
        Ok(Written::Stopped(_)) => Ok(limit.reached().map_or(Did::Done, Did::Stopped)),
        Ok(Written::Whole) => Ok(Did::Done),
        // Something in it turned out not to move: the next one, then.
        Err(error) if !error.is_denied() && !error.is_read_only() => Ok(Did::Done),
        Err(error) => Err(error),
    }
}

/// Bytes of a memory block; the file has them in base 16.
///
/// # Errors
/// [`FileError`] of the file, which machines without memory hotplug do not have.
pub fn block_size(files: &Files) -> Result<Bytes, FileError> {
    let name = format!("{MEMORY}/block_size_bytes");
    let text = files.text(&name)?;
    let size =
        u64::from_str_radix(&text, 16).ok().filter(|&size| size >> PageSize::MIB2.shift() > 0);
    size.map(Bytes::new).ok_or_else(|| files.strange(name, &text))
}

/// The memory blocks that nothing stands in the way of, as far as a survey can tell and the caller
/// of the blocks of 2 MiB; with their numbers.
pub(super) fn that_empty<'a>(
    survey: &'a Survey,
    size: Bytes,
    node: Option<Node>,
    can_go: impl Fn(u64) -> bool + 'a,
) -> impl Iterator<Item = (u64, &'a [Block])> {
    let len = (size.get() >> PageSize::MIB2.shift()) as usize;
    let all = survey.blocks.chunks_exact(len).enumerate();
    let empties = move |number: usize, blocks: &[Block]| {
        let first = number * len;
        let movable = |block: &Block| matches!(block.class(), Class::Free | Class::Recoverable);
        (node.is_none() || survey.node_of(first) == node)
            && blocks.iter().all(movable)
            && (first as u64..(first + len) as u64).all(&can_go)
    };
    all.filter(move |&(number, blocks)| empties(number, blocks))
        .map(|(number, blocks)| (number as u64, blocks))
}

/// The one with most that is not free yet.
fn most_promising<'a>(left: impl Iterator<Item = (u64, &'a [Block])>) -> Option<u64> {
    let gain = |blocks: &[Block]| {
        blocks.iter().filter(|block| block.class() == Class::Recoverable).count()
    };
    let gains = left.map(|(number, blocks)| (gain(blocks), std::cmp::Reverse(number)));
    let best = gains.filter(|&(gain, _)| gain > 0).max()?;
    Some(best.1.0)
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    const FREE: u64 = 1 << 10;
    const FILE: u64 = 1 << 5;
    const PGTABLE: u64 = 1 << 26;

    /// Memory blocks of 4 MiB, that is of two blocks each.
    fn machine(blocks: &[u64]) -> MadeUp {
        let machine = MadeUp::two_nodes();
        let words = blocks.iter().flat_map(|&flags| std::iter::repeat_n(flags, 512));
        machine.put("proc/kpageflags", words.flat_map(u64::to_ne_bytes).collect::<Vec<_>>());
        machine.put("sys/devices/system/memory/block_size_bytes", "400000\n");
        for number in 0..blocks.len() / 2 {
            machine.put(&format!("{MEMORY}/memory{number}/state"), "online\n");
        }
        machine
    }

    #[test]
    fn the_fullest_block_that_can_be_emptied_goes_first_and_comes_back() {
        let machine = machine(&[FREE, FREE, FILE, PGTABLE, FILE, FREE, FILE, FILE]);
        let mut tried = Vec::new();
        let recycle = |tried: &mut Vec<u64>| {
            recycle_one(machine.files(), PageSize::KIB4, None, &Limit::NONE, tried).unwrap()
        };
        assert_eq!(recycle(&mut tried), Did::Done);
        assert_eq!(recycle(&mut tried), Did::Done);
        assert_eq!(tried, [3, 2]);
        assert_eq!(recycle(&mut tried), Did::Short, "1 is blocked, and 0 is free already");
        for number in 0..4 {
            let state = machine.files().text(format!("{MEMORY}/memory{number}/state")).unwrap();
            assert_eq!(state, "online");
        }
    }

    #[test]
    fn a_machine_without_memory_blocks_says_so() {
        let machine = MadeUp::two_nodes();
        let did = recycle_one(machine.files(), PageSize::KIB4, None, &Limit::NONE, &mut Vec::new());
        assert!(matches!(did.unwrap(), Did::Unsupported(_)));
    }
}
