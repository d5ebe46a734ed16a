//! Persistent memory under registration: refused with an explanation where a file system stands on it,
//! registered where it is a character device. Where there is none, and no RDMA device, this says so; the lab
//! has both.

use std::fs::File;
use std::io::Write;

use bookend_registration::file::{DaxDevice, FileError, LeasedFile, Mapping};
use bookend_registration::verbs::{Access, Device, Domain, Verbs};
use bookend_registration::{RegisterError, Registrar};
use bookend_tests::skip::say;

/// Where the lab mounts a file system with `dax=always`.
const MOUNTED: &str = "/mnt/dax";

fn registrar(access: Access) -> Option<Verbs> {
    let device = Device::open(None).map_err(|why| say(&why.to_string())).ok()?;
    Some(Domain::new(&device).unwrap().registrar(access).unwrap())
}

#[test]
fn a_file_on_persistent_memory_is_refused_with_the_reason() {
    let Some(registrar) = registrar(Access::LOCAL_WRITE | Access::REMOTE_WRITE) else { return };
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.contains(MOUNTED) && line.contains("dax")) {
        return say("no file system is mapped directly on persistent memory here");
    }
    let path = format!("{MOUNTED}/registered");
    File::create(&path).unwrap().write_all(&vec![1; 4 << 20]).unwrap();
    let open = || File::options().read(true).write(true).open(&path).unwrap();
    let refused = LeasedFile::register(&registrar, open(), Mapping::ReadWrite, |_| ()).unwrap_err();
    println!("{refused}");
    let FileError::Register(RegisterError::Unsupported { .. }) = &refused else {
        panic!("{refused}");
    };
    assert!(refused.to_string().contains("device-DAX"), "{refused}");
    // Nothing is left of the attempt: the file can be opened and truncated at once.
    open().set_len(0).unwrap();
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_device_of_persistent_memory_is_registered() {
    let Some(registrar) = registrar(Access::LOCAL_WRITE | Access::REMOTE_WRITE) else { return };
    let devices = std::fs::read_dir("/sys/bus/dax/devices");
    let names = devices.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let paths = names.map(|name| format!("/dev/{}", name.to_string_lossy()));
    let Some(path) = paths.into_iter().find(|path| std::fs::exists(path).unwrap_or(false)) else {
        return say("no device of persistent memory here");
    };
    let device = DaxDevice::open(&path).unwrap();
    let region = registrar.register(device).unwrap();
    println!("{path}: {:?}, pages of {:?}", region.registration(), region.registration().page());
    let none = DaxDevice::open("/dev/null").unwrap_err();
    assert!(none.to_string().contains("/dev/daxN.M"), "{none}");
}

#[test]
fn an_ordinary_file_s_pages_are_not_pinned_for_writing() {
    let Some(registrar) = registrar(Access::LOCAL_WRITE) else { return };
    let path = format!("{}/registered", std::env::temp_dir().display());
    File::create(&path).unwrap().write_all(&vec![1; 1 << 20]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // On tmpfs it is; on a disk's file system kernels since 6.5 refuse.
    match LeasedFile::register(&registrar, file, Mapping::ReadWrite, |_| ()) {
        Ok(leased) => {
            let key = leased.with(|leased| {
                leased.registration().iter().next().map(|(_, region)| region.rkey())
            });
            assert!(matches!(key, Ok(Some(_))));
            // Whoever opens it has the registration withdrawn before.
            drop(File::options().write(true).open(&path).unwrap());
            assert!(!leased.is_registered());
        }
        Err(refused) => println!("{refused}"),
    }
    std::fs::remove_file(&path).unwrap();
}
