//! Import by the driver, as mlx5 has it: through the share's server and its workers.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use bookend::os::Linux;
use bookend::pool::SharedPin;
use bookend::units::Bytes;
use bookend_registration::share::{Guest, Server, Share, ShareError, Worker};
use bookend_registration::verbs::import;
use bookend_registration::{RegisterError, Registrar};
use bookend_tests::child::{self, Part, wait_until};

use super::{Book, alone, domain, fail, full, library, pool};

const KILLS: u32 = 200;

struct Place {
    server: Server,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        Self { server: Server::listen(&path).unwrap(), path, _dir: dir }
    }

    fn worker(&self, share: &Share<Linux>) -> (Part, Guest<Linux>) {
        let part = Part::start("sharing::part_of_a_worker", self.path.to_str().unwrap());
        let guest = self.server.accept(share, |_| true).unwrap().unwrap();
        (part, guest)
    }
}

/// A pool of 4 MiB in two regions of a domain of `device`.
fn share(device: &str) -> (Share<Linux>, Book) {
    let (domain, book) = domain(device);
    let pool = pool(2);
    let registrar = domain.registrar(full()).unwrap().pieces_of(Bytes::mib(2));
    let region = registrar.register(SharedPin::new(pool.clone(), pool.blocks()).unwrap()).unwrap();
    (Share::registered(pool, domain, region).unwrap(), book)
}

fn count(book: &Book, kind: &str) -> usize {
    book.lines().iter().filter(|line| line.starts_with(kind)).count()
}

#[test]
fn a_worker_imports_domain_and_keys_and_the_last_user_frees() {
    let _alone = alone();
    let (share, book) = share("fake0");
    let place = Place::new();
    let (mut one, first) = place.worker(&share);
    let (mut other, second) = place.worker(&share);
    let keys = "domain 1, keys 0x200 0x201, 0x300 0x301";
    assert_eq!((one.listen(), other.listen()), (keys.to_owned(), keys.to_owned()));
    // Each has imported the domain; the regions' keys were asked for and let go.
    assert_eq!((count(&book, "pd"), count(&book, "mr"), count(&book, "import")), (1, 2, 2));
    drop(share); // the guests hold it on
    one.finish();
    wait_until("its end shows", || first.is_gone());
    assert_eq!((count(&book, "pd"), count(&book, "mr"), count(&book, "import")), (1, 2, 1));
    drop(first);
    assert_eq!((count(&book, "pd"), count(&book, "mr")), (1, 2));
    other.finish();
    wait_until("its end shows", || second.is_gone());
    drop(second);
    book.assert_empty();
}

#[test]
#[ignore = "a part of another test"]
fn part_of_a_worker() {
    let Some(path) = child::argument() else { return };
    library();
    let worker = Worker::connect(path).unwrap();
    let domain = worker.domain().unwrap();
    let keys = [0, 2].map(|at| worker.keys(Bytes::mib(at), Bytes::mib(2)).unwrap());
    let [low, high] = keys.map(|keys| format!("{:#x} {:#x}", keys.lkey, keys.rkey));
    child::say(&format!("domain {}, keys {low}, {high}", domain.handle()));
    child::hear();
    drop(worker);
}

#[test]
fn killed_workers_leave_what_is_shared_and_disturb_nobody() {
    let _alone = alone();
    let (share, book) = share("fake0");
    let place = Place::new();
    let start = Instant::now();
    let (mut witness, guest) = place.worker(&share);
    witness.listen();
    let life = start.elapsed();
    let mut admitted = 0;
    for kill in 0..KILLS {
        let part = Part::start("sharing::part_of_a_worker", place.path.to_str().unwrap());
        let killed_early = kill % 2 == 0;
        // At evenly spread moments of what a worker does until it has everything.
        let wait = life * kill / KILLS;
        if killed_early {
            std::thread::sleep(wait);
            part.kill();
        } else {
            let guest = place.server.accept(&share, |_| true).unwrap();
            std::thread::sleep(wait);
            part.kill();
            if let Some(guest) = guest {
                wait_until("its end shows", || guest.is_gone());
                admitted += 1;
            }
        }
        while place.has_come() {
            place.server.accept(&share, |_| true).unwrap();
        }
    }
    assert!(admitted >= KILLS / 4, "{admitted}");
    assert_eq!((count(&book, "pd"), count(&book, "mr"), count(&book, "wrong")), (1, 2, 0));
    assert!(!guest.is_gone());
    witness.finish();
    let (mut last, _guest) = place.worker(&share);
    assert!(last.listen().starts_with("domain 1, keys 0x200"));
    drop((last, guest, _guest));
    drop(share);
    // What is left are marks of imports of processes that are no more.
    assert_eq!((count(&book, "pd"), count(&book, "mr"), count(&book, "wrong")), (0, 0, 0));
}

impl Place {
    fn has_come(&self) -> bool {
        use std::os::fd::AsRawFd;
        let fd = self.server.as_fd().as_raw_fd();
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor is asked for.
        unsafe { libc::poll(&mut poll, 1, 0) > 0 }
    }
}

#[test]
fn a_killed_server_s_objects_last_as_long_as_a_worker() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut server = Part::start("sharing::part_of_the_server", path.to_str().unwrap());
    assert_eq!(server.listen(), "listening");
    let worker = Worker::connect(&path).unwrap();
    let book = Book::of(worker.domain().unwrap());
    server.kill();
    wait_until("its end shows", || worker.check().is_err());
    assert!(matches!(worker.check(), Err(ShareError::ServerGone)));
    assert_eq!((count(&book, "pd"), count(&book, "mr"), count(&book, "import")), (1, 2, 1));
    drop(worker);
    // The file has no other holder than this test now, with which the kernel would end all of it.
    assert_eq!((count(&book, "import"), count(&book, "wrong")), (0, 0));
}

#[test]
#[ignore = "a part of another test"]
fn part_of_the_server() {
    let Some(path) = child::argument() else { return };
    library();
    let (share, _book) = share("fake0");
    let server = Server::listen(path).unwrap();
    child::say("listening");
    let _guest = server.accept(&share, |_| true).unwrap();
    child::hear();
}

#[test]
fn every_step_of_an_import_can_fail_and_leaves_nothing() {
    let _alone = alone();
    let (share, book) = share("fake0");
    let place = Place::new();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = files();
    for (operation, skip, errno, expected) in [
        // Not by the driver, then: and this device is none that a file's replacement will do for.
        ("import_device", 0, libc::EOPNOTSUPP, "fake0 has no import_device"),
        ("query_device", 0, libc::EIO, "limits"),
        ("import_pd", 0, libc::ENOENT, "import a protection domain"),
        ("import_mr", 0, libc::ENOENT, "import a memory region"),
        ("import_mr", 1, libc::ENOENT, "import a memory region"),
    ] {
        let told = std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                fail(operation, skip, errno);
                Worker::connect(&place.path)
            });
            let _guest = place.server.accept(&share, |_| true).unwrap();
            worker.join().unwrap().unwrap_err().to_string()
        });
        assert!(told.contains(expected), "{operation}: {told}");
        assert_eq!(files(), before, "{operation}: descriptors are left");
        let left = (count(&book, "pd"), count(&book, "mr"), count(&book, "import"));
        assert_eq!(
            (left, count(&book, "wrong")),
            ((1, 2, 0), 0),
            "{operation}: {:?}",
            book.lines()
        );
    }
    drop(share);
    book.assert_empty();
}

#[test]
fn what_the_owner_has_dropped_is_not_imported_and_other_files_are_refused() {
    let _alone = alone();
    let (domain, book) = domain("fake0");
    let pool = pool(1);
    let registrar = domain.registrar(full()).unwrap();
    let region = registrar.register(pool.pin(pool.blocks()).unwrap()).unwrap();
    let (handle, lkey) = {
        let (_, mr) = region.registration().iter().next().unwrap();
        (mr.handle(), mr.lkey())
    };
    let file = || import::command_file(&domain).try_clone_to_owned().unwrap();
    let imported = import::import(file(), "fake0", domain.handle()).unwrap();
    assert_eq!(import::keys(&imported, handle).unwrap().lkey, lkey);
    drop(region);
    let gone = import::keys(&imported, handle).unwrap_err();
    assert_eq!(gone.errno(), Some(libc::ENOENT), "{gone}");
    let unknown = import::import(file(), "fake0", 77).unwrap_err();
    assert_eq!(unknown.errno(), Some(libc::ENOENT), "{unknown}");
    let other = tempfile::tempfile().unwrap().as_fd().try_clone_to_owned().unwrap();
    let refused = import::import(other, "fake0", domain.handle()).unwrap_err();
    assert!(matches!(refused, RegisterError::Unsupported { .. }), "{refused}");
    drop((imported, registrar, domain));
    book.assert_empty();
    let (none, _) = super::domain("fake1");
    let file = import::command_file(&none).try_clone_to_owned().unwrap();
    let refused = import::import(file, "fake1", none.handle()).unwrap_err().to_string();
    assert!(refused.contains("fake1 has no import_device"), "{refused}");
}
