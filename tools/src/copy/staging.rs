//! How a file comes to its name only when it is complete.
//!
//! A staged file has no name (`O_TMPFILE`): the kernel frees it with its last descriptor, so that
//! a copy killed at any moment leaves nothing. When it is complete it is linked to its name, or,
//! where that is taken, to a temporary one that is renamed over it: the name leads to the old file
//! or to the whole new one, never to a part. (A kill between that link and the rename leaves a
//! complete file under the temporary name.) Where the file system has no nameless files, the copy
//! grows under the temporary name, `.NAME.hugecp-…`, which signals and errors remove. A copy that can
//! be resumed grows under a name that stays (see [`super::unfinished`]).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::attributes::OWNER;
use super::journal::Header;
use super::unfinished::Unfinished;

/// What leads a file to its name.
#[derive(Debug)]
pub struct Staging {
    /// Its directory, open for lookups only.
    directory: File,
    /// Its name to be.
    name: OsString,
    /// The name it has meanwhile, if it must have one.
    temporary: Option<TemporaryName>,
    /// What an earlier run began, where it can be gone on with, instead.
    unfinished: Option<Arc<Unfinished>>,
    /// What it replaces.
    pub old: Option<Metadata>,
    /// The mode it was asked to have, [`OWNER`] aside.
    pub mode: u32,
}

impl Staging {
    /// Creates a file in `directory` that will be called `name`, with the permissions `mode` and
    /// the owner's to read and write.
    ///
    /// # Errors
    /// What opening the directory or creating the file fails with.
    pub fn create(
        directory: &Path,
        name: OsString,
        old: Option<Metadata>,
        mode: u32,
    ) -> io::Result<(File, Self)> {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory)?;
        Self::create_in(directory, name, old, mode)
    }

    /// As [`create`](Self::create), in a directory that is open.
    ///
    /// # Errors
    /// What creating the file fails with.
    pub fn create_in(
        directory: File,
        name: OsString,
        old: Option<Metadata>,
        mode: u32,
    ) -> io::Result<(File, Self)> {
        let (file, staging) = Self::create_exactly(directory, name, mode | OWNER)?;
        Ok((file, Self { old, mode, ..staging }))
    }

    /// As [`create_in`](Self::create_in) with these permissions and no others, for a name that is free.
    ///
    /// # Errors
    /// As there.
    pub fn create_exactly(directory: File, name: OsString, mode: u32) -> io::Result<(File, Self)> {
        match nameless(&directory, mode)? {
            Some(file) => Ok((file, Self::of(directory, name, mode, None))),
            None => {
                let (file, temporary) = TemporaryName::create(&directory, &name, mode)?;
                Ok((file, Self::of(directory, name, mode, Some(temporary))))
            }
        }
    }

    /// As [`create_in`](Self::create_in), under a temporary name by which other processes find it.
    ///
    /// # Errors
    /// As there.
    pub fn create_named(
        directory: File,
        name: OsString,
        old: Option<Metadata>,
        mode: u32,
    ) -> io::Result<(File, Self)> {
        let (file, temporary) = TemporaryName::create(&directory, &name, mode | OWNER)?;
        Ok((file, Self { old, ..Self::of(directory, name, mode, Some(temporary)) }))
    }

    fn of(directory: File, name: OsString, mode: u32, temporary: Option<TemporaryName>) -> Self {
        Self { directory, name, temporary, unfinished: None, old: None, mode }
    }

    /// The name that it has meanwhile, if it has one.
    pub fn temporary_name(&self) -> Option<&CStr> {
        let unfinished = self.unfinished.as_ref().map(|unfinished| unfinished.part_name());
        self.temporary.as_ref().map(|temporary| temporary.name.as_c_str()).or(unfinished)
    }

    /// As [`create_in`](Self::create_in), but goes on with what was begun of a copy of the source
    /// that `header` says, and leaves what it did to the next run if it does not commit.
    ///
    /// # Errors
    /// As [`Unfinished::open`].
    pub fn resume_in(
        directory: File,
        name: OsString,
        old: Option<Metadata>,
        mode: u32,
        header: Header,
    ) -> io::Result<(File, Self)> {
        let (file, unfinished) = Unfinished::open(directory.try_clone()?, &name, header)?;
        let unfinished = Some(Arc::new(unfinished));
        Ok((file, Self { directory, name, temporary: None, unfinished, old, mode }))
    }

    /// What was begun, if this is a copy that can be resumed.
    pub fn unfinished(&self) -> Option<&Arc<Unfinished>> {
        self.unfinished.as_ref()
    }

    /// Where what it replaces can be found, whatever the directory is called meanwhile.
    pub fn old_path(&self) -> PathBuf {
        own_descriptor(self.directory.as_raw_fd()).join(&self.name)
    }

    /// Gives `file` its name; with `keep_existing` fails with `EEXIST` where the name is taken.
    ///
    /// # Errors
    /// What linking or renaming says; the name leads where it led before.
    pub fn commit(mut self, file: &File, keep_existing: bool) -> nix::Result<()> {
        let name = self.name.as_os_str();
        if let Some(unfinished) = &self.unfinished {
            return unfinished.commit(name, keep_existing);
        }
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => {
                if keep_existing || self.old.is_none() {
                    match link(file, &self.directory, name) {
                        Err(Errno::EEXIST) if !keep_existing => {}
                        other => return other,
                    }
                }
                TemporaryName::link(file, &self.directory, name)?
            }
        };
        if keep_existing { temporary.rename_if_free(name) } else { temporary.rename(name) }
    }
}

/// Puts what `make` creates in the place of what is called `name` in `directory`, at once.
///
/// # Errors
/// What `make` and renaming say; the name leads where it led before.
pub fn replace_with(
    directory: &File,
    name: &OsStr,
    make: impl Fn(&CStr) -> nix::Result<()>,
) -> nix::Result<()> {
    let ((), temporary) = TemporaryName::claim(directory, name, make)?;
    temporary.rename(name)
}

/// A file without a name in `directory`; `None` where the file system has none.
fn nameless(directory: &File, mode: u32) -> io::Result<Option<File>> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    match openat(directory, ".", flags, Mode::from_bits_truncate(mode)) {
        // Its way to a name leads through /proc.
        Ok(file) if own_descriptor(file.as_raw_fd()).exists() => Ok(Some(file.into())),
        Ok(_) => Ok(None),
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn own_descriptor(fd: i32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

/// Gives the nameless `file` a name.
fn link(file: &File, directory: &File, name: &OsStr) -> nix::Result<()> {
    let from = own_descriptor(file.as_raw_fd());
    linkat(nix::fcntl::AT_FDCWD, &from, directory, name, AtFlags::AT_SYMLINK_FOLLOW)
}

/// Temporary names that exist now, for [`remove_temporary_names`].
static TEMPORARY: Mutex<BTreeMap<u64, (File, CString)>> = Mutex::new(BTreeMap::new());

/// Removes every temporary name: what is left to do before an exit that unwinds nothing.
pub fn remove_temporary_names() {
    let mut names = TEMPORARY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for (_, (directory, name)) in std::mem::take(&mut *names) {
        let _ = unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir); // may be gone
    }
}

/// A temporary name of a file, removed when dropped.
#[derive(Debug)]
struct TemporaryName {
    directory: File,
    name: CString,
    id: u64,
}

impl TemporaryName {
    /// Creates a file under such a name.
    fn create(directory: &File, target: &OsStr, mode: u32) -> io::Result<(File, Self)> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let (fd, name) =
            Self::claim(directory, target, |name| openat(directory, name, flags, mode))?;
        Ok((fd.into(), name))
    }

    /// Gives the nameless `file` such a name.
    fn link(file: &File, directory: &File, target: &OsStr) -> nix::Result<Self> {
        let by_name = |name: &CStr| link(file, directory, OsStr::from_bytes(name.to_bytes()));
        Self::claim(directory, target, by_name).map(|((), name)| name)
    }

    /// Tries names until one is free. The name is on the list before it exists, so that there is
    /// no moment at which a signal would miss it.
    fn claim<T>(
        directory: &File,
        target: &OsStr,
        take: impl Fn(&CStr) -> nix::Result<T>,
    ) -> nix::Result<(T, Self)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let listed = directory.try_clone().map_err(io_errno)?;
        let own = directory.try_clone().map_err(io_errno)?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = Self { directory: own, name: CString::default(), id };
        let mut listed = Some(listed);
        loop {
            name.name = temporary_name(target);
            {
                let mut names = TEMPORARY.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                match names.get_mut(&id) {
                    Some(entry) => entry.1 = name.name.clone(),
                    None => {
                        let Some(listed) = listed.take() else { return Err(Errno::ECANCELED) };
                        names.insert(id, (listed, name.name.clone()));
                    }
                }
            }
            match take(&name.name) {
                Ok(taken) => return Ok((taken, name)),
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rename(self, to: &OsStr) -> nix::Result<()> {
        renameat(&self.directory, self.name.as_c_str(), &self.directory, to)
    }

    fn rename_if_free(self, to: &OsStr) -> nix::Result<()> {
        let (directory, name) = (&self.directory, self.name.as_c_str());
        match renameat2(directory, name, directory, to, RenameFlags::RENAME_NOREPLACE) {
            // Not every file system can; a second name that fails where one exists can.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                linkat(directory, name, directory, to, AtFlags::empty())
            }
            other => other,
        }
    }
}

impl Drop for TemporaryName {
    /// Removes the name; after a rename there is none.
    fn drop(&mut self) {
        let _ = unlinkat(&self.directory, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        TEMPORARY.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&self.id);
    }
}

fn io_errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A hidden name that tells what it is for, of a length that every file system takes.
fn temporary_name(target: &OsStr) -> CString {
    /// Some file systems of encrypted names end at 143 bytes.
    const LONG: usize = 100;
    let number = RandomState::new().hash_one(std::process::id());
    let mut name = b".".to_vec();
    if target.len() <= LONG {
        name.extend_from_slice(target.as_bytes());
        name.push(b'.');
    }
    name.extend_from_slice(format!("hugecp-{number:016x}").as_bytes());
    // A file name has no zero byte, so this never falls back.
    CString::new(name).unwrap_or_else(|_| c".hugecp".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    /// A complete file under a temporary name, as where there are no nameless files.
    fn named(directory: &Path, contents: &[u8]) -> (File, Staging) {
        let opened = File::open(directory).unwrap();
        let name = OsString::from("target");
        let (mut file, temporary) = TemporaryName::create(&opened, &name, 0o600).unwrap();
        file.write_all(contents).unwrap();
        let temporary = Some(temporary);
        let staging = Staging {
            directory: opened,
            name,
            temporary,
            unfinished: None,
            old: None,
            mode: 0o600,
        };
        (file, staging)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_nameless_file_gets_its_name_or_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        for contents in [b"one", b"two"] {
            let (mut file, staging) =
                Staging::create(dir.path(), "target".into(), None, 0o600).unwrap();
            file.write_all(contents).unwrap();
            if staging.temporary.is_some() {
                eprintln!("not tested: no nameless files in {:?}", dir.path());
            }
            assert_eq!(file.metadata().unwrap().nlink(), u64::from(staging.temporary.is_some()));
            staging.commit(&file, false).unwrap();
            assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), contents);
            assert_eq!(names(dir.path()), ["target"]);
        }
        let (file, staging) = Staging::create(dir.path(), "target".into(), None, 0o600).unwrap();
        assert_eq!(staging.commit(&file, true), Err(Errno::EEXIST));
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["target"]);
    }

    #[test]
    fn a_temporary_name_tells_its_purpose_and_becomes_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let (file, staging) = named(dir.path(), b"new");
        let [temporary] = &names(dir.path())[..] else { panic!("one name") };
        assert!(temporary.starts_with(".target.hugecp-"), "{temporary}");
        staging.commit(&file, false).unwrap();
        assert_eq!(names(dir.path()), ["target"]);

        let (file, staging) = named(dir.path(), b"newer");
        assert_eq!(staging.commit(&file, true), Err(Errno::EEXIST));
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["target"], "the copy is dropped");
        let (file, staging) = named(dir.path(), b"newer");
        staging.commit(&file, false).unwrap();
        assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), b"newer");
    }

    #[test]
    fn an_abandoned_copy_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(named(dir.path(), b"part"));
        assert_eq!(names(dir.path()), [] as [&str; 0]);
    }

    #[test]
    fn a_temporary_name_is_listed_for_signals_while_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let listed = |id| TEMPORARY.lock().unwrap().contains_key(&id);
        let (_file, staging) = named(dir.path(), b"part");
        let id = staging.temporary.as_ref().unwrap().id;
        assert!(listed(id));
        drop(staging);
        assert!(!listed(id));
    }

    #[test]
    fn names_fit_every_file_system() {
        let long = "n".repeat(255);
        for target in ["a", &long[..100], &long[..101], &long] {
            let name = temporary_name(OsStr::new(target));
            assert!(name.as_bytes().len() <= 143 && name.as_bytes()[0] == b'.', "{name:?}");
            assert_ne!(name, temporary_name(OsStr::new(target)), "no two are the same");
        }
    }
}
