//! What this process has been given: pointers that are good, and errors that it has ordered.

use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::table::Table;

/// What a pointer points to.
#[derive(Clone, Debug)]
pub struct Known {
    /// Of [`crate::table`]; a context is [`CONTEXT`].
    pub kind: u32,
    pub handle: u32,
    /// Address of the context that it belongs to.
    pub context: usize,
    pub table: Arc<Table>,
    /// Whether it was imported.
    pub imported: bool,
}

pub const CONTEXT: u32 = u32::MAX;

/// A failure to come.
#[derive(Clone, Debug)]
struct Failure {
    operation: String,
    skip: u32,
    errno: c_int,
}

#[derive(Default, Debug)]
pub struct Local {
    pub known: HashMap<usize, Known>,
    failures: Vec<Failure>,
    /// What was done with pointers of which nobody knows whose they are.
    pub wrongs: Vec<String>,
}

/// Everything of this process.
pub fn local() -> MutexGuard<'static, Local> {
    static LOCAL: LazyLock<Mutex<Local>> = LazyLock::new(Mutex::default);
    LOCAL.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn set_errno(errno: c_int) {
    // SAFETY: errno is this thread's.
    unsafe { *libc::__errno_location() = errno };
}

pub fn null<T>(errno: c_int) -> *mut T {
    set_errno(errno);
    std::ptr::null_mut()
}

impl Local {
    /// The `skip + 1`st call of `operation` from now on fails with `errno`.
    pub fn fail(&mut self, operation: String, skip: u32, errno: c_int) {
        self.failures.push(Failure { operation, skip, errno });
    }

    /// The error that was ordered for this call.
    pub fn ordered(&mut self, operation: &str) -> Option<c_int> {
        let at = self.failures.iter().position(|failure| failure.operation == operation)?;
        let failure = &mut self.failures[at];
        if failure.skip > 0 {
            failure.skip -= 1;
            return None;
        }
        Some(self.failures.remove(at).errno)
    }

    /// What `pointer` is, where it is of that kind and has not been given up; else that is written down.
    pub fn get<T>(&mut self, operation: &str, kind: u32, pointer: *const T) -> Option<Known> {
        let known = self.known.get(&pointer.addr()).filter(|known| known.kind == kind).cloned();
        if known.is_none() {
            self.wrongs.push(format!("{operation}: its argument is none, or was given up before"));
        }
        known
    }
}

/// Keeps `value` for the process, as libibverbs would; its address.
pub fn keep<T>(local: &mut Local, known: Known, value: T) -> *mut T {
    let pointer = Box::into_raw(Box::new(value));
    local.known.insert(pointer.addr(), known);
    pointer
}

/// # Safety
/// `pointer` came from [`keep`] with the same type, and is known.
pub unsafe fn give_up<T>(local: &mut Local, pointer: *mut T) {
    local.known.remove(&pointer.addr());
    // SAFETY: the caller's.
    drop(unsafe { Box::from_raw(pointer) });
}
