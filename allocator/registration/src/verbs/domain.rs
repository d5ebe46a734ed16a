//! Protection domains, and memory regions in them.
//!
//! A protection domain is one domain of trust: whoever may use it (queue pairs in it, processes that
//! imported it) can reach everything that is registered in it, and destroy it.
#![allow(unsafe_code)] // calls libibverbs, registers memory

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bookend::units::{Bytes, PageSize};

use super::abi::{self, Sge};
use super::access::Access;
use super::device::{Device, errno_of, system};
use crate::pieces::Piece;
use crate::{RegisterError, Registrar, RegistrarLimits, memlock};

/// An entry's length is 32 bits; devices take messages of 2 GiB at most.
const SGE_BYTES_MAX: u64 = 1 << 31;
const OPERATION: &str = "register memory with the RDMA device";

/// A protection domain of a device.
pub struct Domain {
    pub(super) pd: *mut abi::Pd,
    device: Arc<Device>,
    origin: Origin,
}

/// How a domain came to this process, which says how it is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// It made it.
    Own,
    /// libibverbs imported it.
    Imported,
    /// It is a number in a file that took the place of the device's own.
    Replaced,
}

// SAFETY: libibverbs may be called from any thread, on the same objects too.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A new protection domain.
    ///
    /// # Errors
    /// [`RegisterError::System`].
    pub fn new(device: &Arc<Device>) -> Result<Arc<Self>, RegisterError> {
        // SAFETY: the context is open for as long as the device lives.
        let pd = unsafe { (device.library.alloc_pd)(device.context) };
        if pd.is_null() {
            return Err(system("make a protection domain"));
        }
        Ok(Arc::new(Self { pd, device: device.clone(), origin: Origin::Own }))
    }

    /// # Safety
    /// `pd` is of that device, and came as `origin` says; what was replaced is a box.
    pub(super) unsafe fn adopt(
        device: &Arc<Device>,
        pd: *mut abi::Pd,
        origin: Origin,
    ) -> Arc<Self> {
        Arc::new(Self { pd, device: device.clone(), origin })
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The kernel's number of it, which another process needs to import it.
    pub fn handle(&self) -> u32 {
        // SAFETY: the domain is there.
        unsafe { (*self.pd).handle }
    }

    /// A registrar of memory in this domain with these rights.
    ///
    /// # Errors
    /// [`RegisterError::Unsupported`] for [`Access::ON_DEMAND`] where the device does not report it.
    pub fn registrar(self: &Arc<Self>, access: Access) -> Result<Verbs, RegisterError> {
        if access.contains(Access::ON_DEMAND) && !self.device.limits().on_demand.explicit {
            return Err(self.no_on_demand("on-demand paging", " (rxe does from Linux 6.15 on)"));
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Verbs { domain: self.clone(), access, threads, longest: None })
    }

    /// Registers all of this process's address space, without pinning: the device faults pages in as it
    /// touches them. With remote rights a peer reaches *everything* this process can.
    ///
    /// # Errors
    /// [`RegisterError::Unsupported`] where the device does not report it.
    pub fn register_implicit(self: &Arc<Self>, access: Access) -> Result<Region, RegisterError> {
        if !self.device.limits().on_demand.implicit {
            return Err(self.no_on_demand("on-demand paging of all memory", ""));
        }
        let access = (access | Access::ON_DEMAND).bits() as i32;
        // SAFETY: nothing is pinned; what is not mapped faults when the device touches it.
        let mr = unsafe {
            (self.device.library.reg_mr)(self.pd, std::ptr::null_mut(), usize::MAX, access)
        };
        if mr.is_null() {
            return Err(system("register all memory for on-demand paging"));
        }
        Ok(Region { mr, domain: self.clone() })
    }

    /// Registers a part of a DMA buffer (a GPU's memory, say) by its descriptor. `iova` is the address
    /// that work requests name its first byte by.
    ///
    /// # Errors
    /// [`RegisterError::Unsupported`] where the library or the device cannot.
    pub fn register_dmabuf(
        self: &Arc<Self>,
        dmabuf: BorrowedFd<'_>,
        offset: Bytes,
        len: Bytes,
        iova: u64,
        access: Access,
    ) -> Result<Region, RegisterError> {
        let what = "registering DMA buffers";
        let unsupported = |why: &str| RegisterError::Unsupported { what, why: why.to_owned() };
        let Some(register) = self.device.library.reg_dmabuf_mr else {
            return Err(unsupported("libibverbs is older than rdma-core 34"));
        };
        let (fd, access) = (dmabuf.as_raw_fd(), access.bits() as i32);
        // SAFETY: the descriptor is open; the device holds the buffer itself.
        let mr = unsafe { register(self.pd, offset.get(), len.as_usize(), iova, fd, access) };
        if !mr.is_null() {
            return Ok(Region { mr, domain: self.clone() });
        }
        Err(match io::Error::last_os_error().raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => unsupported("the device or its driver cannot"),
            _ => system("register a DMA buffer"),
        })
    }

    fn no_on_demand(&self, what: &'static str, who_does: &str) -> RegisterError {
        let why = format!("{} does not report it{who_does}", self.device.name());
        RegisterError::Unsupported { what, why }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        let library = self.device.library;
        // SAFETY: whatever was made in it held it by an `Arc`, and is gone; it is given up as it came.
        unsafe {
            match (self.origin, library.unimport_pd) {
                (Origin::Own, _) => drop((library.dealloc_pd)(self.pd)),
                (Origin::Imported, Some(unimport)) => unimport(self.pd),
                (Origin::Imported, None) => {}
                (Origin::Replaced, _) => drop(Box::from_raw(self.pd)),
            }
        }
    }
}

/// A registrar of memory in a [`Domain`].
#[derive(Clone)]
pub struct Verbs {
    domain: Arc<Domain>,
    access: Access,
    threads: usize,
    longest: Option<Bytes>,
}

impl Verbs {
    /// Registers in pieces of that many bytes at most, several at a time: where pinning one after the other
    /// takes long. Each has keys of its own.
    #[must_use]
    pub fn pieces_of(mut self, longest: Bytes) -> Self {
        self.longest = Some(longest);
        self
    }

    /// How many threads register at once; at least 1.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// The domain.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// # Safety
    /// As [`Registrar::register_pieces`].
    unsafe fn register_one(&self, piece: &Piece) -> Result<Region, RegisterError> {
        let (start, len) = (piece.start.as_ptr().cast(), piece.len.as_usize());
        let (library, access) = (self.domain.device.library, self.access.bits() as i32);
        // SAFETY: the caller's; the device pins the pages itself.
        let mr = unsafe { (library.reg_mr)(self.domain.pd, start, len, access) };
        if mr.is_null() {
            return Err(explain(io::Error::last_os_error(), piece));
        }
        Ok(Region { mr, domain: self.domain.clone() })
    }
}

fn explain(cause: io::Error, piece: &Piece) -> RegisterError {
    let needed = piece.len + memlock::pinned();
    let whole = [piece.address() as u64, piece.len.get()]
        .into_iter()
        .all(|n| Bytes::new(n).is_multiple_of(piece.page));
    match (cause.raw_os_error(), memlock::limit()) {
        (Some(libc::ENOMEM), Some(limit)) if limit < needed => {
            RegisterError::LockedMemory { needed, limit }
        }
        (Some(libc::EINVAL), _) if !whole => RegisterError::Unaligned {
            operation: OPERATION,
            start: piece.address(),
            len: piece.len,
            page: piece.page,
            cause,
        },
        (Some(libc::EOPNOTSUPP), _) => RegisterError::Unsupported {
            what: "pinning this memory for long",
            why: "the file system may have to move or write back its pages (a file mapped with DAX, \
                  or shared from a disk): use a device-DAX, tmpfs or hugetlbfs file, or on-demand paging"
                .to_owned(),
        },
        _ => RegisterError::System { operation: OPERATION, cause },
    }
}

impl Registrar for Verbs {
    type Registration = Regions;

    fn name(&self) -> &'static str {
        "verbs"
    }

    fn limits(&self) -> RegistrarLimits {
        let limits = self.domain.device.limits();
        let device = Some(limits.max_mr_size).filter(|&most| most > Bytes::ZERO);
        let longest = [device, self.longest].into_iter().flatten().min();
        RegistrarLimits { longest, count: Some(limits.max_mr as usize) }
    }

    unsafe fn register_pieces(&self, pieces: &[Piece]) -> Result<Regions, RegisterError> {
        let threads = self.threads.min(pieces.len());
        if threads <= 1 {
            // SAFETY: the caller's.
            let register =
                |piece: &Piece| unsafe { self.register_one(piece) }.map(|mr| (*piece, mr));
            return pieces.iter().map(register).collect::<Result<_, _>>().map(Regions);
        }
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(pieces.len())));
        let work = || {
            while let Some((at, piece)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                pieces.get(at).map(|piece| (at, piece))
            } {
                // SAFETY: the caller's.
                let result = unsafe { self.register_one(piece) };
                if result.is_err() {
                    next.store(pieces.len(), Ordering::Relaxed); // the others need not go on
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
            }
        };
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_by_key(|(at, _)| *at);
        let regions = done.into_iter().map(|(at, result)| result.map(|mr| (pieces[at], mr)));
        regions.collect::<Result<_, _>>().map(Regions)
    }
}

/// One memory region.
pub struct Region {
    pub(super) mr: *mut abi::Mr,
    domain: Arc<Domain>,
}

// SAFETY: libibverbs may be called from any thread, on the same objects too.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn mr(&self) -> &abi::Mr {
        // SAFETY: it was made by libibverbs, and lives as long as this.
        unsafe { &*self.mr }
    }

    /// The key by which work requests of this process name it.
    pub fn lkey(&self) -> u32 {
        self.mr().lkey
    }

    /// The key by which a peer names it. Whoever has it can do what the region's rights say, from now on
    /// until the region is dropped; a [window](super::Window) can be taken back sooner.
    pub fn rkey(&self) -> u32 {
        self.mr().rkey
    }

    /// The kernel's number of it, which another process needs to import it.
    pub fn handle(&self) -> u32 {
        self.mr().handle
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it is dropped once; requests that name it fail from now on.
        let errno = unsafe { (self.domain.device.library.dereg_mr)(self.mr) };
        debug_assert_eq!(errno, 0, "{}", errno_of("deregister memory", errno));
    }
}

/// Memory that a device knows, in one region or several.
pub struct Regions(Vec<(Piece, Region)>);

impl Regions {
    /// The regions and what they are of, lowest address first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Piece, &Region)> {
        self.0.iter().map(|(piece, region)| (piece, region))
    }

    /// The one that holds `len` bytes from `start` on.
    pub fn region_of(&self, start: *const u8, len: usize) -> Option<&Region> {
        self.0.iter().find(|(piece, _)| piece.holds(start, len)).map(|(_, region)| region)
    }

    /// The entries of work requests for `len` bytes from `start` on: one where they lie in one region.
    /// `None` where some of them lie in none.
    pub fn entries(&self, start: *const u8, len: usize) -> Option<Vec<Sge>> {
        let (mut at, end) = (start.addr(), start.addr().checked_add(len)?);
        let mut entries = Vec::new();
        while at < end {
            let (piece, region) =
                self.0.iter().find(|(piece, _)| piece.holds(start.with_addr(at), 1))?;
            let room = piece.address() + piece.len.as_usize() - at;
            let length = (room.min(end - at) as u64).min(SGE_BYTES_MAX);
            entries.push(Sge { addr: at as u64, length: length as u32, lkey: region.lkey() });
            at += length as usize;
        }
        Some(entries)
    }

    /// Bytes registered.
    pub fn bytes(&self) -> Bytes {
        self.0.iter().fold(Bytes::ZERO, |sum, (piece, _)| sum + piece.len)
    }

    /// Size of the pages at the beginning.
    pub fn page(&self) -> Option<PageSize> {
        self.0.first().map(|(piece, _)| piece.page)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Domain({} of {:?})", self.handle(), self.device)
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verbs({:?}, {:?})", self.domain, self.access)
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region(lkey {:#x}, rkey {:#x})", self.lkey(), self.rkey())
    }
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Regions({} in {})", self.bytes(), self.0.len())
    }
}
