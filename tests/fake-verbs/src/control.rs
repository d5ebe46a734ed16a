//! What a test orders, and is told.

use std::ffi::{CStr, c_char, c_int};

use crate::local::local;
use crate::table::{FREE, IMPORT, MR, MW, PD, Table};

/// Makes the `skip + 1`st call of `operation` (`reg_mr`, say) of this process fail with `errno`, once.
///
/// # Safety
/// `operation` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_verbs_fail(operation: *const c_char, skip: u32, errno: c_int) {
    // SAFETY: the caller's.
    let operation = unsafe { CStr::from_ptr(operation) }.to_string_lossy().into_owned();
    local().fail(operation, skip, errno);
}

/// Writes what is in a device's file, a line an object, and what was done wrong with it and in this process,
/// as a string into `text`, which has room for `room` bytes; how long it is, or -1 for a file that is not of a
/// device.
///
/// # Safety
/// There is that room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_verbs_report(file: c_int, text: *mut c_char, room: usize) -> isize {
    let Some(table) = Table::open(file) else { return -1 };
    let mut lines: Vec<String> = table
        .rows()
        .iter()
        .map(|row| {
            let (handle, parent, access) = (row.handle, row.parent, row.access);
            match row.kind {
                PD => format!("pd {handle}"),
                MR if row.dmabuf >= 0 => {
                    format!("mr {handle} in {parent} access {access:#x} dmabuf {} offset {:#x} len {:#x} iova {:#x}",
                        row.dmabuf, row.offset, row.len, row.address)
                }
                MR => format!("mr {handle} in {parent} access {access:#x} len {:#x}", row.len),
                MW => format!("mw {handle} in {parent}"),
                IMPORT => format!("import {handle} by {parent}"),
                FREE.. => format!("{row:?}"),
            }
        })
        .collect();
    lines.extend(table.wrongs().iter().map(|wrong| format!("wrong: {wrong}")));
    lines.extend(local().wrongs.iter().map(|wrong| format!("wrong: {wrong}")));
    let all = lines.join("\n");
    let len = all.len().min(room.saturating_sub(1));
    // SAFETY: the caller's; at least one byte is left for the end.
    unsafe {
        std::ptr::copy_nonoverlapping(all.as_ptr().cast(), text, len);
        if room > 0 {
            text.add(len).write(0);
        }
    }
    len as isize
}

/// Forgets what was done wrong in this process, what it has not given up, and failures to come.
#[unsafe(no_mangle)]
pub extern "C" fn fake_verbs_forget() {
    *local() = Default::default();
}
