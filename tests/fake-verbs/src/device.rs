//! Devices and contexts.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

use bookend_registration::verbs::abi::{
    ABI_IS_EXTENDED, CAP_WINDOWS_2, Context, ContextEx, Cq, DeviceAttr, DeviceAttrEx, Pd, PortAttr,
    Qp, QpAttr, QpInitAttr,
};

use crate::local::{CONTEXT, Known, local, null, set_errno};
use crate::memory;
use crate::table::Table;

const NAMES: [&std::ffi::CStr; 2] = [c"fake0", c"fake1"];
/// `IBV_ODP_SUPPORT` and `IBV_ODP_SUPPORT_IMPLICIT`; writes over RC.
const ODP_ALL: u64 = 3;
const ODP_RC_WRITE: u32 = 4;

/// Whether a device has everything.
pub fn is_able(table: &Table) -> bool {
    table.device() == 0
}

/// `struct verbs_context`, as far as it is asked for, and the context that callers see.
#[repr(C)]
pub struct Whole {
    extended: ContextEx,
    context: Context,
}

const _: () = assert!(std::mem::offset_of!(Whole, context) == size_of::<ContextEx>());

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_device_list(count: *mut c_int) -> *mut *mut c_void {
    if let Some(errno) = local().ordered("get_device_list") {
        return null(errno);
    }
    let list: Box<[*mut c_void; 3]> = Box::new([
        NAMES[0].as_ptr().cast_mut().cast(),
        NAMES[1].as_ptr().cast_mut().cast(),
        std::ptr::null_mut(),
    ]);
    // SAFETY: the caller's to write, or null.
    unsafe { count.as_mut().map(|count| *count = 2) };
    Box::into_raw(list).cast()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_free_device_list(list: *mut *mut c_void) {
    // SAFETY: it came from `ibv_get_device_list`.
    drop(unsafe { Box::from_raw(list.cast::<[*mut c_void; 3]>()) });
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_get_device_name(device: *mut c_void) -> *const c_char {
    device.cast() // a device is its name
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_open_device(device: *mut c_void) -> *mut Context {
    if let Some(errno) = local().ordered("open_device") {
        return null(errno);
    }
    let number = u32::from(device.cast_const().cast() == NAMES[1].as_ptr());
    let Some((file, table)) = Table::create(number) else { return std::ptr::null_mut() };
    context(file, table)
}

/// A context with the file, which is the library's own from now on.
#[unsafe(no_mangle)]
pub extern "C" fn ibv_import_device(file: c_int) -> *mut Context {
    if let Some(errno) = local().ordered("import_device") {
        return null(errno);
    }
    match Table::open(file) {
        None => null(libc::EINVAL),
        Some(table) if !is_able(&table) => null(libc::EOPNOTSUPP),
        Some(table) => context(file, table),
    }
}

fn context(file: c_int, table: Table) -> *mut Context {
    // SAFETY: zeros are a valid value of it: null pointers, no functions, an unlocked mutex.
    let mut whole: Whole = unsafe { MaybeUninit::zeroed().assume_init() };
    whole.extended.query_device_ex = Some(query_device_ex);
    whole.extended.size = size_of::<Whole>();
    whole.context.abi_compat = std::ptr::without_provenance_mut(ABI_IS_EXTENDED);
    whole.context.cmd_fd = file;
    whole.context.async_fd = -1;
    whole.context.ops.alloc_mw = Some(memory::alloc_mw);
    whole.context.ops.dealloc_mw = Some(memory::dealloc_mw);
    let whole = Box::into_raw(Box::new(whole));
    // SAFETY: it was just made.
    let context = unsafe { &raw mut (*whole).context };
    let known = Known {
        kind: CONTEXT,
        handle: 0,
        context: context.addr(),
        table: Arc::new(table),
        imported: false,
    };
    local().known.insert(context.addr(), known);
    context
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_close_device(context: *mut Context) -> c_int {
    let mut local = local();
    let Some(known) = local.get("close_device", CONTEXT, context) else { return libc::EINVAL };
    local.known.remove(&context.addr());
    let left = local.known.values().filter(|other| other.context == known.context).count();
    if left > 0 {
        known.table.wrong(&format!("close_device: {left} objects of this process are left"));
    }
    // SAFETY: it was made by `context`, and is known no more; its file is the library's.
    unsafe {
        libc::close((*context).cmd_fd);
        drop(Box::from_raw(context.byte_sub(size_of::<ContextEx>()).cast::<Whole>()));
    }
    0
}

fn attributes(able: bool) -> DeviceAttr {
    // SAFETY: zeros are a valid value of it.
    let mut attr: DeviceAttr = unsafe { MaybeUninit::zeroed().assume_init() };
    attr.max_mr_size = 1 << 40;
    attr.max_mr = 1024;
    attr.max_sge = 16;
    attr.max_qp_wr = 64;
    attr.max_mw = 64;
    attr.phys_port_cnt = 1;
    attr.device_cap_flags = if able { CAP_WINDOWS_2 } else { 0 };
    attr
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_query_device(context: *mut Context, attr: *mut DeviceAttr) -> c_int {
    let mut local = local();
    if let Some(errno) = local.ordered("query_device") {
        return errno;
    }
    let Some(known) = local.get("query_device", CONTEXT, context) else { return libc::EINVAL };
    // SAFETY: the caller's to write.
    unsafe { attr.write(attributes(is_able(&known.table))) };
    0
}

unsafe extern "C" fn query_device_ex(
    context: *mut Context,
    _input: *const c_void,
    attr: *mut DeviceAttrEx,
    room: usize,
) -> c_int {
    let Some(known) = local().get("query_device_ex", CONTEXT, context) else { return libc::EINVAL };
    if room < size_of::<DeviceAttrEx>() {
        return libc::EINVAL;
    }
    let able = is_able(&known.table);
    // SAFETY: the caller's to write, with that room.
    unsafe {
        (*attr).orig = attributes(able);
        if able {
            (*attr).odp.general = ODP_ALL;
            (*attr).odp.rc = ODP_RC_WRITE;
        }
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_is_fork_initialized() -> c_uint {
    2 // IBV_FORK_UNNEEDED
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_wc_status_str(_status: c_uint) -> *const c_char {
    c"the fake moves no data".as_ptr()
}

/// What the fake has not: ports, addresses, queues.
macro_rules! absent {
    ($(fn $name:ident($($type:ty),*) -> $result:ty = $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $type),*) -> $result {
            set_errno(libc::EOPNOTSUPP);
            $value
        }
    )*};
}

absent! {
    fn ibv_query_port(*mut Context, u8, *mut PortAttr) -> c_int = libc::EOPNOTSUPP;
    fn ibv_query_gid(*mut Context, u8, c_int, *mut [u64; 2]) -> c_int = -1;
    fn ibv_create_cq(*mut Context, c_int, *mut c_void, *mut c_void, c_int) -> *mut Cq = std::ptr::null_mut();
    fn ibv_destroy_cq(*mut Cq) -> c_int = libc::EINVAL;
    fn ibv_create_qp(*mut Pd, *mut QpInitAttr) -> *mut Qp = std::ptr::null_mut();
    fn ibv_modify_qp(*mut Qp, *mut QpAttr, c_int) -> c_int = libc::EINVAL;
    fn ibv_destroy_qp(*mut Qp) -> c_int = libc::EINVAL;
}
