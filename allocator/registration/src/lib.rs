//! Registers pool memory with those that move data by themselves: here io_uring, whose fixed buffers
//! go through the same kernel path (long-term page pinning) as RDMA memory regions.
//!
//! A registration owns the pool's pin ([`bookend::pool::PoolPin`]): the memory is neither released
//! nor moved for as long as the kernel may reach it, and this is a type, not a promise.
#![deny(missing_docs)]

mod error;
mod fixed_buffers;

pub use error::RegisterError;
pub use fixed_buffers::FixedBuffers;
