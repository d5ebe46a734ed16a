//! What one process registers.

use std::os::fd::AsFd;

use bookend::units::Bytes;
use bookend_registration::verbs::{Access, Window};
use bookend_registration::{RegisterError, Registrar};

use super::{alone, domain, full, pool};

#[test]
fn ranges_and_all_memory_are_registered_on_demand() {
    let _alone = alone();
    let (domain, book) = domain("fake0");
    let pool = pool(1);
    let registrar = domain.registrar(full() | Access::ON_DEMAND).unwrap();
    let region = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap();
    let implicit = domain.register_implicit(Access::LOCAL_WRITE).unwrap();
    // IBV_ACCESS_ON_DEMAND is 1 << 6; the others are as asked for.
    assert_eq!(
        book.lines(),
        [
            format!("pd {}", domain.handle()),
            "mr 2 in 1 access 0x57 len 0x200000".to_owned(),
            "mr 3 in 1 access 0x41 len 0xffffffffffffffff".to_owned(),
        ]
    );
    drop((implicit, region, registrar, domain));
    book.assert_empty();
}

#[test]
fn without_on_demand_paging_nothing_is_tried() {
    let _alone = alone();
    let (domain, book) = domain("fake1");
    let refused = domain.registrar(Access::ON_DEMAND).unwrap_err().to_string();
    assert!(refused.contains("fake1 does not report it"), "{refused}");
    let refused = domain.register_implicit(full()).unwrap_err().to_string();
    assert!(refused.contains("fake1 does not report it"), "{refused}");
    drop(domain);
    book.assert_empty();
}

#[test]
fn a_part_of_a_dma_buffer_is_registered_as_it_is_named() {
    let _alone = alone();
    let (domain, book) = domain("fake0");
    let buffer = tempfile::tempfile().unwrap();
    buffer.set_len(4 << 20).unwrap();
    let register = |offset, len, iova| {
        domain.register_dmabuf(buffer.as_fd(), offset, len, iova, Access::LOCAL_WRITE)
    };
    let region = register(Bytes::mib(1), Bytes::mib(2), 0x7000_0000_0000).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&buffer);
    let expected = format!(
        "mr 2 in 1 access 0x1 dmabuf {fd} offset 0x100000 len 0x200000 iova 0x700000000000"
    );
    assert_eq!(book.lines()[1], expected);
    assert_ne!(region.lkey(), region.rkey());
    // Beyond its end, and at an address that lies differently in its page.
    for (offset, len, iova) in
        [(Bytes::mib(3), Bytes::mib(2), 0), (Bytes::ZERO, Bytes::mib(1), 0x10)]
    {
        let refused = register(offset, len, iova).unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EINVAL), "{refused}");
    }
    drop((region, domain));
    book.assert_empty();
}

#[test]
fn a_device_without_dma_buffers_says_so() {
    let _alone = alone();
    let (domain, _) = domain("fake1");
    let buffer = tempfile::tempfile().unwrap();
    buffer.set_len(4096).unwrap();
    let refused =
        domain.register_dmabuf(buffer.as_fd(), Bytes::ZERO, Bytes::kib(4), 0, full()).unwrap_err();
    assert!(matches!(refused, RegisterError::Unsupported { .. }), "{refused}");
}

#[test]
fn windows_come_and_go_with_their_domain() {
    let _alone = alone();
    let (able, book) = domain("fake0");
    let windows = [(); 3].map(|()| Window::new(&able).unwrap());
    assert_eq!(book.lines().len(), 4, "{:?}", book.lines());
    drop(able); // the windows hold it on
    assert_eq!(book.lines().len(), 4);
    drop(windows);
    book.assert_empty();
    let refused = Window::new(&domain("fake1").0).unwrap_err();
    assert!(refused.to_string().contains("reports none of type 2"), "{refused}");
}
