//! What a heap held and did, printed to standard error: at the end of the program where
//! `BOOKEND_STATS` says so.
//!
//! Line by line from the stack, so that printing takes nothing from the heap that it reports on.
#![allow(unsafe_code)] // keeps a descriptor, and asks to be called

use core::fmt::Write;
use core::sync::atomic::{AtomicI32, Ordering};

use super::config::Report;
use super::fatal::Line;
use super::global::HEAP;
use super::stats::Stats;
use crate::units::Bytes;

/// Where to print at the end: standard error as it was at the beginning, because some programs close
/// it when they end. 0: not kept.
static KEPT: AtomicI32 = AtomicI32::new(0);

/// Has [`at_exit`] called when the program ends.
pub(super) fn promise() {
    // SAFETY: duplicates a descriptor, to one that programs do not use and children do not get.
    let kept = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 200) };
    KEPT.store(kept.max(0), Ordering::Relaxed);
    // SAFETY: the function lives as long as this object, which is never unloaded.
    let _ = unsafe { libc::atexit(at_exit) };
}

/// For atexit(3).
extern "C" fn at_exit() {
    let Some(shared) = HEAP.shared() else { return };
    print(shared.config.report == Report::Json);
}

/// Prints a table, or one object.
pub(super) fn print(json: bool) {
    let printed = HEAP.with(|central| {
        let stats = central.stats();
        let huge_mapped = central.huge_mapped();
        if json {
            print_json(&stats, huge_mapped, central.slabs_by_size());
        } else {
            print_text(&stats, huge_mapped, central.slabs_by_size());
        }
    });
    if printed.is_none() && json {
        line(format_args!("{{}}\n"));
    }
}

/// Writes a line; what is longer than a line's room is cut.
fn line(text: core::fmt::Arguments<'_>) {
    let mut line = Line::new();
    let _ = line.write_fmt(text);
    match KEPT.load(Ordering::Relaxed) {
        0 => line.write(),
        kept => line.write_to(kept),
    }
}

/// The counts, each with its name and whether it is of bytes.
fn counts(stats: &Stats, huge_mapped: Bytes) -> [(&'static str, u64, bool); 19] {
    [
        ("reserved", stats.reserved, true),
        ("committed", stats.committed, true),
        ("slabs", stats.slabs, true),
        ("objects", stats.objects, true),
        ("runs", stats.runs, true),
        ("huge", stats.huge, true),
        ("huge_mapped", huge_mapped.get(), true),
        ("hugetlb", stats.hugetlb, true),
        ("hugetlb_refused_blocks", stats.hugetlb_refused_blocks, false),
        ("transparent_refused_blocks", stats.transparent_refused_blocks, false),
        ("unmoved", stats.unmoved, false),
        ("other_node_blocks", stats.other_node_blocks, false),
        ("released_blocks", stats.released_blocks, false),
        ("kept_blocks", stats.kept_blocks, false),
        ("split_blocks", stats.split_blocks, false),
        ("returned_parts", stats.returned_parts, true),
        ("misplaced_blocks", stats.misplaced_blocks, false),
        ("failures", stats.failures, false),
        ("heaps", stats.heaps, false),
    ]
}

fn print_text(stats: &Stats, huge_mapped: Bytes, slabs: impl Iterator<Item = (usize, usize)>) {
    line(format_args!("bookend: what the heap holds at the end\n"));
    for (name, count, bytes) in counts(stats, huge_mapped) {
        if bytes {
            line(format_args!("  {name:<24}{}\n", Bytes::new(count)));
        } else {
            line(format_args!("  {name:<24}{count}\n"));
        }
    }
    for (size, bytes) in slabs {
        line(format_args!("  slabs of {size:<15}{}\n", Bytes::of_len(bytes)));
    }
}

fn print_json(stats: &Stats, huge_mapped: Bytes, slabs: impl Iterator<Item = (usize, usize)>) {
    line(format_args!("{{"));
    for (name, count, _) in counts(stats, huge_mapped) {
        line(format_args!("\"{name}\":{count},"));
    }
    line(format_args!("\"slabs_by_size\":{{"));
    for (index, (size, bytes)) in slabs.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        line(format_args!("{comma}\"{size}\":{bytes}"));
    }
    line(format_args!("}}}}\n"));
}
