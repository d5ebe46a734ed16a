//! Files that grow under their own names, for a process that must end before they are complete.
//!
//! Small files of trees are made so (see [`super::tree::small`]), tens of thousands a second. Each thread therefore has
//! a slot of its own, which says what it is making and which nobody else locks until the end: then
//! [`remove_begun`] takes every slot, removes what is named there, and gives none back. A file is created while its
//! maker holds the slot. So no file begun is missed, and none is begun after that.
//!
//! A slot says descriptors by their numbers, which costs no call. They are those of the files that it is about: while
//! there is a [`Begun`], both are open, and it goes by the same lock.

use std::cell::OnceCell;
use std::ffi::{CStr, OsStr};
use std::fs::{File, metadata, remove_file, symlink_metadata};
use std::marker::PhantomData;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long all makers together are waited for, each of which may be in a call that creates a file.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a thread is making.
#[derive(Debug, Default)]
struct Slot(Mutex<Making>);

#[derive(Debug, Default)]
struct Making {
    /// The file and its directory; `None` while nothing is made.
    fds: Option<(RawFd, RawFd)>,
    /// Its name in that; kept for its memory.
    name: Vec<u8>,
}

/// The slots of all threads that have one.
static SLOTS: Mutex<Vec<Arc<Slot>>> = Mutex::new(Vec::new());

thread_local! {
    static SLOT: OnceCell<Arc<Slot>> = const { OnceCell::new() };
}

/// A file under its own name that is not complete yet.
#[derive(Debug)]
pub struct Begun<'d> {
    /// Open for writing.
    pub file: File,
    slot: Arc<Slot>,
    directory: PhantomData<&'d OwnedFd>,
}

impl<'d> Begun<'d> {
    /// Has `create` make the file `name` in `directory`. Only one at a time is on the list for each thread.
    ///
    /// # Errors
    /// Those of `create`.
    pub fn create<E>(
        directory: &'d OwnedFd,
        name: &CStr,
        create: impl FnOnce() -> Result<File, E>,
    ) -> Result<Self, E> {
        let slot = SLOT.with(|slot| Arc::clone(slot.get_or_init(Slot::listed)));
        Self::create_in(slot, directory, name, create)
    }

    fn create_in<E>(
        slot: Arc<Slot>,
        directory: &'d OwnedFd,
        name: &CStr,
        create: impl FnOnce() -> Result<File, E>,
    ) -> Result<Self, E> {
        let mut making = slot.lock();
        let file = create()?;
        making.fds = Some((file.as_raw_fd(), directory.as_raw_fd()));
        making.name.clear();
        making.name.extend_from_slice(name.to_bytes());
        drop(making);
        Ok(Self { file, slot, directory: PhantomData })
    }
}

impl Drop for Begun<'_> {
    /// Takes it from the list: it is complete, or was removed.
    fn drop(&mut self) {
        self.slot.lock().fds = None;
    }
}

impl Slot {
    /// A new one, on the list.
    fn listed() -> Arc<Self> {
        let slot = Arc::new(Self::default());
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| Arc::strong_count(slot) > 1); // of threads that have not ended
        slots.push(Arc::clone(&slot));
        slot
    }

    fn lock(&self) -> MutexGuard<'_, Making> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`lock`](Self::lock), but not after `deadline`: a server that does not answer keeps it for ever.
    fn lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, Making>> {
        loop {
            match self.0.try_lock() {
                Ok(making) => return Some(making),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }
}

impl Making {
    /// Removes what is made, if it still has the name.
    fn remove(&self) {
        let Some((file, directory)) = self.fds else { return };
        let name = by_number(directory).join(OsStr::from_bytes(&self.name));
        let is_ours = match (metadata(by_number(file)), symlink_metadata(&name)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        if is_ours {
            let _ = remove_file(name); // all that can be done
        }
    }
}

/// Removes every file that is not complete: what is left to do before an exit that unwinds nothing. Who begins or completes
/// one from now on waits for that exit.
pub fn remove_begun() {
    let deadline = Instant::now() + PATIENCE;
    let slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    for slot in &*slots {
        if let Some(making) = slot.lock_until(deadline) {
            making.remove();
            mem::forget(making); // stays locked
        }
    }
    mem::forget(slots);
}

/// Where the system shows a descriptor of this process.
fn by_number(fd: RawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory, also open.
    fn directory() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap().into();
        (dir, fd)
    }

    #[test]
    fn what_is_not_complete_is_removed() {
        let (dir, fd) = directory();
        let path = dir.path().join("new");
        let slot = Arc::new(Slot::default());
        let make = || Begun::create_in(Arc::clone(&slot), &fd, c"new", || File::create_new(&path));

        let begun = make().unwrap();
        assert_eq!(make().unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        slot.lock().remove();
        assert!(!path.exists());
        slot.lock().remove(); // there is none any more
        drop(begun);

        drop(make().unwrap());
        slot.lock().remove();
        assert!(path.exists(), "it is complete");
    }

    #[test]
    fn what_has_taken_its_name_stays() {
        let (dir, fd) = directory();
        let path = dir.path().join("new");
        let slot = Arc::new(Slot::default());
        let begun =
            Begun::create_in(Arc::clone(&slot), &fd, c"new", || File::create_new(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        slot.lock().remove();
        assert_eq!(std::fs::read(&path).unwrap(), b"another's");
        drop(begun);
    }

    #[test]
    fn who_creates_for_ever_is_not_waited_for() {
        let slot = Slot::default();
        let held = slot.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(slot.lock_until(Instant::now()).is_none()));
        });
        drop(held);
        assert!(slot.lock_until(Instant::now()).is_some());
    }
}
