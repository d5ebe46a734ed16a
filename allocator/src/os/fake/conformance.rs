//! The fake against the kernel: the same calls on both, and the same answers from both.

use core::ptr::NonNull;
use std::os::fd::AsFd;

use super::FakeOs;
use crate::os::{Advice, Backing, Errno, Linux, Os, SystemInfo, say_skipped};
use crate::units::{BLOCK_BYTES, Bytes, Node, PageSize};

const PAGE: PageSize = PageSize::MIB2;
const LEN: Bytes = Bytes::mib(4);

/// What calls have answered, each by its name.
#[derive(Default, PartialEq, Debug)]
struct Answers(Vec<(&'static str, Result<u64, Errno>)>);

impl Answers {
    fn note(&mut self, call: &'static str, answer: Result<u64, Errno>) {
        self.0.push((call, answer));
    }

    fn unit(&mut self, call: &'static str, answer: Result<(), Errno>) {
        self.note(call, answer.map(|()| 0));
    }
}

fn advise<O: Os>(os: &O, at: NonNull<u8>, len: Bytes, advice: Advice) -> Result<(), Errno> {
    // SAFETY: whoever calls this owns the range and relies on no content.
    unsafe { os.advise(at, len, advice) }
}

fn map<O: Os>(os: &O, len: Bytes, backing: Backing<'_>) -> Result<NonNull<u8>, Errno> {
    // SAFETY: no address is given.
    unsafe { os.map(None, len, backing) }
}

fn unmap<O: Os>(os: &O, at: NonNull<u8>, len: Bytes) -> Result<(), Errno> {
    // SAFETY: whoever calls this owns the range; this is its last use.
    unsafe { os.unmap(at, len) }
}

/// Private and shared hugetlb memory on a machine whose pool is empty.
fn empty_pool<O: Os>(os: &O, answers: &mut Answers) {
    let sixteen = PageSize::from_bytes(Bytes::mib(16)).unwrap();
    answers.note("map an unknown size", map(os, Bytes::mib(16), Backing::Huge(sixteen)).map(|_| 0));
    let file = os.memory_file(c"conformance", Bytes::mib(16), Some(sixteen));
    answers.note("a file of an unknown size", file.map(|_| 0));
    let file = os.memory_file(c"conformance", Bytes::mib(1), Some(PAGE));
    answers.note("a file of half a page", file.map(|_| 0));

    let at = map(os, LEN, Backing::Huge(PAGE)).unwrap();
    answers.note("alignment", Ok((at.addr().get() % BLOCK_BYTES) as u64));
    answers.unit("populate private", advise(os, at, LEN, Advice::PopulateWrite));
    answers.unit("collapse hugetlb", advise(os, at, LEN, Advice::Collapse));
    answers.unit("do not fork hugetlb", advise(os, at, LEN, Advice::DontFork));
    answers.unit("discard hugetlb", advise(os, at, LEN, Advice::DontNeed));
    answers.unit("unmap half a page", unmap(os, at, Bytes::mib(1)));
    let mut frame = [None];
    answers.unit("frames of nothing", os.frames(at, PAGE, &mut frame));
    answers.note("frame of nothing", Ok(frame[0].is_some().into()));
    answers.note("huge of nothing", os.huge_mapped(at, LEN).map(Bytes::get));
    answers.unit("unmap", unmap(os, at, LEN));
    answers.unit("populate nothing", advise(os, at, LEN, Advice::PopulateWrite));

    let file = os.memory_file(c"conformance", LEN, Some(PAGE)).unwrap();
    let backing = |offset| Backing::File(file.as_fd(), offset);
    answers.note("map at half a page", map(os, LEN, backing(Bytes::mib(1))).map(|_| 0));
    let at = map(os, LEN, backing(Bytes::ZERO)).unwrap();
    answers.unit("populate shared", advise(os, at, LEN, Advice::PopulateWrite));
    answers.unit("punch", os.punch(file.as_fd(), Bytes::ZERO, PAGE.bytes()));
    answers.unit("punch nothing", os.punch(file.as_fd(), Bytes::ZERO, Bytes::ZERO));
    answers.unit("unmap the file", unmap(os, at, LEN));
}

/// Ordinary memory, private and shared.
fn ordinary<O: Os>(os: &O, answers: &mut Answers) {
    let base = os.base_page_size();
    let at = map(os, LEN, Backing::Reserved).unwrap();
    answers.unit("populate a reservation", advise(os, at, LEN, Advice::PopulateWrite));
    // SAFETY: the reservation is ours.
    let over = unsafe { os.map(Some(at), LEN, Backing::Anonymous) };
    answers.note("map over it", over.map(|over| u64::from(over == at)));
    answers.unit("no huge pages", advise(os, at, LEN, Advice::NoHugePage));
    answers.unit("populate", advise(os, at, base.bytes(), Advice::PopulateWrite));
    answers.note("huge", os.huge_mapped(at, LEN).map(Bytes::get));
    let mut nodes = [None; 2];
    answers.unit("nodes", os.nodes(at, base, &mut nodes));
    answers.note("present", Ok(nodes.iter().flatten().count() as u64));
    // SAFETY: the range is ours.
    let bind = |node| unsafe { os.bind(at, LEN, Node::new(node)) };
    answers.unit("bind to node 0", bind(0));
    answers.unit("bind to node 999", bind(999));
    answers.unit("bind to node 99999", bind(99_999));
    // SAFETY: the page is present, and ours.
    unsafe { at.write(7) };
    answers.unit("discard", advise(os, at, LEN, Advice::DontNeed));
    // SAFETY: as above, but that reading it faults it in.
    answers.note("content", Ok(unsafe { at.read() }.into()));
    answers.unit("unmap", unmap(os, at, LEN));

    let file = os.memory_file(c"conformance", LEN, None).unwrap();
    let map = || map(os, LEN, Backing::File(file.as_fd(), Bytes::ZERO)).unwrap();
    let (a, b) = (map(), map());
    // SAFETY: both are mapped, of base pages that a touch faults in.
    unsafe { a.write(9) };
    // SAFETY: as above.
    answers.note("shared", Ok(unsafe { b.read() }.into()));
    answers.unit("discard shared", advise(os, a, LEN, Advice::DontNeed));
    // SAFETY: as above.
    answers.note("still there", Ok(unsafe { b.read() }.into()));
    answers.unit("punch", os.punch(file.as_fd(), Bytes::ZERO, base.bytes()));
    // SAFETY: as above.
    answers.note("punched", Ok(unsafe { b.read() }.into()));
    answers.unit("unmap", unmap(os, a, LEN).and(unmap(os, b, LEN)));
}

#[test]
fn the_fake_answers_as_the_kernel_does() {
    let fake = FakeOs::new();
    let (mut real, mut simulated) = (Answers::default(), Answers::default());
    ordinary(&Linux, &mut real);
    ordinary(&fake, &mut simulated);
    assert_eq!(real, simulated);
    assert_eq!(fake.outstanding(), Default::default());
}

#[test]
fn the_fake_runs_dry_as_the_kernel_does() {
    // Others may fill or empty the machine's pool while this looks: it is compared where the pool
    // was empty before and after.
    let is_empty = || {
        let info = SystemInfo::read(&Linux).unwrap();
        info.pool(PAGE).map(|pool| pool.total == 0 && pool.overcommit == 0)
    };
    let before = is_empty();
    let (mut real, mut simulated) = (Answers::default(), Answers::default());
    if before == Some(true) {
        empty_pool(&Linux, &mut real);
    }
    if (before, is_empty()) != (Some(true), Some(true)) {
        say_skipped("the machine's pool of 2 MiB pages is not empty, or there is none");
        return;
    }
    empty_pool(&FakeOs::new(), &mut simulated);
    assert_eq!(real, simulated);
}
