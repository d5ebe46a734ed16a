//! What is in a directory.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use nix::dir::{Dir, Type};

/// Something in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in the source.
    pub name: CString,
    /// Its name in the target, where that is another.
    pub target_name: Option<CString>,
    /// What it was when the directory was read, where that was told.
    pub kind: Option<Type>,
    /// Whether it is an operand.
    pub root: bool,
    /// Whether it is only gone through, on the way to an operand.
    pub passed: bool,
    inode: u64,
}

impl Entry {
    /// What was named on the command line.
    pub fn operand(name: CString, target_name: CString) -> Self {
        let target_name = (target_name != name).then_some(target_name);
        Self { name, target_name, kind: None, root: true, passed: false, inode: 0 }
    }

    /// Whether it is a directory, or leads to one where links are followed; asked where that was not told as it was
    /// read in `directory`.
    pub fn is_directory(&self, directory: &OwnedFd, follow: bool) -> bool {
        match self.kind {
            Some(Type::Symlink) if follow => {}
            Some(kind) => return kind == Type::Directory,
            None => {}
        }
        super::entry::look(directory, &self.name, follow)
            .is_ok_and(|(_, metadata)| metadata.is_dir())
    }

    /// Its name in the target.
    pub fn target(&self) -> &std::ffi::CStr {
        self.target_name.as_ref().unwrap_or(&self.name)
    }
}

/// The entries of a directory, in the order of their inodes: on a disk they mostly lie in it, and
/// what is read in it need not be looked for.
///
/// # Errors
/// What reading the directory says; what was read before is lost, so that nobody takes a part for
/// the whole.
pub fn list(directory: &OwnedFd) -> io::Result<Vec<Entry>> {
    // Reading moves the position of the descriptor, which copies of it share.
    let own = super::directory::open_directory(directory, c".", false)?;
    let mut entries = Vec::new();
    for entry in Dir::from_fd(own)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            entries.push(Entry {
                name: name.to_owned(),
                target_name: None,
                kind: entry.file_type(),
                root: false,
                passed: false,
                inode: entry.ino(),
            });
        }
    }
    entries.sort_unstable_by_key(|entry| entry.inode);
    Ok(entries)
}
