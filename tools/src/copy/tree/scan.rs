//! Looking ahead: how many files and bytes there will be, counted beside the copy, so that the
//! progress has a whole to be a part of. It looks at nothing but names and lengths.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::dir::Type;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;

use super::directory::open_directory;
use super::list;
use super::wishes::{Follow, Wishes};

/// How deep it looks; below, the whole remains unknown.
const DEEPEST: usize = 200;

/// What was counted so far.
#[derive(Debug, Default)]
pub struct Ahead {
    files: AtomicU64,
    bytes: AtomicU64,
    finished: AtomicBool,
    stopped: AtomicBool,
}

impl Ahead {
    /// Files and their bytes, and whether that is all.
    pub fn seen(&self) -> (u64, u64, bool) {
        let finished = self.finished.load(Ordering::Acquire);
        (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed), finished)
    }

    /// Nobody wants to know any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Counts what `operands` hold.
    pub fn run(&self, operands: &[PathBuf], wishes: &Wishes) {
        let mut whole = true;
        for operand in operands {
            match std::fs::symlink_metadata(operand) {
                Ok(found) if found.is_dir() || (found.is_symlink() && operand.is_dir()) => {
                    let follow = wishes.follow != Follow::Never;
                    if found.is_symlink() && !follow {
                        self.files.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    whole &= File::open(operand)
                        .is_ok_and(|top| self.directory(&Arc::new(top.into()), wishes));
                }
                Ok(found) => self.file(if found.is_file() { found.len() } else { 0 }),
                Err(_) => {} // it will be said when its turn comes
            }
        }
        if whole && !self.stopped.load(Ordering::Relaxed) {
            self.finished.store(true, Ordering::Release);
        }
    }

    fn file(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts all below `top`; false where it could not look everywhere.
    fn directory(&self, top: &Arc<OwnedFd>, wishes: &Wishes) -> bool {
        struct Inner {
            above: Arc<OwnedFd>,
            name: CString,
            path: Vec<u8>,
            depth: usize,
        }
        let first =
            Inner { above: Arc::clone(top), name: c".".to_owned(), path: Vec::new(), depth: 0 };
        let (mut stack, mut whole) = (vec![first], true);
        while let Some(inner) = stack.pop() {
            if self.stopped.load(Ordering::Relaxed) || inner.depth > DEEPEST {
                whole = false;
                continue;
            }
            let Ok(fd) = open_directory(&*inner.above, &inner.name, false) else { continue };
            let Ok(entries) = list::list(&fd) else { continue };
            let fd = Arc::new(fd);
            for entry in entries {
                let mut path = inner.path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend(entry.name.to_bytes());
                let is_directory = entry.kind == Some(Type::Directory);
                if wishes.rules.excludes(&path, is_directory)
                    || wishes.shard.is_some_and(|shard| !is_directory && !shard.takes(&path))
                {
                    continue;
                }
                if is_directory {
                    let (above, name) = (Arc::clone(&fd), entry.name);
                    stack.push(Inner { above, name, path, depth: inner.depth + 1 });
                } else if let Ok(stat) = fstatat(&fd, &*entry.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                    let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
                    self.file(if is_file { stat.st_size.cast_unsigned() } else { 0 });
                }
            }
        }
        whole
    }
}
