//! The side that is given.
#![allow(unsafe_code)] // declares what holds memory

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use bookend::os::{Linux, Os};
use bookend::pool::{Attached, Rung};
use bookend::scatter::{Held, HeldPages};
use bookend::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

use super::message::{BYTES_MAX, Message, SharedRegion};
use super::{ShareError, socket};
use crate::verbs::{Domain, Sge, import};

/// Keys of shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedKeys {
    /// For work requests of queue pairs in the imported domain. They name memory by the *server's* address.
    pub lkey: u32,
    /// For peers, who name memory by the server's address too.
    pub rkey: u32,
    /// The server's address of the first byte.
    pub address: u64,
}

/// A pool of another process's, mapped here, and its device's objects.
pub struct Worker {
    socket: OwnedFd,
    attached: Attached<Linux>,
    rungs: Vec<(BlockRange, Rung)>,
    domain: Option<Arc<Domain>>,
    regions: Vec<SharedRegion>,
}

impl Worker {
    /// Comes to the server that listens at a path, and takes what it gives: all of the pool is mapped, and
    /// proved to be there (the server may share blocks that it has not populated).
    ///
    /// # Errors
    /// [`ShareError::Socket`] where nobody listens; [`ShareError::ServerGone`] where it does not admit this
    /// process; [`ShareError::Map`], [`ShareError::Import`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ShareError> {
        let failed = |operation| move |cause| ShareError::Socket { operation, cause };
        let socket = socket::connect(path.as_ref()).map_err(failed("connect to the server"))?;
        let received = socket::receive(socket.as_fd(), BYTES_MAX)
            .map_err(failed("receive the pool from the server"))?;
        let (bytes, files) = received.ok_or(ShareError::ServerGone)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ShareError::Message("it is no text".to_owned()))?;
        let message = Message::parse(&text, files.len()).map_err(ShareError::Message)?;
        Self::take(socket, message, files)
    }

    fn take(socket: OwnedFd, message: Message, files: Vec<OwnedFd>) -> Result<Self, ShareError> {
        let Message { segments, device, regions } = message;
        let segments: Vec<_> =
            segments.iter().map(|(segment, file)| (*segment, files[*file].as_fd())).collect();
        let rungs = segments.iter().map(|(segment, _)| (segment.range, segment.rung)).collect();
        let attached = Attached::new(Linux, &segments)?;
        attached.populate(BlockRange::new(BlockId::new(0), attached.capacity()))?;
        let bytes = attached.capacity().bytes();
        if let Some(region) = regions.iter().find(|region| region.start + region.len > bytes) {
            return Err(ShareError::Message(format!("a region ends outside the pool: {region:?}")));
        }
        let import = |device: super::message::SharedDevice| {
            let file = files[device.file].try_clone().map_err(|cause| ShareError::Socket {
                operation: "keep the device's file",
                cause,
            })?;
            let domain = import::import(file, &device.name, device.domain)?;
            // The kernel's word on each: what the server has dropped meanwhile is no more.
            for region in &regions {
                import::keys(&domain, region.handle)?;
            }
            Ok::<_, ShareError>(domain)
        };
        let domain = device.map(import).transpose()?;
        Ok(Self { socket, attached, rungs, domain, regions })
    }

    /// Whether the server is still there.
    ///
    /// # Errors
    /// [`ShareError::ServerGone`]. The memory stays mapped all the same.
    pub fn check(&self) -> Result<(), ShareError> {
        if socket::is_gone(self.socket.as_fd()) { Err(ShareError::ServerGone) } else { Ok(()) }
    }

    /// The pool's first byte, here.
    pub fn base(&self) -> NonNull<u8> {
        self.attached.base()
    }

    /// How long the pool is.
    pub fn bytes(&self) -> Bytes {
        self.attached.capacity().bytes()
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> Blocks {
        self.attached.capacity()
    }

    /// The imported domain, to make queue pairs in; `None` where the pool is registered with no device.
    pub fn domain(&self) -> Option<&Arc<Domain>> {
        self.domain.as_ref()
    }

    /// The keys of `len` bytes of the pool from `start` on; `None` where they do not lie in one region.
    pub fn keys(&self, start: Bytes, len: Bytes) -> Option<SharedKeys> {
        let holds = |region: &&SharedRegion| {
            start >= region.start && start + len <= region.start + region.len
        };
        let region = self.regions.iter().find(holds)?;
        let address = region.address + (start - region.start).get();
        Some(SharedKeys { lkey: region.lkey, rkey: region.rkey, address })
    }

    /// The entry of a work request for `len` bytes of the pool from `start` on.
    pub fn entry(&self, start: Bytes, len: u32) -> Option<Sge> {
        let keys = self.keys(start, Bytes::new(u64::from(len)))?;
        Some(Sge { addr: keys.address, length: len, lkey: keys.lkey })
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

// SAFETY: (1) the pool is mapped, at one address, until the worker is dropped, which a reference outlives;
// (2) its files keep their pages while they are mapped: the server, which is trusted, can punch them out, and
// they are other pages then, never somebody else's; (3) files are mapped at multiples of their pages.
unsafe impl Held for &Worker {
    type Os = Linux;

    fn os(&self) -> &Linux {
        &Linux
    }

    fn base(&self) -> NonNull<u8> {
        self.attached.base()
    }

    fn len(&self) -> Bytes {
        self.bytes()
    }

    fn pages(&self, offset: Bytes) -> Option<HeldPages> {
        let block = BlockId::new((offset.get() / BLOCK_BYTES as u64) as u32);
        let (_, rung) = self.rungs.iter().find(|(range, _)| range.contains(block))?;
        let page = rung.page_size(Linux.base_page_size());
        Some(HeldPages { page, fixed: rung.is_hugetlb() })
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker({:?}, {:?})", self.attached, self.domain)
    }
}
