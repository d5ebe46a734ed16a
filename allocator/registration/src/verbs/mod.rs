//! RDMA verbs: memory regions that a device reaches by keys, here and from other machines.
//!
//! libibverbs is opened at run time: nothing of it is needed to build, and machines without RDMA get
//! [`RegisterError::Unsupported`](crate::RegisterError::Unsupported) with the reason. The bindings are our
//! own (`abi.rs`), of what is used here only: those there are need cmake and libclang to build, which would
//! fall on whoever builds a tool that merely copies files.
//!
//! - [`Device`]: what it can, on-demand paging included.
//! - [`Domain`]: a protection domain; [`Domain::registrar`] gives a [registrar](crate::Registrar).
//! - [`QueuePair`], [`Window`]: moving data, and taking keys back before the data is used.
//! - [`import`]: another process's device and domain.
//!
//! **fork**: nothing here calls `ibv_fork_init`, which makes each registration read `/proc/self/smaps` where
//! huge pages are declared safe. Kernels since 5.12 copy pinned pages for the child ([`fork_safety`]), and
//! pools keep hugetlb memory from children.
//!
//! Software devices (rxe, siw) track base pages whatever the memory stands on.

#[doc(hidden)]
pub mod abi;
mod access;
mod device;
mod domain;
mod endpoint;
pub mod import;
mod library;
mod queue;
mod window;
mod work;

pub use abi::Sge;
pub use access::Access;
pub use device::{Device, DeviceLimits, ForkSafety, OnDemand, devices, fork_safety};
pub use domain::{Domain, Region, Regions, Verbs};
pub use endpoint::{BadEndpoint, Endpoint};
pub use queue::{QueuePair, QueueSizes, RemoteMemory};
pub use window::Window;
pub use work::{Completion, WorkError};
