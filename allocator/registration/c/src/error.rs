//! Errors as C has them: a number, and words that stay until the thread's next error.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bookend_registration::RegisterError;
use bookend_registration::share::ShareError;

thread_local! {
    static WORDS: RefCell<CString> = RefCell::default();
}

/// A number of errno.h, and why.
pub struct Failure(pub c_int, pub String);

impl From<ShareError> for Failure {
    fn from(error: ShareError) -> Self {
        let errno = match &error {
            ShareError::Private => libc::EINVAL,
            ShareError::Socket { cause, .. } => cause.raw_os_error().unwrap_or(libc::EIO),
            ShareError::ServerGone => libc::ECONNRESET,
            ShareError::Message(_) => libc::EPROTO,
            ShareError::Map(_) => libc::ENOMEM,
            ShareError::Import(error) => register_errno(error),
            _ => libc::EIO,
        };
        Self(errno, error.to_string())
    }
}

impl From<RegisterError> for Failure {
    fn from(error: RegisterError) -> Self {
        Self(register_errno(&error), error.to_string())
    }
}

impl From<bookend::pool::PoolError> for Failure {
    fn from(error: bookend::pool::PoolError) -> Self {
        Self(libc::ENOMEM, error.to_string())
    }
}

fn register_errno(error: &RegisterError) -> c_int {
    match error {
        RegisterError::Unsupported { .. } => libc::EOPNOTSUPP,
        error => error.errno().unwrap_or(libc::EIO),
    }
}

/// Runs a shim: keeps the words of its error, and panics on this side of C.
pub fn run(shim: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let bug =
        || Failure(libc::EIO, "a bug in Bookend: it panicked; its message is on stderr".to_owned());
    match catch_unwind(AssertUnwindSafe(shim)).unwrap_or_else(|_| Err(bug())) {
        Ok(()) => 0,
        Err(Failure(errno, words)) => {
            WORDS.set(CString::new(words.replace('\0', "")).unwrap_or_default());
            errno
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn bookend_share_error() -> *const c_char {
    WORDS.with_borrow(|words| words.as_ptr())
}
