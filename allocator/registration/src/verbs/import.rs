//! Another process's device and protection domain.
//!
//! A process that owns a domain passes the descriptor of its uverbs file ([`command_file`]) and the numbers
//! of what is in it ([`Domain::handle`], [`Region::handle`](super::Region::handle)). With these another one
//! gets the same objects. **It can then do whatever the owner can**: use every key, and destroy every object of
//! that file. One file is one domain of trust.
//!
//! The file is what the objects live in. It ends with the last process that has it: so killing an importer
//! destroys nothing but what died with its memory, and when the owner is killed the registrations are there
//! until the last importer goes.
//!
//! # Two ways in
//! `ibv_import_device` and its kin need the driver's help, which (rdma-core 44) mlx5's alone gives. The
//! kernel's software devices keep nothing about a context in user space but its file; for these the device is
//! opened, and the shared file is put in place of the new one. Such an importer can make queue pairs and
//! receive into registered memory. It cannot post sends: rxe rings the doorbell with write(2), and the kernel
//! refuses that on a file that somebody else has opened.
#![allow(unsafe_code)] // calls libibverbs, ioctl(2)

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use bookend::units::Bytes;

use super::abi;
use super::device::{Device, system};
use super::domain::{Domain, Origin};
use super::library::Library;
use crate::RegisterError;

/// The file that a domain's objects live in.
pub fn command_file(domain: &Domain) -> BorrowedFd<'_> {
    // SAFETY: the context is open while the domain lives, and its file with it.
    unsafe { BorrowedFd::borrow_raw((*domain.device().context).cmd_fd) }
}

/// A region of another process's, as its kernel object says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImportedKeys {
    /// For work requests of this process.
    pub lkey: u32,
    /// For peers.
    pub rkey: u32,
    /// How long the region is; `None` where libibverbs does not say.
    pub len: Option<Bytes>,
}

/// The domain with the number `domain` in another process's file, of the device with that name.
///
/// # Errors
/// [`RegisterError::Unsupported`] where the driver can import neither way; [`RegisterError::System`].
pub fn import(file: OwnedFd, device: &str, domain: u32) -> Result<Arc<Domain>, RegisterError> {
    let library = Library::get()?;
    if let (Some(import_device), Some(import_pd)) = (library.import_device, library.import_pd) {
        // SAFETY: the descriptor is open; the context keeps it.
        let context = unsafe { import_device(file.as_raw_fd()) };
        if !context.is_null() {
            std::mem::forget(file); // closed with the device
            // SAFETY: the context is open, and ours.
            let device = unsafe { Device::adopt(library, context, device.to_owned())? };
            // SAFETY: as above.
            let pd = unsafe { import_pd(device.context, domain) };
            if pd.is_null() {
                return Err(system("import a protection domain"));
            }
            // SAFETY: it was just imported from that device.
            return Ok(unsafe { Domain::adopt(&device, pd, Origin::Imported) });
        }
    }
    replace_file(file, device, domain)
}

fn replace_file(file: OwnedFd, device: &str, domain: u32) -> Result<Arc<Domain>, RegisterError> {
    let device = Device::open(Some(device))?;
    if !device.is_software() {
        return Err(RegisterError::Unsupported {
            what: "importing another process's RDMA objects",
            why: format!("the driver of {} has no import_device", device.name()),
        });
    }
    // SAFETY: both descriptors are open; the device's is its own, and nobody has used it yet.
    let replaced = unsafe { libc::dup2(file.as_raw_fd(), (*device.context).cmd_fd) };
    if replaced < 0 {
        return Err(system("put the shared file in place of the device's"));
    }
    replace_events(&device)?;
    let pd = Box::into_raw(Box::new(abi::Pd { context: device.context, handle: domain }));
    // SAFETY: the file that the context uses has the domain of that number; drivers of software devices
    // keep nothing else about it.
    Ok(unsafe { Domain::adopt(&device, pd, Origin::Replaced) })
}

/// The keys of the region with the number `region` in an imported domain.
///
/// # Errors
/// [`RegisterError::System`]: `ENOENT` where the owner has dropped it.
pub fn keys(domain: &Domain, region: u32) -> Result<ImportedKeys, RegisterError> {
    let library = domain.device().library;
    match (domain.origin(), library.import_mr, library.unimport_mr) {
        (Origin::Imported, Some(import), Some(unimport)) => {
            // SAFETY: the domain is there.
            let mr = unsafe { import(domain.pd, region) };
            if mr.is_null() {
                return Err(system("import a memory region"));
            }
            // SAFETY: it was just imported; its keys are numbers that outlive our copy.
            let keys = unsafe { ImportedKeys { lkey: (*mr).lkey, rkey: (*mr).rkey, len: None } };
            // SAFETY: as above.
            unsafe { unimport(mr) };
            Ok(keys)
        }
        _ => query(domain, region),
    }
}

/// `struct ib_uverbs_ioctl_hdr` of rdma/rdma_user_ioctl_cmds.h, with as many attributes.
#[repr(C)]
struct Call<const N: usize> {
    length: u16,
    object: u16,
    method: u16,
    attrs_len: u16,
    reserved1: u64,
    driver: u32,
    reserved2: u32,
    attrs: [Attr; N],
}

/// `struct ib_uverbs_attr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attr {
    id: u16,
    len: u16,
    flags: u16,
    reserved: u16,
    data: u64,
}

const _: () = assert!(size_of::<Call<4>>() == 24 + 4 * 16);

/// `UVERBS_OBJECT_MR` and `UVERBS_METHOD_QUERY_MR`, `UVERBS_OBJECT_ASYNC_EVENT` and
/// `UVERBS_METHOD_ASYNC_EVENT_ALLOC`, `RDMA_VERBS_IOCTL` of the same headers.
const QUERY_MR: (u16, u16) = (7, 3);
const ASYNC_EVENT_ALLOC: (u16, u16) = (16, 0);
const VERBS_IOCTL: libc::c_ulong = 0xc018_1b01;
/// `UVERBS_ATTR_F_MANDATORY`.
const MANDATORY: u16 = 1;
/// `RDMA_DRIVER_RXE` and `RDMA_DRIVER_SIW` of rdma/ib_user_ioctl_verbs.h.
const DRIVER_RXE: u32 = 14;
const DRIVER_SIW: u32 = 18;

/// Calls a method of the kernel's; attributes are number, length and value or address.
///
/// # Safety
/// The attributes are what the method takes: where one is an address, there are as many bytes as it says.
unsafe fn call<const N: usize>(
    device: &Device,
    (object, method): (u16, u16),
    attrs: [(u16, u16, u64); N],
) -> io::Result<[u64; N]> {
    let attrs = attrs.map(|(id, len, data)| Attr { id, len, flags: MANDATORY, reserved: 0, data });
    let mut call = Call {
        length: size_of::<Call<N>>() as u16,
        object,
        method,
        attrs_len: N as u16,
        reserved1: 0,
        driver: if device.name().starts_with("siw") { DRIVER_SIW } else { DRIVER_RXE },
        reserved2: 0,
        attrs,
    };
    // SAFETY: the context is open; the call is as long as it says; the rest is the caller's.
    let result = unsafe { libc::ioctl((*device.context).cmd_fd, VERBS_IOCTL, &raw mut call) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(call.attrs.map(|attr| attr.data)) }
}

/// Asks the kernel for a region's keys (Linux 5.8).
fn query(domain: &Domain, region: u32) -> Result<ImportedKeys, RegisterError> {
    let (mut lkey, mut rkey, mut length) = (0u32, 0u32, 0u64);
    let attrs = [
        (0, 0, u64::from(region)),
        (1, 4, (&raw mut lkey) as u64),
        (2, 4, (&raw mut rkey) as u64),
        (3, 8, (&raw mut length) as u64),
    ];
    // SAFETY: the words are ours, and as long as is said.
    unsafe { call(domain.device(), QUERY_MR, attrs) }.map_err(|cause| RegisterError::System {
        operation: "ask for the keys of a shared region",
        cause,
    })?;
    Ok(ImportedKeys { lkey, rkey, len: Some(Bytes::new(length)) })
}

/// Makes a file for the events of what is made in the shared file (Linux 5.7), in place of the one that the
/// device was opened with: the kernel wants both to belong together.
fn replace_events(device: &Device) -> Result<(), RegisterError> {
    let failed = |cause| RegisterError::System {
        operation: "make a file for the shared device's events",
        cause,
    };
    // SAFETY: the method takes room for one descriptor, in the attribute itself.
    let [events] = unsafe { call(device, ASYNC_EVENT_ALLOC, [(0, 0, 0)]) }.map_err(failed)?;
    // SAFETY: the descriptor is new, and ours; the device's own is replaced, and nobody has used it yet.
    unsafe {
        let events = OwnedFd::from_raw_fd(events as i32);
        if libc::dup2(events.as_raw_fd(), (*device.context).async_fd) < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
    }
    Ok(())
}
