//! On-demand paging, where the device reports it: rxe does for ranges from Linux 6.15 on
//! (`tests/lab/run --kernel latest`). Its packets must be whole pages: Linux 7.3's rxe puts those that begin
//! within a page of such memory elsewhere in it, so the lab's network has an MTU of 9,000.

use bookend::units::{Bytes, PageSize};
use bookend_registration::verbs::{Access, Device, Domain, Sge};
use bookend_registration::{Piece, RegisterError, Registrar};
use bookend_tests::skip::say;

use super::{device, full, pair, put};

/// Blocks whose pages nobody has touched are registered, and faulted in as data comes and goes.
#[test]
fn on_demand_paging_moves_data_or_its_absence_is_told() {
    let Some(device) = device() else { return };
    let domain = Domain::new(&device).unwrap();
    let registrar = match domain.registrar(full() | Access::ON_DEMAND) {
        Ok(registrar) => registrar,
        Err(error) => return say_absent(&device, &error),
    };
    let len = 4 << 20;
    let memory = Untouched::new(len);
    // SAFETY: the mapping outlives the registration, and need not be there for on-demand paging.
    let regions = unsafe { registrar.register_pieces(&[memory.piece()]) }.unwrap();
    assert_eq!(memory.present(), 0, "nothing is faulted in, so nothing is pinned");
    let (one, other) = pair(&domain);
    memory.bytes()[..len / 2].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n / 7) as u8);
    let (start, half) = (memory.at.as_ptr().cast_const(), len / 2);
    let key = regions.iter().next().unwrap().1.rkey();
    for round in 0..2 {
        let entries = regions.entries(start, half).unwrap();
        put(&one, &other, &entries, start.addr() as u64 + half as u64, key).unwrap();
        let (from, to) = memory.bytes().split_at(half);
        let differs = |&n: &usize| from[n] != to[n];
        let pages: Vec<_> = (0..half).filter(differs).map(|n| n >> 12).collect();
        assert_eq!(
            pages.first(),
            None,
            "round {round}: {} bytes differ, first that page",
            pages.len()
        );
        // The kernel takes the target's pages away; the next round faults new ones in.
        // SAFETY: the pages are of the mapping, and no reference to it is left.
        let gone = unsafe {
            libc::madvise(memory.at.as_ptr().add(half).cast(), half, libc::MADV_DONTNEED)
        };
        assert_eq!(gone, 0);
        assert!(memory.present() <= half / 4096);
    }
    println!("on-demand paging of {} bytes, {:?}", len, device.limits().on_demand);
}

#[test]
fn all_memory_is_registered_at_once_or_that_it_cannot_be_is_told() {
    let Some(device) = device() else { return };
    let domain = Domain::new(&device).unwrap();
    let region = match domain.register_implicit(full()) {
        Ok(region) => region,
        Err(error) => return say_absent(&device, &error),
    };
    assert!(device.limits().on_demand.implicit);
    let memory = Untouched::new(2 << 20);
    memory.bytes()[..1 << 20].fill(9);
    let (one, other) = pair(&domain);
    let addr = memory.at.as_ptr().addr() as u64;
    let entries = [Sge { addr, length: 1 << 20, lkey: region.lkey() }];
    put(&one, &other, &entries, addr + (1 << 20), region.rkey()).unwrap();
    assert!(memory.bytes()[1 << 20..].iter().all(|&byte| byte == 9));
}

/// A device that does not report what was asked for says so.
fn say_absent(device: &Device, error: &RegisterError) {
    let told = error.to_string();
    assert!(told.contains(device.name()) && told.contains("does not report"), "{told}");
    say(&told);
}

/// Private memory that nobody has touched.
struct Untouched {
    at: std::ptr::NonNull<u8>,
    len: usize,
}

impl Untouched {
    fn new(len: usize) -> Self {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory; advice to use
        // base pages changes no content.
        let at = unsafe {
            let at = libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0);
            assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            libc::madvise(at, len, libc::MADV_NOHUGEPAGE);
            at
        };
        Self { at: std::ptr::NonNull::new(at.cast()).unwrap(), len }
    }

    fn piece(&self) -> Piece {
        let page = PageSize::from_bytes(Bytes::kib(4)).unwrap();
        Piece { start: self.at, len: Bytes::of_len(self.len), page }
    }

    /// All of it; one reference at a time, and none while the device writes.
    #[allow(clippy::mut_from_ref)]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: it is mapped, that long, until this is dropped; callers keep what is said above.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// Pages that are in memory.
    fn present(&self) -> usize {
        let mut pages = vec![0u8; self.len / 4096];
        // SAFETY: there is a byte for each page of the mapping.
        let asked = unsafe { libc::mincore(self.at.as_ptr().cast(), self.len, pages.as_mut_ptr()) };
        assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|&&page| page & 1 != 0).count()
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no reference outlives this.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}
