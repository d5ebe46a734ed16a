//! Memory windows: keys that one work request gives and another takes back, without registering again.
#![allow(unsafe_code)] // calls libibverbs

use std::fmt;
use std::sync::Arc;

use super::abi;
use super::device::errno_of;
use super::domain::Domain;
use crate::RegisterError;

/// A memory window of type 2, [bound](super::QueuePair::bind) to a part of a region at a time. To be dropped
/// before the region.
pub struct Window {
    mw: *mut abi::Mw,
    domain: Arc<Domain>,
}

// SAFETY: libibverbs may be called from any thread, on the same objects too.
unsafe impl Send for Window {}

impl Window {
    /// An unbound window.
    ///
    /// # Errors
    /// [`RegisterError::Unsupported`] where the device has none of type 2. Then a key is taken back by
    /// dropping its region.
    pub fn new(domain: &Arc<Domain>) -> Result<Self, RegisterError> {
        let device = domain.device();
        let unsupported = |why: String| RegisterError::Unsupported { what: "a memory window", why };
        if !device.limits().windows {
            return Err(unsupported(format!("{} reports none of type 2", device.name())));
        }
        // SAFETY: the domain is there.
        let mw = unsafe {
            let alloc = (*device.context).ops.alloc_mw;
            alloc.map_or(std::ptr::null_mut(), |alloc| alloc(domain.pd, abi::MW_TYPE_2))
        };
        if mw.is_null() {
            let cause = std::io::Error::last_os_error();
            return Err(unsupported(format!("{}: {cause}", device.name())));
        }
        Ok(Self { mw, domain: domain.clone() })
    }

    /// The key that it was bound with last.
    pub fn rkey(&self) -> u32 {
        // SAFETY: it is there.
        unsafe { (*self.mw).rkey }
    }

    pub(super) fn as_ptr(&mut self) -> *mut abi::Mw {
        self.mw
    }

    /// The next key: its lowest byte counts the bindings (`ibv_inc_rkey`).
    pub(super) fn next_key(&self) -> u32 {
        let key = self.rkey();
        key & !0xff | key.wrapping_add(1) & 0xff
    }

    /// It is bound with that key.
    pub(super) fn bound(&mut self) {
        let key = self.next_key();
        // SAFETY: it is there, and ours.
        unsafe { (*self.mw).rkey = key };
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it is dropped once.
        let errno = unsafe {
            let dealloc = (*self.domain.device().context).ops.dealloc_mw;
            dealloc.map_or(libc::ENOSYS, |dealloc| dealloc(self.mw))
        };
        debug_assert_eq!(errno, 0, "{}", errno_of("free a memory window", errno));
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window(rkey {:#x})", self.rkey())
    }
}
