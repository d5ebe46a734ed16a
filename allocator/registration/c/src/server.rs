//! The owner's side.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bookend::os::Linux;
use bookend::pool::{Pool, Rung, SharedPin, Use};
use bookend::units::Bytes;
use bookend_registration::Registrar;
use bookend_registration::share::{Guest, Server, Share};
use bookend_registration::verbs::{Access, Device, Domain};

use crate::error::{Failure, run};

struct Owner {
    server: Server,
    share: Share<Linux>,
    pool: Arc<Pool>,
}

fn open(path: &OsStr, bytes: usize, huge: bool, device: Option<&str>) -> Result<Owner, Failure> {
    let allowed = if huge { Use::Allowed } else { Use::Forbidden };
    let builder = Pool::builder().capacity(Bytes::of_len(bytes)).shareable(true);
    let pool = Arc::new(builder.rung(Rung::Huge, allowed).build()?);
    let share = match device {
        None => Share::new(pool.clone())?,
        Some(name) => {
            let device = Device::open(Some(name).filter(|name| !name.is_empty()))?;
            let domain = Domain::new(&device)?;
            let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
            let pin = SharedPin::new(pool.clone(), pool.blocks())?;
            let region = domain.registrar(access)?.register(pin)?;
            Share::registered(pool.clone(), domain, region)?
        }
    };
    Ok(Owner { server: Server::listen(path)?, share, pool })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_open(
    path: *const c_char,
    bytes: usize,
    huge: c_int,
    device: *const c_char,
    server: *mut *mut Owner,
) -> c_int {
    run(|| {
        // SAFETY: the caller gives strings, and room for a pointer; the device may be null.
        unsafe {
            let path = OsStr::from_bytes(CStr::from_ptr(path).to_bytes());
            let device = device.as_ref().map(|device| CStr::from_ptr(device).to_string_lossy());
            let owner = open(path, bytes, huge != 0, device.as_deref())?;
            *server = Box::into_raw(Box::new(owner));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_base(server: *const Owner) -> *mut c_void {
    // SAFETY: the caller's server is open.
    unsafe { (*server).pool.base().as_ptr().cast() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_bytes(server: *const Owner) -> usize {
    // SAFETY: the caller's server is open.
    unsafe { (*server).pool.capacity().bytes().as_usize() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_descriptor(server: *const Owner) -> c_int {
    // SAFETY: the caller's server is open.
    unsafe { (*server).server.as_fd().as_raw_fd() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_accept(
    server: *const Owner,
    guest: *mut *mut Guest<Linux>,
) -> c_int {
    run(|| {
        // SAFETY: the caller's server is open, and there is room for a pointer.
        unsafe {
            let owner = &*server;
            let come = owner.server.accept(&owner.share, |_| true)?;
            let gone = || Failure(libc::ECONNABORTED, "the worker was gone at once".to_owned());
            *guest = Box::into_raw(Box::new(come.ok_or_else(gone)?));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_close(server: *mut Owner) {
    if !server.is_null() {
        // SAFETY: it came from `bookend_share_open`, and is closed once.
        drop(unsafe { Box::from_raw(server) });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_guest_process(guest: *const Guest<Linux>) -> i32 {
    // SAFETY: the caller's guest is there.
    unsafe { (*guest).peer().process }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_guest_gone(guest: *const Guest<Linux>) -> c_int {
    // SAFETY: the caller's guest is there.
    c_int::from(unsafe { (*guest).is_gone() })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_guest_descriptor(guest: *const Guest<Linux>) -> c_int {
    // SAFETY: the caller's guest is there.
    unsafe { (*guest).as_fd().as_raw_fd() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_guest_close(guest: *mut Guest<Linux>) {
    if !guest.is_null() {
        // SAFETY: it came from `bookend_share_accept`, and is closed once.
        drop(unsafe { Box::from_raw(guest) });
    }
}
