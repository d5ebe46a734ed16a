//! Leases on real files (tmpfs): what breaks them, how fast, and what happens without.
#![allow(unsafe_code)] // reads and writes mapped files

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use super::*;
use crate::Counting;
use crate::uring::{Ring, tests};

const LEN: u64 = 1 << 20;

/// A file in memory, removed with its directory.
fn file(content: u8) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("registered");
    std::fs::write(&path, vec![content; LEN as usize]).unwrap();
    (dir, path)
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

type Told = Arc<Mutex<Vec<Event>>>;

fn listener() -> (Told, impl FnMut(Event) + Send + 'static) {
    let told = Told::default();
    let to = told.clone();
    (told, move |event| to.lock().unwrap().push(event))
}

fn check_told(told: &Told) {
    let told = told.lock().unwrap();
    let [Event::Breaking { within }, Event::Withdrawn { after, in_time }] = told[..] else {
        panic!("{told:?}");
    };
    assert!(in_time && after < within);
    assert!(after < Duration::from_secs(5), "{after:?} of {within:?}");
}

/// One that takes a file away, and what must have happened before it got it.
fn broken_by(take: impl FnOnce(&Path)) {
    let (_dir, path) = file(1);
    let (told, listen) = listener();
    let counting = Counting::new();
    let leased = LeasedFile::register(&counting, open(&path), Mapping::ReadWrite, listen).unwrap();
    assert_eq!(counting.counts().pieces, 1);
    assert_eq!(leased.with(|leased| leased.len().get()), Ok(LEN));
    let start = Instant::now();
    take(&path);
    assert_eq!(counting.counts().pieces, 0, "withdrawn before the other went on");
    assert!(start.elapsed() < Duration::from_secs(10), "and not by the kernel's patience");
    check_told(&told);
    assert_eq!(leased.with(|_| ()), Err(Withdrawn));
}

#[test]
fn who_opens_the_file_gets_it_after_the_registration_is_gone() {
    broken_by(|path| drop(open(path)));
}

#[test]
fn who_opens_it_for_reading_alone_too() {
    broken_by(|path| drop(File::open(path).unwrap()));
}

#[test]
fn who_truncates_it_too() {
    broken_by(|path| {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: the path is a string.
        assert_eq!(unsafe { libc::truncate(path.as_ptr(), 0) }, 0);
    });
}

#[test]
fn another_process_too() {
    broken_by(|path| {
        let mut shell = std::process::Command::new("sh");
        let status = shell.args(["-c", ": >\"$0\""]).arg(path).status();
        assert!(status.unwrap().success());
    });
}

#[test]
fn readers_may_share_what_is_only_read() {
    let (_dir, path) = file(1);
    let (told, listen) = listener();
    let counting = Counting::new();
    let source = File::open(&path).unwrap();
    let leased = LeasedFile::register(&counting, source, Mapping::Read, listen).unwrap();
    drop(File::open(&path).unwrap());
    assert!(leased.is_registered() && told.lock().unwrap().is_empty());
    drop(open(&path));
    assert!(!leased.is_registered());
    check_told(&told);
}

#[test]
fn who_uses_the_file_is_waited_for() {
    let (_dir, path) = file(1);
    let (told, listen) = listener();
    let counting = Counting::new();
    let leased = LeasedFile::register(&counting, open(&path), Mapping::ReadWrite, listen).unwrap();
    let opened = std::thread::scope(|scope| {
        let opener = leased.with(|used| {
            let opener = scope.spawn(|| drop(open(&path)));
            while told.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(50));
            assert!(!opener.is_finished(), "the file is in use");
            // SAFETY: the file is mapped while it is used.
            assert_eq!(unsafe { used.address().read() }, 1);
            opener
        });
        opener.unwrap().join()
    });
    opened.unwrap();
    check_told(&told);
}

#[test]
fn nobody_is_told_when_it_ends_by_itself_and_the_file_is_free() {
    let (_dir, path) = file(1);
    let (told, listen) = listener();
    let counting = Counting::new();
    drop(LeasedFile::register(&counting, open(&path), Mapping::ReadWrite, listen).unwrap());
    let start = Instant::now();
    drop(open(&path));
    assert!(start.elapsed() < Duration::from_secs(5) && told.lock().unwrap().is_empty());
    assert_eq!(counting.counts().pieces, 0);
}

#[test]
fn refusals_are_told_and_hold_nothing() {
    let (_dir, path) = file(1);
    let counting = Counting::new();
    let register = |file| LeasedFile::register(&counting, file, Mapping::ReadWrite, |_| ());
    let other = open(&path);
    let refused = register(open(&path)).unwrap_err().to_string();
    assert!(refused.contains("somebody else has it open"), "{refused}");
    drop(other);
    counting.fail_nth(1, libc::ENOMEM);
    assert!(matches!(register(open(&path)), Err(FileError::Register(_))));
    let again = register(open(&path)).unwrap();
    drop(again);
    open(&path).set_len(0).unwrap();
    assert!(matches!(register(open(&path)), Err(FileError::Empty)));
    assert_eq!(counting.counts().pieces, 0);
}

/// Reads from `/dev/zero`'s opposite, a file of sevens, into registered memory.
fn read_sevens(uring: &mut IoUring, at: *mut u8, index: u16) -> i32 {
    let mut sevens = tempfile::tempfile().unwrap();
    sevens.write_all(&[7; 4096]).unwrap();
    let read = opcode::ReadFixed::new(types::Fd(sevens.as_raw_fd()), at, 4096, index).build();
    // SAFETY: the memory is registered, or the kernel refuses; nobody else uses it until the completion.
    unsafe { uring.submission().push(&read) }.unwrap();
    uring.submit_and_wait(1).unwrap();
    uring.completion().next().unwrap().result()
}

#[test]
fn a_ring_writes_into_the_file_until_it_is_withdrawn_and_not_after() {
    let Some(mut uring) = tests::ring() else { return };
    let ring = Ring::new(tests::fd(&uring), 1).unwrap();
    let (_dir, path) = file(1);
    let leased = LeasedFile::register(&ring, open(&path), Mapping::ReadWrite, |_| ()).unwrap();
    let (at, index) = leased
        .with(|leased| {
            (leased.address(), leased.registration().index_of(leased.address(), 4096).unwrap())
        })
        .unwrap();
    assert_eq!(leased.with(|_| read_sevens(&mut uring, at, index)), Ok(4096));
    let content = std::fs::read(&path).unwrap();
    assert!(
        content[..4096] == [7; 4096] && content[4096] == 1,
        "what the ring wrote is in the file"
    );
    assert!(!leased.is_registered());
    assert_eq!(read_sevens(&mut uring, at, index), -libc::EFAULT, "the ring knows it no more");
}

#[test]
fn without_a_lease_data_is_lost_without_an_error() {
    let Some(mut uring) = tests::ring() else { return };
    let ring = Ring::new(tests::fd(&uring), 1).unwrap();
    let (_dir, path) = file(1);
    let mapped =
        mapping::Mapped::new(&open(&path), bookend::units::Bytes::new(LEN), Mapping::ReadWrite);
    let mapped = mapped.unwrap();
    let page = bookend::units::PageSize::from_bytes(bookend::units::Bytes::kib(4)).unwrap();
    use crate::Registrar;
    // SAFETY: the memory is mapped until the end; that its pages leave the file is what is shown here.
    let buffers = unsafe { ring.register_pieces(&[mapped.piece(page)]) }.unwrap();
    let index = buffers.index_of(mapped.start.as_ptr(), 4096).unwrap();
    // Nobody is told that the file is cut, and made as long again.
    open(&path).set_len(0).unwrap();
    open(&path).set_len(LEN).unwrap();
    assert_eq!(read_sevens(&mut uring, mapped.start.as_ptr(), index), 4096, "no error");
    assert!(std::fs::read(&path).unwrap()[..4096] == [0; 4096], "and no data");
    drop(buffers);
}
