//! That the fake tells what is wrong: what does not fail for a mistake proves nothing.

use std::ffi::{c_int, c_void};

use bookend_registration::verbs::abi::{Context, Mr, Pd};
use bookend_registration::verbs::{Device, devices};

use super::{Book, alone, function};

type Alloc = unsafe extern "C" fn(*mut Context) -> *mut Pd;
type Dealloc = unsafe extern "C" fn(*mut Pd) -> c_int;
type Reg = unsafe extern "C" fn(*mut Pd, *mut c_void, usize, c_int) -> *mut Mr;
type Dereg = unsafe extern "C" fn(*mut Mr) -> c_int;

#[test]
fn double_frees_uses_after_and_leaks_are_told() {
    let _alone = alone();
    type List = unsafe extern "C" fn(*mut c_int) -> *mut *mut c_void;
    let mut page = vec![0u8; 4096];
    // SAFETY: the types are libibverbs'; what is wrong here is what the fake is there to notice, without
    // following a pointer that it has not given.
    unsafe {
        let list = function::<List>("ibv_get_device_list")(std::ptr::null_mut());
        let context =
            function::<unsafe extern "C" fn(*mut c_void) -> *mut Context>("ibv_open_device")(*list);
        let book = Book(
            std::os::fd::BorrowedFd::borrow_raw((*context).cmd_fd).try_clone_to_owned().unwrap(),
        );
        let (alloc, dealloc) =
            (function::<Alloc>("ibv_alloc_pd"), function::<Dealloc>("ibv_dealloc_pd"));
        let (reg, dereg) = (function::<Reg>("ibv_reg_mr"), function::<Dereg>("ibv_dereg_mr"));
        let pd = alloc(context);
        let at = page.as_mut_ptr().cast();
        // Refused as the kernel would: no length, memory that is not mapped, remote without local writing.
        assert!(reg(pd, at, 0, 1).is_null() && reg(pd, at, 1 << 46, 1).is_null());
        assert!(reg(pd, at, 4096, 2).is_null());
        let mr = reg(pd, at, 4096, 1);
        assert_eq!(dealloc(pd), libc::EBUSY);
        assert_eq!(
            book.lines()[..2],
            ["pd 1".to_owned(), "mr 2 in 1 access 0x1 len 0x1000".to_owned()]
        );
        assert!(book.lines()[2].contains("domain 1 has memory still"), "{:?}", book.lines());
        assert_eq!((dereg(mr), dereg(mr)), (0, libc::EINVAL));
        assert_eq!((dealloc(pd), dealloc(pd)), (0, libc::EINVAL));
        assert!(reg(pd, at, 4096, 1).is_null(), "a domain that is gone");
        let told = book.lines().join("\n");
        for operation in ["dereg_mr", "dealloc_pd", "reg_mr"] {
            assert!(told.contains(&format!("wrong: {operation}: its argument is none")), "{told}");
        }
        let leaked = alloc(context);
        assert_eq!(
            function::<unsafe extern "C" fn(*mut Context) -> c_int>("ibv_close_device")(context),
            0
        );
        assert!(book.lines().join("\n").contains("close_device: 1 objects"), "{:?}", book.lines());
        let _ = leaked;
        // Of this process: the tests after this one begin anew.
        function::<unsafe extern "C" fn()>("fake_verbs_forget")();
    }
}

#[test]
fn both_devices_are_there_and_differ() {
    let _alone = alone();
    assert_eq!(devices().unwrap().len(), 2);
    let [able, other] = ["fake0", "fake1"].map(|name| Device::open(Some(name)).unwrap());
    let on_demand = able.limits().on_demand;
    assert!(
        on_demand.explicit && on_demand.implicit && on_demand.rc_write && able.limits().windows
    );
    let on_demand = other.limits().on_demand;
    assert!(!on_demand.explicit && !on_demand.implicit && !other.limits().windows);
}
