//! libibverbs, opened when it is first asked for. Nothing of it is needed to build, or to run where there is
//! no RDMA.
#![allow(unsafe_code)] // dlopen(3), dlsym(3)

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use super::abi::{Context, Cq, DeviceAttr, Mr, Pd, PortAttr, Qp, QpAttr, QpInitAttr};
use crate::RegisterError;

/// Declares a table of functions, and fills it from the library.
macro_rules! functions {
    ($($(#[$optional:ident])? fn $name:ident($($type:ty),*) -> $result:ty;)*) => {
        /// What the library has.
        #[allow(missing_debug_implementations)]
        pub struct Library {
            $(pub $name: functions!(@type $($optional)?, unsafe extern "C" fn($($type),*) -> $result),)*
        }

        impl Library {
            /// # Safety
            /// `handle` is of libibverbs.
            unsafe fn fill(handle: *mut c_void) -> Result<Self, String> {
                Ok(Self { $($name: {
                    const NAME: &CStr = match CStr::from_bytes_with_nul(
                        concat!("ibv_", stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("no NUL within"),
                    };
                    // SAFETY: the caller's.
                    let symbol = unsafe { libc::dlsym(handle, NAME.as_ptr()) };
                    functions!(@get $($optional)?, symbol, NAME, unsafe extern "C" fn($($type),*) -> $result)
                },)* })
            }
        }
    };
    (@type , $type:ty) => { $type };
    (@type optional, $type:ty) => { Option<$type> };
    (@get , $symbol:ident, $name:ident, $type:ty) => {
        if $symbol.is_null() {
            return Err(format!("libibverbs.so.1 has no {}", $name.to_string_lossy()));
        } else {
            // SAFETY: the function of that name has that type.
            unsafe { std::mem::transmute::<*mut c_void, $type>($symbol) }
        }
    };
    (@get optional, $symbol:ident, $name:ident, $type:ty) => {
        // SAFETY: as above; null is `None`.
        unsafe { std::mem::transmute::<*mut c_void, Option<$type>>($symbol) }
    };
}

functions! {
    fn get_device_list(*mut c_int) -> *mut *mut c_void;
    fn free_device_list(*mut *mut c_void) -> ();
    fn get_device_name(*mut c_void) -> *const c_char;
    fn open_device(*mut c_void) -> *mut Context;
    fn close_device(*mut Context) -> c_int;
    fn query_device(*mut Context, *mut DeviceAttr) -> c_int;
    fn query_port(*mut Context, u8, *mut PortAttr) -> c_int;
    fn query_gid(*mut Context, u8, c_int, *mut [u64; 2]) -> c_int;
    fn alloc_pd(*mut Context) -> *mut Pd;
    fn dealloc_pd(*mut Pd) -> c_int;
    fn reg_mr(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
    fn dereg_mr(*mut Mr) -> c_int;
    fn create_cq(*mut Context, c_int, *mut c_void, *mut c_void, c_int) -> *mut Cq;
    fn destroy_cq(*mut Cq) -> c_int;
    fn create_qp(*mut Pd, *mut QpInitAttr) -> *mut Qp;
    fn modify_qp(*mut Qp, *mut QpAttr, c_int) -> c_int;
    fn destroy_qp(*mut Qp) -> c_int;
    fn wc_status_str(c_uint) -> *const c_char;
    // rdma-core 31, of 2020.
    #[optional] fn import_device(c_int) -> *mut Context;
    #[optional] fn import_pd(*mut Context, u32) -> *mut Pd;
    #[optional] fn unimport_pd(*mut Pd) -> ();
    #[optional] fn import_mr(*mut Pd, u32) -> *mut Mr;
    #[optional] fn unimport_mr(*mut Mr) -> ();
    // rdma-core 34, of 2021.
    #[optional] fn reg_dmabuf_mr(*mut Pd, u64, usize, u64, c_int, c_int) -> *mut Mr;
    // rdma-core 35, of 2021.
    #[optional] fn is_fork_initialized() -> c_uint;
}

impl Library {
    /// The library, once for the process.
    ///
    /// # Errors
    /// [`RegisterError::Unsupported`] where it is not installed.
    pub fn get() -> Result<&'static Self, RegisterError> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY
            .get_or_init(Self::open)
            .as_ref()
            .map_err(|why| RegisterError::Unsupported { what: "RDMA verbs", why: why.clone() })
    }

    fn open() -> Result<Self, String> {
        // SAFETY: the library's initialisers are its own affair; it is never closed.
        let handle =
            unsafe { libc::dlopen(c"libibverbs.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: after a failure dlerror gives a string.
            let why = unsafe { CStr::from_ptr(libc::dlerror()) }.to_string_lossy();
            return Err(format!(
                "{why} (Debian's packages libibverbs1 and ibverbs-providers have it)"
            ));
        }
        // SAFETY: the handle is of libibverbs.
        unsafe { Self::fill(handle) }
    }
}
