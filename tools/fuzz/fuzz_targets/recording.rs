//! Reads recordings of allocations: as they come, and as the events of chunks whose headers are whole.
//!
//! The first byte says which; then come the lengths of chunks and their bytes.
#![no_main]

use bookend::heap::recording::Header;
use bookend_tools::fragbench::replay::trace_file::{self, Process, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&made, mut rest)) = input.split_first() else { return };
    if made % 2 == 0 {
        return read(rest);
    }
    let mut file = Vec::new();
    while let Some((head, left)) = rest.split_first_chunk::<4>() {
        let [room, used, process, base] = head.map(u32::from);
        let (events, left) = left.split_at((room as usize).min(left.len()));
        let header = Header {
            room: events.len() as u32,
            used: used.min(events.len() as u32),
            process: process % 3,
            thread: process / 3,
            began_ns: 1,
            base_ns: u64::from(base),
            lost: base,
            program: *b"some\0program\xff\xff\xff\xff",
        };
        file.extend(header.to_bytes());
        file.extend(events);
        rest = left;
    }
    read(&file);
});

fn read(file: &[u8]) {
    for process in trace_file::parse(file).unwrap_or_default() {
        check(&process);
    }
}

/// Objects begin and end in turn, and the sums are those of the steps.
fn check(process: &Process) {
    assert_eq!(process.steps.len(), process.times_ns.len());
    assert!(process.times_ns.is_sorted());
    let mut living = vec![None; process.objects as usize];
    let (mut bytes, mut live, mut peak) = (0u64, 0u64, 0u64);
    for step in &process.steps {
        match *step {
            Step::Make(object, size) => {
                assert_eq!(living[object as usize].replace(size), None);
                bytes = bytes.saturating_add(size);
                live = live.saturating_add(size);
                peak = peak.max(live);
            }
            Step::End(object) => live -= living[object as usize].take().expect("it began"),
        }
    }
    assert_eq!((process.bytes, process.peak), (bytes, peak));
}
