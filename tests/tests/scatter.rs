//! Scatter-gather lists of real hugetlb pools: what the list says is what the kernel shows, and the
//! entries carry data.

use std::io::Write;
use std::os::fd::AsRawFd;

use bookend::os::Os;
use bookend::pool::{FrameOrder, Pool, Rung, Use};
use bookend::scatter::{Limits, Physical, ScatterError, ScatterList};
use bookend::units::{Bytes, PageSize};
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{or_say, say};

const PAGES: u64 = 32;

fn pool(order: FrameOrder) -> Pool {
    Pool::builder()
        .capacity(Bytes::mib(2 * PAGES))
        .rung(Rung::Huge, Use::Required)
        .frame_order(order)
        .build()
        .expect("the pages are reserved")
}

#[test]
fn entries_are_what_the_kernel_shows() {
    let lock = MachineLock::take();
    let Some(_pages) = or_say(HugePages::reserve(&lock, 2 << 20, None, PAGES)) else { return };
    for order in [FrameOrder::AsFaulted, FrameOrder::Ascending { extra: Bytes::ZERO }] {
        let pool = pool(order);
        let whole = Bytes::ZERO..pool.capacity().bytes();
        let list = ScatterList::of_pool(&pool, whole, &Limits::NONE).unwrap();
        list.validate(&Limits::NONE).unwrap();
        if list.told_by() == Physical::PageSize {
            assert_eq!(list.entries().len() as u64, PAGES);
            say("entries against frames: frame numbers are hidden here");
            continue;
        }
        assert_eq!(list.entries().len() as u64, pool.report().runs.unwrap().count);
        // Every base page of every entry is where the entry says.
        let base = pool.os().base_page_size();
        for entry in &list {
            let mut frames = vec![None; (entry.len.get() >> base.shift()) as usize];
            pool.os().frames(entry.address, base, &mut frames).unwrap();
            let first = entry.physical.unwrap().get() >> base.shift();
            for (frame, at) in frames.iter().zip(first..) {
                assert_eq!(frame.map(|frame| frame.get()), Some(at), "in {entry:?}");
            }
        }
    }
}

#[test]
fn a_list_within_the_limits_of_writev_carries_the_data() {
    let lock = MachineLock::take();
    let Some(_pages) = or_say(HugePages::reserve(&lock, 2 << 20, None, PAGES)) else { return };
    let pool = pool(FrameOrder::AsFaulted);
    let (start, len) = (Bytes::mib(3) + Bytes::new(77), 12_345_678u64);
    let range = start..start + Bytes::new(len);
    let limits = Limits { max_entry_bytes: Some(Bytes::mib(1)), ..Limits::IOVEC };
    let list = ScatterList::of_pool(&pool, range, &limits).unwrap();
    list.validate(&limits).unwrap();
    let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&data).unwrap();
    let vectors = list.as_iovec();
    let count = vectors.len() as libc::c_int;
    #[allow(unsafe_code)] // readv(2) and reading the pool's memory
    // SAFETY: the vectors lie in memory that the list holds, that is writable, and that nobody else
    // uses; so does the slice, which is of the same bytes and ends before the list does.
    let (read, content) = unsafe {
        let read = libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, 0);
        let first = pool.base().as_ptr().add(start.as_usize());
        (read, std::slice::from_raw_parts(first, len as usize))
    };
    assert_eq!(read, len as isize);
    assert!(content == data, "the entries are in order and without gaps");
}

#[test]
fn too_short_a_device_list_is_refused_with_what_it_takes() {
    let lock = MachineLock::take();
    let Some(_pages) = or_say(HugePages::reserve(&lock, 2 << 20, None, PAGES)) else { return };
    let pool = pool(FrameOrder::AsFaulted);
    let limits = Limits {
        max_entries: Some(15),
        max_entry_bytes: Some(PageSize::MIB2.bytes()),
        ..Limits::NONE
    };
    let whole = Bytes::ZERO..pool.capacity().bytes();
    let error = ScatterList::of_pool(&pool, whole, &limits).unwrap_err();
    assert!(matches!(error, ScatterError::TooManyEntries { needed: 32, allowed: 15, .. }));
    assert!(error.to_string().contains("32 entries"), "{error}");
}
