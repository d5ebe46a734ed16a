//! The fake's hugetlb pools against the kernel's: the same pages given back in the same way come
//! again in the same order.
#![allow(unsafe_code)] // maps hugetlb pages, and gives them back

use std::os::fd::AsFd;
use std::ptr::NonNull;

use bookend::os::fake::FakeOs;
use bookend::os::{Advice, Backing, Errno, Linux, Os};
use bookend::units::{Bytes, Node, PageSize, Pfn};
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{Skip, or_say};

const PAGE: PageSize = PageSize::MIB2;
const PAGES: usize = 8;
const LEN: Bytes = Bytes::mib(2 * PAGES as u64);

/// How the pages go back between two populates.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    AllAtOnce,
    Ascending,
    Descending,
    /// Every other page, lowest first; the rest stays.
    EveryOther,
    /// The whole mapping, and a new one.
    Unmap,
}

const WAYS: [Way; 5] =
    [Way::AllAtOnce, Way::Ascending, Way::Descending, Way::EveryOther, Way::Unmap];

/// Pages in the order in which a way gives them back one by one; `None` where it does so at once.
fn order(way: Way) -> Option<Vec<usize>> {
    match way {
        Way::AllAtOnce | Way::Unmap => None,
        Way::Ascending => Some((0..PAGES).collect()),
        Way::Descending => Some((0..PAGES).rev().collect()),
        Way::EveryOther => Some((0..PAGES).step_by(2).collect()),
    }
}

fn page_in(at: NonNull<u8>, index: usize) -> NonNull<u8> {
    // SAFETY: the index is below PAGES, so the page lies in the mapping.
    unsafe { at.add(index << PAGE.shift()) }
}

fn frames<O: Os>(os: &O, at: NonNull<u8>) -> Result<Vec<Pfn>, Errno> {
    let mut found = [None; PAGES];
    os.frames(at, PAGE, &mut found)?;
    Ok(found.into_iter().map(|frame| frame.expect("all were populated")).collect())
}

/// The frames as they came first, and as they came again.
fn twice<O: Os>(os: &O, way: Way, shared: bool) -> Result<[Vec<Pfn>; 2], Errno> {
    let file = if shared { Some(os.memory_file(c"order", LEN, Some(PAGE))?) } else { None };
    let backing = || match &file {
        Some(file) => Backing::File(file.as_fd(), Bytes::ZERO),
        None => Backing::Huge(PAGE),
    };
    // SAFETY: here and below, all that is touched, given back and unmapped is this function's own.
    let mut at = unsafe { os.map(None, LEN, backing())? };
    // SAFETY: as above.
    unsafe { os.advise(at, LEN, Advice::PopulateWrite)? };
    let first = frames(os, at)?;
    match order(way) {
        Some(order) => {
            for index in order {
                discard(os, file.as_ref().map(AsFd::as_fd), at, index, PAGE.bytes())?;
            }
        }
        None if way == Way::Unmap && !shared => {
            // SAFETY: as above.
            at = unsafe {
                os.unmap(at, LEN)?;
                os.map(None, LEN, backing())?
            };
        }
        None => discard(os, file.as_ref().map(AsFd::as_fd), at, 0, LEN)?,
    }
    // SAFETY: as above.
    unsafe { os.advise(at, LEN, Advice::PopulateWrite)? };
    let second = frames(os, at)?;
    // SAFETY: as above.
    unsafe { os.unmap(at, LEN)? };
    Ok([first, second])
}

fn discard<O: Os>(
    os: &O,
    file: Option<std::os::fd::BorrowedFd<'_>>,
    at: NonNull<u8>,
    index: usize,
    len: Bytes,
) -> Result<(), Errno> {
    match file {
        Some(file) => os.punch(file, Bytes::of_len(index << PAGE.shift()), len),
        // SAFETY: the pages are the caller's, and nothing is in them.
        None => unsafe { os.advise(page_in(at, index), len, Advice::DontNeed) },
    }
}

#[test]
fn pages_come_again_as_the_kernel_hands_them_out() {
    let lock = MachineLock::take();
    let pages = HugePages::reserve_together(&lock, PAGE.bytes().get(), PAGES as u64);
    let Some(_pages) = or_say(pages) else { return };
    for way in WAYS {
        for shared in [false, true] {
            let [first, second] = match twice(&Linux, way, shared) {
                Err(Errno::PERM) => {
                    return Skip("needs CAP_SYS_ADMIN to see frames".to_owned()).print();
                }
                result => result.unwrap(),
            };
            let fake = FakeOs::new().with_frames(Node::new(0), PAGE, &first);
            let [simulated, again] = twice(&fake, way, shared).unwrap();
            assert_eq!(simulated, first);
            assert_eq!(again, second, "{way:?}, shared: {shared}");
            assert_eq!(fake.outstanding(), Default::default());
        }
    }
}
