//! The engines, and the steps that they share.

pub mod buffered;
pub mod copy_range;
pub mod device;
pub mod direct;
pub mod ends;
mod kernel_pipe;
mod mapped_target;
pub mod pieces;
pub mod reflink;
mod stream;

use super::engine::{Engine, EngineName};

/// Every engine there is, in no order.
pub fn all() -> &'static [&'static dyn Engine] {
    &[
        &reflink::Reflink,
        &copy_range::CopyRange,
        &device::DeviceCopy,
        &direct::DirectEngine,
        &buffered::Buffered,
    ]
}

/// The engine of that name, if this build has it.
pub fn by_name(name: EngineName) -> Option<&'static dyn Engine> {
    all().iter().copied().find(|engine| engine.name() == name)
}
