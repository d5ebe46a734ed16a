//! The fake behaves as the kernel was seen to.

use core::ptr::NonNull;
use std::os::fd::AsFd;

use super::*;

const PAGE: PageSize = PageSize::MIB2;

/// A private mapping of huge pages.
fn huge(os: &FakeOs, pages: u64) -> (NonNull<u8>, Bytes) {
    let len = Bytes::mib(2 * pages);
    // SAFETY: no address is given.
    (unsafe { os.map(None, len, Backing::Huge(PAGE)) }.unwrap(), len)
}

fn advise(os: &FakeOs, at: NonNull<u8>, len: Bytes, advice: Advice) -> Result<(), Errno> {
    // SAFETY: the tests own what they map and rely on no content.
    unsafe { os.advise(at, len, advice) }
}

fn page_in(at: NonNull<u8>, index: usize) -> NonNull<u8> {
    // SAFETY: the tests only name pages of their mappings.
    unsafe { at.add(index << PAGE.shift()) }
}

fn frames(os: &FakeOs, at: NonNull<u8>, count: usize) -> Vec<u64> {
    let mut found = vec![None; count];
    os.frames(at, PAGE, &mut found).unwrap();
    let area = found.iter().flatten().min().map_or(0, |f| f.get() & !0xffff_ffff);
    found.iter().map(|f| (f.unwrap().get() - area) / 512).collect()
}

fn unmap(os: &FakeOs, at: NonNull<u8>, len: Bytes) {
    // SAFETY: the mapping is the test's own, and this is its last use.
    unsafe { os.unmap(at, len) }.unwrap();
    os.validate();
}

#[test]
fn an_exhausted_pool_is_an_error_and_keeps_what_was_populated() {
    let os = FakeOs::new().with_huge_pages(PAGE, 2, FreeOrder::Ascending);
    let (at, len) = huge(&os, 3);
    assert_eq!(advise(&os, at, len, Advice::PopulateWrite), Err(Errno::FAULT));
    assert_eq!(os.outstanding().huge_pages, 2);
    assert_eq!(os.huge_mapped(at, len), Ok(Bytes::mib(4)));
    os.validate();
    unmap(&os, at, len);
    assert_eq!(os.outstanding(), Outstanding::default());
    assert_eq!(os.free_huge_pages(PAGE), 2);
}

#[test]
fn pages_given_back_in_descending_order_come_back_ascending() {
    let os = FakeOs::new().with_huge_pages(PAGE, 4, FreeOrder::Descending);
    let (at, len) = huge(&os, 4);
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    assert_eq!(frames(&os, at, 4), [3, 2, 1, 0]);
    for index in 0..4 {
        advise(&os, page_in(at, index), PAGE.bytes(), Advice::DontNeed).unwrap();
    }
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    assert_eq!(frames(&os, at, 4), [0, 1, 2, 3]);
    unmap(&os, at, len);
}

#[test]
fn memory_is_real_and_reads_as_zero_after_it_was_given_back() {
    let os = FakeOs::new().with_huge_pages(PAGE, 1, FreeOrder::Ascending);
    let (at, len) = huge(&os, 1);
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    // SAFETY: the page is present and the test's own.
    unsafe { at.write(7) };
    advise(&os, at, len, Advice::DontNeed).unwrap();
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { at.read() }, 0);
    unmap(&os, at, len);
}

#[test]
fn what_is_mapped_over_a_huge_page_can_be_touched() {
    let os = FakeOs::new().with_huge_pages(PAGE, 1, FreeOrder::Ascending);
    let (at, len) = huge(&os, 1);
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    // SAFETY: the range is the test's own.
    unsafe {
        os.map(Some(at), len, Backing::Anonymous).unwrap();
        at.write(1);
    }
    assert_eq!(os.free_huge_pages(PAGE), 1);
    unmap(&os, at, len);
}

#[test]
fn a_memory_file_keeps_its_pages_until_the_last_reference_is_closed() {
    let os = FakeOs::new().with_huge_pages(PAGE, 2, FreeOrder::Ascending);
    let len = Bytes::mib(4);
    let file = os.memory_file(c"test", len, Some(PAGE)).unwrap();
    let second = file.try_clone().unwrap();
    let map = || {
        // SAFETY: no address is given.
        unsafe { os.map(None, len, Backing::File(file.as_fd(), Bytes::ZERO)) }.unwrap()
    };
    let (a, b) = (map(), map());
    advise(&os, a, len, Advice::PopulateWrite).unwrap();
    // SAFETY: both map the file's first page, which is present.
    unsafe {
        a.write(9);
        assert_eq!(b.read(), 9);
    }
    assert_eq!(os.outstanding().huge_pages, 2, "the second mapping takes no pages");
    os.punch(file.as_fd(), PAGE.bytes(), PAGE.bytes()).unwrap();
    assert_eq!(os.outstanding().huge_pages, 1);
    unmap(&os, a, len);
    unmap(&os, b, len);
    drop(file);
    assert_eq!((os.outstanding().files, os.outstanding().huge_pages), (1, 1));
    drop(second);
    assert_eq!(os.outstanding(), Outstanding::default());
}

#[test]
fn calls_fail_where_a_test_wants_it() {
    let os = FakeOs::new();
    os.fail(Call::Map, 2, Errno::NOMEM, Fails::Once);
    let map = || {
        // SAFETY: no address is given.
        unsafe { os.map(None, Bytes::mib(1), Backing::Anonymous) }
    };
    let (first, second, third) = (map(), map(), map());
    assert_eq!(second, Err(Errno::NOMEM));
    assert_eq!((os.calls(Call::Map), os.injected()), (3, 1));
    unmap(&os, first.unwrap(), Bytes::mib(1));
    unmap(&os, third.unwrap(), Bytes::mib(1));
    os.fail(Call::Map, 1, Errno::PERM, Fails::FromThenOn);
    assert_eq!((map(), map()), (Err(Errno::PERM), Err(Errno::PERM)));
    os.heal();
    unmap(&os, map().unwrap(), Bytes::mib(1));
}

#[test]
fn another_process_takes_pages_in_the_middle_of_a_call() {
    let os = FakeOs::new().with_huge_pages(PAGE, 8, FreeOrder::Ascending);
    os.steal_after(PAGE, 3, 4);
    let (at, len) = huge(&os, 8);
    assert_eq!(advise(&os, at, len, Advice::PopulateWrite), Err(Errno::FAULT));
    assert_eq!(frames(&os, at, 4), [0, 1, 2, 7]);
    os.return_stolen(PAGE);
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    unmap(&os, at, len);
}

#[test]
fn a_bound_range_takes_pages_of_its_node_alone() {
    let os = FakeOs::new().with_huge_pages(PAGE, 2, FreeOrder::Ascending).with_huge_pages_on(
        Node::new(1),
        PAGE,
        1,
        FreeOrder::Ascending,
    );
    let (at, len) = huge(&os, 2);
    // SAFETY: the mapping is the test's own.
    let bind = |node| unsafe { os.bind(at, len, Node::new(node)) };
    assert_eq!(bind(2), Err(Errno::INVAL), "there is no node 2");
    bind(1).unwrap();
    assert_eq!(advise(&os, at, len, Advice::PopulateWrite), Err(Errno::FAULT));
    let mut nodes = [None; 2];
    os.nodes(at, PAGE, &mut nodes).unwrap();
    assert_eq!(nodes, [Some(Node::new(1)), None]);
    unmap(&os, at, len);
}

#[test]
fn transparent_huge_pages_come_as_configured() {
    for (transparent, on_fault, collapsed) in [
        (Transparent::Blocks(1), 2, Err(Errno::NOMEM)),
        (Transparent::CollapseOnly(1), 0, Err(Errno::NOMEM)),
        (Transparent::CollapseOnly(2), 0, Ok(())),
        (Transparent::Blocks(u64::MAX), 4, Ok(())),
    ] {
        let os = FakeOs::new().with_transparent(transparent);
        let len = Bytes::mib(4);
        let at = reserve_aligned(len, PAGE).unwrap();
        // SAFETY: the range was reserved for this.
        unsafe { os.map(Some(at), len, Backing::Anonymous) }.unwrap();
        advise(&os, at, len, Advice::HugePage).unwrap();
        advise(&os, at, len, Advice::PopulateWrite).unwrap();
        assert_eq!(os.huge_mapped(at, len), Ok(Bytes::mib(on_fault)), "{transparent:?}");
        assert_eq!(advise(&os, at, len, Advice::Collapse), collapsed, "{transparent:?}");
        os.validate();
        unmap(&os, at, len);
        assert_eq!(os.outstanding(), Outstanding::default());
    }
}

#[test]
fn frames_are_hidden_from_the_unprivileged() {
    let os = FakeOs::new().with_privilege(false).with_huge_pages(PAGE, 1, FreeOrder::Ascending);
    let (at, len) = huge(&os, 1);
    let mut frame = [None];
    assert_eq!(os.frames(at, PAGE, &mut frame), Ok(()), "absence is no secret");
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    assert_eq!(os.frames(at, PAGE, &mut frame), Err(Errno::PERM));
    unmap(&os, at, len);
}

#[test]
fn a_limit_stops_short_of_the_pool() {
    let os = FakeOs::new().with_huge_pages(PAGE, 4, FreeOrder::Shuffled(1)).with_limit(PAGE, 1);
    let (at, len) = huge(&os, 2);
    assert_eq!(advise(&os, at, len, Advice::PopulateWrite), Err(Errno::FAULT));
    assert_eq!(os.free_huge_pages(PAGE), 3);
    unmap(&os, at, len);
}

#[test]
fn files_follow_the_pools_and_what_a_test_sets() {
    let os = FakeOs::new().with_huge_pages(PAGE, 3, FreeOrder::Ascending);
    let read = |path: &CStr| {
        let mut buffer = [0; 64];
        os.read_file(path, &mut buffer)
            .map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
    };
    let (at, len) = huge(&os, 1);
    advise(&os, at, len, Advice::PopulateWrite).unwrap();
    let free = c"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    assert_eq!(read(free).unwrap(), "2\n");
    unmap(&os, at, len);
    let os = os.clone().with_file(free.to_str().unwrap(), "77\n");
    assert_eq!(read(free).unwrap(), "77\n", "a clone is the same machine");
    assert_eq!(read(c"/sys/none"), Err(Errno::NOENT));
    let mut names = Vec::new();
    os.list_directory(c"/sys/kernel/mm/hugepages", &mut |name| names.push(name.to_owned()))
        .unwrap();
    assert_eq!(names, [c"hugepages-1048576kB".to_owned(), c"hugepages-2048kB".to_owned()]);
    let os = os.without_file("/sys/kernel/mm/hugepages");
    assert_eq!(os.list_directory(c"/sys/kernel/mm/hugepages", &mut |_| ()), Err(Errno::NOENT));
}

#[test]
fn misplaced_ranges_are_refused_as_by_the_kernel() {
    let os = FakeOs::new().with_huge_pages(PAGE, 2, FreeOrder::Ascending);
    let (at, len) = huge(&os, 2);
    // SAFETY: the range is the test's own, and nothing is there.
    let half = unsafe { os.unmap(at, Bytes::mib(1)) };
    assert_eq!(half, Err(Errno::INVAL), "half of a hugetlb page");
    // SAFETY: no address is given.
    let unknown = unsafe {
        os.map(None, Bytes::mib(16), Backing::Huge(PageSize::from_bytes(Bytes::mib(16)).unwrap()))
    };
    assert_eq!(unknown, Err(Errno::INVAL));
    let sixteen = PageSize::from_bytes(Bytes::mib(16));
    let file = os.memory_file(c"test", Bytes::mib(16), sixteen);
    assert_eq!(file.unwrap_err(), Errno::new(libc::ENODEV));
    unmap(&os, at, len);
    assert_eq!(advise(&os, at, len, Advice::PopulateWrite), Err(Errno::NOMEM), "unmapped");
}
