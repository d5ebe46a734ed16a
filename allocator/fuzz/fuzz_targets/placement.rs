//! Does what the input says in a placement and in its naive model, and compares them after every
//! step. The first byte is the capacity, every four bytes after it are an action.
#![no_main]

use bookend::os::Os;
use bookend::placement::{Class, Move, Moved, Placement, Refusal};
use bookend::units::{BlockId, BlockRange, Blocks};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/placement/model.rs"]
mod model;

fuzz_target!(|input: &[u8]| {
    let Some((&capacity, actions)) = input.split_first() else { return };
    let placement = Placement::new(Blocks::new(capacity.into())).expect("the table is mapped");
    model::run(placement, actions);
});
