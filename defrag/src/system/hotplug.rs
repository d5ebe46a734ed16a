//! Memory blocks taken offline and back: the strongest way to empty one.
//!
//! A block goes offline only when everything in it has been moved away, for which the kernel tries
//! harder than compaction does, and without end: so each try has a time limit. It always comes back
//! online, also where going offline failed half-way. Only SIGKILL, of this process and at just that
//! moment, leaves a block offline; `echo online > /sys/devices/system/memory/memoryN/state` then
//! brings it back.

use std::time::Duration;

use bookend::units::{Node, PageSize};

use super::bounded::{self, Limit, Written};
use super::files::{FileError, Files};
use super::holders::{pinned, processes};
use super::machine::Did;
use super::survey::{Class, Survey, survey};

/// How long one block may take.
const TRY: Duration = Duration::from_secs(2);
/// How many blocks are tried in all.
const TRIES: usize = 16;

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
    let held = |block: usize| pinned.iter().any(|pinned| pinned.chance(block as u64) > 0.5);
    let can_go = |block: usize| {
        let class = survey.blocks.get(block).map(|block| block.class());
        matches!(class, Some(Class::Free | Class::Recoverable)) && !held(block)
    };
    let Some(number) = most_promising(files, &survey, size, node, tried, can_go)? else {
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
fn block_size(files: &Files) -> Result<u64, FileError> {
    let name = format!("{MEMORY}/block_size_bytes");
    let text = files.text(&name)?;
    u64::from_str_radix(&text, 16).map_err(|_| files.strange(name, &text))
}

/// Of the blocks that nothing stands in the way of, the one with most that is not free yet.
fn most_promising(
    files: &Files,
    survey: &Survey,
    size: u64,
    node: Option<Node>,
    tried: &[u64],
    can_go: impl Fn(usize) -> bool,
) -> Result<Option<u64>, FileError> {
    let len = (size >> PageSize::MIB2.shift()) as usize;
    let mut best = None;
    for number in files.numbered(MEMORY, "memory", "")? {
        let first = number as usize * len;
        let Some(blocks) = survey.blocks.get(first..first + len) else { continue };
        let here = node.is_none() || survey.node_of(first) == node;
        if !here || tried.contains(&number) || !(first..first + len).all(&can_go) {
            continue;
        }
        let gain = blocks.iter().filter(|block| block.class() == Class::Recoverable).count();
        if gain > best.map_or(0, |(gain, _)| gain) {
            best = Some((gain, number));
        }
    }
    Ok(best.map(|(_, number)| number))
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
