//! The verbs layer on a libibverbs that imports, pages on demand, takes DMA buffers, and fails on order.
#![allow(unsafe_code)] // loads the fake

mod failing;
mod itself;
mod registering;
mod sharing;

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bookend::pool::{Pool, Rung, Use};
use bookend::units::Blocks;
use bookend_registration::verbs::{Access, Device, Domain, devices, import};

const ALL: Access = Access::LOCAL_WRITE;

/// The fake, loaded before anybody asks for libibverbs; cargo builds it beside this test.
fn library() -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    let address = LIBRARY.get_or_init(|| {
        let path = std::env::current_exe().unwrap().with_file_name("libbookend_fake_verbs.so");
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: its initialisers are ours; it is never closed.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{}", path.display());
        assert_eq!(devices().unwrap(), ["fake0", "fake1"], "another library was found");
        handle.expose_provenance()
    });
    std::ptr::with_exposed_provenance_mut(*address)
}

/// A function of the fake's.
///
/// # Safety
/// It has that type.
unsafe fn function<F: Copy>(name: &str) -> F {
    let name = CString::new(name).unwrap();
    // SAFETY: the handle is the fake's; the type is as the caller says, and as long as a pointer.
    unsafe {
        let symbol = libc::dlsym(library(), name.as_ptr());
        assert!(!symbol.is_null(), "{name:?}");
        std::mem::transmute_copy(&symbol)
    }
}

/// The `skip + 1`st call of an operation fails.
fn fail(operation: &str, skip: u32, errno: c_int) {
    let operation = CString::new(operation).unwrap();
    // SAFETY: the fake declares it so.
    unsafe {
        function::<unsafe extern "C" fn(*const c_char, u32, c_int)>("fake_verbs_fail")(
            operation.as_ptr(),
            skip,
            errno,
        );
    }
}

/// One test at a time: failures are ordered for the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    library();
    alone
}

/// A domain's file, kept to look into after all who had it are gone.
struct Book(OwnedFd);

impl Book {
    fn of(domain: &Domain) -> Self {
        Self(import::command_file(domain).try_clone_to_owned().unwrap())
    }

    /// What is in it, a line an object, and what was done wrong.
    fn lines(&self) -> Vec<String> {
        let mut text = vec![0u8; 1 << 16];
        // SAFETY: the fake declares it so; there is that room.
        let len = unsafe {
            function::<unsafe extern "C" fn(c_int, *mut c_char, usize) -> isize>(
                "fake_verbs_report",
            )(self.0.as_fd().as_raw_fd(), text.as_mut_ptr().cast(), text.len())
        };
        assert!(len >= 0, "it is no file of the fake's");
        let text = std::str::from_utf8(&text[..len as usize]).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Nothing is left, and nothing was wrong.
    fn assert_empty(&self) {
        assert_eq!(self.lines(), [""; 0]);
    }
}

fn domain(device: &str) -> (Arc<Domain>, Book) {
    let domain = Domain::new(&Device::open(Some(device)).unwrap()).unwrap();
    let book = Book::of(&domain);
    (domain, book)
}

fn full() -> Access {
    ALL | Access::REMOTE_WRITE | Access::REMOTE_READ | Access::WINDOWS
}

/// A pool of base pages that can be shared.
fn pool(blocks: u32) -> Arc<Pool> {
    let mut builder = Pool::builder().capacity(Blocks::new(blocks).bytes()).shareable(true);
    for rung in Rung::ALL {
        builder =
            builder.rung(rung, if rung == Rung::Base { Use::Required } else { Use::Forbidden });
    }
    Arc::new(builder.build().unwrap())
}
