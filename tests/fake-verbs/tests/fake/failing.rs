//! Every operation fails once: the error names it, and nothing is left.

use std::os::fd::AsFd;

use bookend::units::Bytes;
use bookend_registration::verbs::{Access, Device, Domain, Window, devices};
use bookend_registration::{RegisterError, Registrar};

use super::{alone, domain, fail, full, pool};

/// The refusal's text and errno, where it is the system's.
fn told<T>(result: Result<T, RegisterError>) -> (String, Option<i32>) {
    let error = result.err().expect("the fake was told to fail");
    (error.to_string(), error.errno())
}

#[test]
fn devices_and_domains() {
    let _alone = alone();
    fail("get_device_list", 0, libc::ENOSYS);
    assert!(told(devices()).0.contains("ib_uverbs is not loaded"));
    let open = || Device::open(Some("fake0"));
    fail("open_device", 0, libc::EACCES);
    let (text, errno) = told(open());
    assert!(text.contains("/dev/infiniband/uverbs") && errno == Some(libc::EACCES), "{text}");
    fail("query_device", 0, libc::EIO);
    let (text, errno) = told(open());
    assert!(text.contains("limits") && errno == Some(libc::EIO), "{text}");
    let device = open().unwrap();
    fail("alloc_pd", 0, libc::ENOMEM);
    let (text, errno) = told(Domain::new(&device));
    assert!(text.contains("protection domain") && errno == Some(libc::ENOMEM), "{text}");
}

#[test]
fn all_pieces_are_registered_or_none() {
    let _alone = alone();
    let (domain, book) = domain("fake0");
    let pool = pool(4);
    for (threads, at) in [(1, 0), (1, 3), (3, 0), (3, 5), (3, 7)] {
        let registrar = domain.registrar(full()).unwrap().pieces_of(Bytes::mib(1)).threads(threads);
        fail("reg_mr", at, libc::EIO);
        let (text, errno) = told(registrar.register(pool.pin(pool.blocks()).unwrap()));
        assert!(text.contains("register memory") && errno == Some(libc::EIO), "{text}");
        assert_eq!(book.lines().len(), 1, "{threads} threads: {:?}", book.lines());
        let region = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap();
        assert_eq!(book.lines().len(), 1 + 8);
        drop(region);
    }
    drop(domain);
    book.assert_empty();
}

#[test]
fn implicit_regions_dma_buffers_and_windows() {
    let _alone = alone();
    let (domain, book) = domain("fake0");
    fail("reg_mr", 0, libc::ENOMEM);
    let (text, errno) = told(domain.register_implicit(Access::LOCAL_WRITE));
    assert!(text.contains("on-demand") && errno == Some(libc::ENOMEM), "{text}");
    let buffer = tempfile::tempfile().unwrap();
    buffer.set_len(4096).unwrap();
    fail("reg_dmabuf_mr", 0, libc::EFAULT);
    let registered = domain.register_dmabuf(buffer.as_fd(), Bytes::ZERO, Bytes::kib(4), 0, full());
    let (text, errno) = told(registered);
    assert!(text.contains("DMA buffer") && errno == Some(libc::EFAULT), "{text}");
    fail("alloc_mw", 0, libc::ENOMEM);
    assert!(told(Window::new(&domain)).0.contains("fake0"));
    drop(domain);
    book.assert_empty();
}
