//! Protection domains, memory regions and windows; importing them.

use std::ffi::{c_int, c_uint, c_void};

use bookend_registration::verbs::Access;
use bookend_registration::verbs::abi::{Context, MW_TYPE_2, Mr, Mw, Pd};

use crate::device::is_able;
use crate::local::{CONTEXT, Known, Local, give_up, keep, local, null};
use crate::table::{FREE, IMPORT, MR, MW, PD, Row};

const NO_ROW: Row = Row {
    kind: FREE,
    handle: 0,
    parent: 0,
    access: 0,
    address: 0,
    len: 0,
    key: 0,
    dmabuf: -1,
    offset: 0,
};

/// A domain as a caller names it: known to this process, and still there.
fn domain(local: &mut Local, operation: &str, pd: *mut Pd) -> Option<Known> {
    let known = local.get(operation, PD, pd)?;
    if known.table.find(PD, known.handle).is_none() {
        known.table.wrong(&format!("{operation}: domain {} was destroyed", known.handle));
        return None;
    }
    Some(known)
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_alloc_pd(context: *mut Context) -> *mut Pd {
    let mut local = local();
    if let Some(errno) = local.ordered("alloc_pd") {
        return null(errno);
    }
    let Some(known) = local.get("alloc_pd", CONTEXT, context) else { return null(libc::EINVAL) };
    let Some(row) = known.table.add(Row { kind: PD, ..NO_ROW }) else { return null(libc::ENOMEM) };
    keep(
        &mut local,
        Known { kind: PD, handle: row.handle, ..known },
        Pd { context, handle: row.handle },
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_dealloc_pd(pd: *mut Pd) -> c_int {
    let mut local = local();
    let Some(known) = domain(&mut local, "dealloc_pd", pd) else { return libc::EINVAL };
    let (table, handle) = (&known.table, known.handle);
    if table.rows().iter().any(|row| matches!(row.kind, MR | MW) && row.parent == handle) {
        table.wrong(&format!("dealloc_pd: domain {handle} has memory still"));
        return libc::EBUSY;
    }
    if table.is_imported(handle, std::process::id()) {
        table.wrong(&format!("dealloc_pd: domain {handle} is imported still"));
    }
    table.remove(|row| (row.kind, row.handle) == (PD, handle));
    // SAFETY: it is known, as a domain.
    unsafe { give_up(&mut local, pd) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_import_pd(context: *mut Context, handle: u32) -> *mut Pd {
    let mut local = local();
    if let Some(errno) = local.ordered("import_pd") {
        return null(errno);
    }
    let Some(known) = local.get("import_pd", CONTEXT, context) else { return null(libc::EINVAL) };
    if known.table.find(PD, handle).is_none() {
        return null(libc::ENOENT);
    }
    if !add_import(&known, handle) {
        return null(libc::ENOMEM);
    }
    keep(&mut local, Known { kind: PD, handle, imported: true, ..known }, Pd { context, handle })
}

fn add_import(known: &Known, handle: u32) -> bool {
    known.table.add(Row { kind: IMPORT, handle, parent: std::process::id(), ..NO_ROW }).is_some()
}

fn remove_import(operation: &str, known: &Known) {
    let mine = |row: &Row| {
        (row.kind, row.handle, row.parent) == (IMPORT, known.handle, std::process::id())
    };
    if !known.imported || !known.table.remove(mine) {
        known.table.wrong(&format!("{operation}: {} was not imported", known.handle));
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_unimport_pd(pd: *mut Pd) {
    let mut local = local();
    // It may have been destroyed by another process: the manual lets that be.
    let Some(known) = local.get("unimport_pd", PD, pd) else { return };
    remove_import("unimport_pd", &known);
    // SAFETY: it is known, as a domain.
    unsafe { give_up(&mut local, pd) };
}

/// Whether all of the memory is mapped: a device pins it.
fn is_mapped(start: usize, len: usize) -> bool {
    let first = start & !4095;
    let Some(end) = start.checked_add(len) else { return false };
    let mut pages = vec![0u8; (end - first).div_ceil(4096)];
    // SAFETY: it only asks, and there is a byte for each page.
    unsafe {
        libc::mincore(std::ptr::without_provenance_mut(first), end - first, pages.as_mut_ptr()) == 0
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_reg_mr(
    pd: *mut Pd,
    start: *mut c_void,
    len: usize,
    access: c_int,
) -> *mut Mr {
    let mut local = local();
    if let Some(errno) = local.ordered("reg_mr") {
        return null(errno);
    }
    let Some(known) = domain(&mut local, "reg_mr", pd) else { return null(libc::EINVAL) };
    let on_demand = access & Access::ON_DEMAND.bits() as c_int != 0;
    let implicit = start.is_null() && len == usize::MAX;
    if on_demand && !is_able(&known.table) {
        return null(libc::EOPNOTSUPP);
    }
    if implicit && !on_demand || len == 0 || !is_allowed(access) {
        return null(libc::EINVAL);
    }
    if !on_demand && !is_mapped(start.addr(), len) {
        return null(libc::EFAULT);
    }
    let row =
        Row { address: start.addr() as u64, len: len as u64, access: access as u32, ..NO_ROW };
    add_region(&mut local, &known, pd, row)
}

/// ibv_reg_mr(3): remote writing needs local writing.
fn is_allowed(access: c_int) -> bool {
    let has = |right: Access| access & right.bits() as c_int != 0;
    !has(Access::REMOTE_WRITE) || has(Access::LOCAL_WRITE)
}

fn add_region(local: &mut Local, known: &Known, pd: *mut Pd, row: Row) -> *mut Mr {
    let Some(row) = known.table.add(Row { kind: MR, parent: known.handle, ..row }) else {
        return null(libc::ENOMEM);
    };
    keep_region(local, known, pd, &row, row.address as usize, false)
}

fn keep_region(
    local: &mut Local,
    known: &Known,
    pd: *mut Pd,
    row: &Row,
    address: usize,
    imported: bool,
) -> *mut Mr {
    let mr = Mr {
        // SAFETY: the domain is known.
        context: unsafe { (*pd).context },
        pd,
        addr: std::ptr::without_provenance_mut(address),
        length: row.len as usize,
        handle: row.handle,
        lkey: row.key,
        rkey: row.key + 1,
    };
    keep(local, Known { kind: MR, handle: row.handle, imported, ..known.clone() }, mr)
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_reg_dmabuf_mr(
    pd: *mut Pd,
    offset: u64,
    len: usize,
    iova: u64,
    file: c_int,
    access: c_int,
) -> *mut Mr {
    let mut local = local();
    if let Some(errno) = local.ordered("reg_dmabuf_mr") {
        return null(errno);
    }
    let Some(known) = domain(&mut local, "reg_dmabuf_mr", pd) else { return null(libc::EINVAL) };
    if !is_able(&known.table) {
        return null(libc::EOPNOTSUPP);
    }
    // SAFETY: zeros are a valid value of it, and it is ours to write.
    let size = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(file, &mut stat) != 0 {
            return null(libc::EBADF);
        }
        stat.st_size as u64
    };
    // Kernel: the offset within a page is that of the address; the range is within the buffer.
    let whole = offset.checked_add(len as u64).is_some_and(|end| end <= size);
    if !whole || len == 0 || offset % 4096 != iova % 4096 || !is_allowed(access) {
        return null(libc::EINVAL);
    }
    let row = Row {
        address: iova,
        len: len as u64,
        access: access as u32,
        dmabuf: file,
        offset,
        ..NO_ROW
    };
    add_region(&mut local, &known, pd, row)
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_dereg_mr(mr: *mut Mr) -> c_int {
    let mut local = local();
    let Some(known) = local.get("dereg_mr", MR, mr) else { return libc::EINVAL };
    if let Some(errno) = local.ordered("dereg_mr") {
        return errno;
    }
    if !known.table.remove(|row| (row.kind, row.handle) == (MR, known.handle)) {
        return known.table.wrong(&format!("dereg_mr: region {} was destroyed", known.handle));
    }
    // SAFETY: it is known, as a region.
    unsafe { give_up(&mut local, mr) };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_import_mr(pd: *mut Pd, handle: u32) -> *mut Mr {
    let mut local = local();
    if let Some(errno) = local.ordered("import_mr") {
        return null(errno);
    }
    let Some(known) = domain(&mut local, "import_mr", pd) else { return null(libc::EINVAL) };
    let Some(row) = known.table.find(MR, handle) else { return null(libc::ENOENT) };
    if row.parent != known.handle {
        known.table.wrong(&format!("import_mr: region {handle} is of domain {}", row.parent));
        return null(libc::EINVAL);
    }
    if !add_import(&known, handle) {
        return null(libc::ENOMEM);
    }
    // The manual: the address is not that of this process.
    keep_region(&mut local, &known, pd, &row, 0, true)
}

#[unsafe(no_mangle)]
pub extern "C" fn ibv_unimport_mr(mr: *mut Mr) {
    let mut local = local();
    let Some(known) = local.get("unimport_mr", MR, mr) else { return };
    remove_import("unimport_mr", &known);
    // SAFETY: it is known, as a region.
    unsafe { give_up(&mut local, mr) };
}

pub unsafe extern "C" fn alloc_mw(pd: *mut Pd, kind: c_uint) -> *mut Mw {
    let mut local = local();
    if let Some(errno) = local.ordered("alloc_mw") {
        return null(errno);
    }
    let Some(known) = domain(&mut local, "alloc_mw", pd) else { return null(libc::EINVAL) };
    if kind != MW_TYPE_2 || !is_able(&known.table) {
        return null(libc::EOPNOTSUPP);
    }
    let Some(row) = known.table.add(Row { kind: MW, parent: known.handle, ..NO_ROW }) else {
        return null(libc::ENOMEM);
    };
    // SAFETY: the domain is known.
    let context = unsafe { (*pd).context };
    let mw = Mw { context, pd, rkey: row.key, handle: row.handle, kind };
    keep(&mut local, Known { kind: MW, handle: row.handle, imported: false, ..known }, mw)
}

pub unsafe extern "C" fn dealloc_mw(mw: *mut Mw) -> c_int {
    let mut local = local();
    let Some(known) = local.get("dealloc_mw", MW, mw) else { return libc::EINVAL };
    if !known.table.remove(|row| (row.kind, row.handle) == (MW, known.handle)) {
        return known.table.wrong(&format!("dealloc_mw: window {} was destroyed", known.handle));
    }
    // SAFETY: it is known, as a window.
    unsafe { give_up(&mut local, mw) };
    0
}
