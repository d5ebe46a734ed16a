//! Files that several processes have filled (see [`team`](super::team)): what is whole gets its attributes and its
//! name, and a line of the manifest.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::sync::Arc;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::context::Context;
use super::directory::{Directory, Side};
use super::list::Entry;
use super::team::{Divided, Staged};
use crate::copy::attributes;
use crate::copy::error::FileError;
use crate::copy::journal::Identity;
use crate::copy::request::Conflict;
use crate::copy::target::Target;
use crate::copy::whole::{Subtree, Whole};

impl Context<'_> {
    /// Does what is left to do about a divided file, of which `done` is what each member did.
    ///
    /// # Errors
    /// [`FileError`]; then it does not have its name, unless only attributes are missing.
    pub fn complete(
        &self,
        staged: Staged,
        done: &[HashMap<Vec<u8>, Vec<Subtree>>],
    ) -> Result<(), FileError> {
        let Staged { divided, directory, entry, target } = staged;
        let part_missing = |rank| {
            let path = directory.path_of(Side::Target, entry.target());
            FileError::PartMissing { path, rank, count: done.len() }
        };
        let missing = done.iter().position(|done| !done.contains_key(&divided.target));
        let mut is_listed = divided.listed && missing.is_none(); // who took no checksum has said why
        if let Some(target) = target {
            self.progress.file_done();
            let source = self.unchanged(&directory, &entry, &divided).inspect_err(|error| {
                if let (FileError::Changed(_), Some(unfinished)) = (error, target.unfinished()) {
                    unfinished.discard();
                }
            })?;
            // What has no temporary name was whole when it was staged.
            if let Some(rank) = missing.filter(|_| divided.temporary.is_some()) {
                return Err(part_missing(rank));
            }
            is_listed &= self.publish(&directory, &entry, source, target)?;
        }
        let Some(manifest) = self.manifest.as_ref().filter(|_| is_listed) else {
            return Ok(());
        };
        let mut whole = Whole::new(divided.state.len());
        done.iter().filter_map(|done| done.get(&divided.target)).cloned().for_each(|subtrees| {
            whole.add(subtrees);
        });
        // All of it is known, since every member did its range.
        let hash = whole.finish(|_, _| Err(part_missing(0)))?;
        manifest.add(directory.path_of(Side::Target, entry.target()), hash);
        Ok(())
    }

    /// Opens the source of a divided file, if it is still what was copied.
    fn unchanged(
        &self,
        directory: &Arc<Directory>,
        entry: &Entry,
        divided: &Divided,
    ) -> Result<(File, Metadata), FileError> {
        let side = directory.fd(Side::Source, &self.shelf)?;
        let failed = |operation, cause| {
            let path = directory.path_of(Side::Source, &entry.name);
            FileError::Source { path, operation, cause }
        };
        let nofollow = if self.follows(entry) { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let source = openat(&*side, &*entry.name, flags | nofollow, Mode::empty());
        let source = File::from(source.map_err(|errno| failed("open", errno.into()))?);
        let metadata = source.metadata().map_err(|cause| failed("stat", cause))?;
        if Identity::anywhere(&metadata) != divided.state {
            return Err(FileError::Changed(directory.path_of(Side::Source, &entry.name)));
        }
        Ok((source, metadata))
    }

    /// Gives a file that all members have filled its attributes and its name, and says whether it has it.
    fn publish(
        &self,
        directory: &Arc<Directory>,
        entry: &Entry,
        (source, metadata): (File, Metadata),
        mut target: Target,
    ) -> Result<bool, FileError> {
        let lost = if self.settings.preserve {
            attributes::preserve(&target.file, &source, &metadata)
        } else {
            target.set_own_attributes()
        };
        if self.is_cancelled() {
            return Ok(false); // the user knows, and the staged file goes
        }
        if !target.commit(self.settings.conflict == Conflict::Leave, self.settings.fsync)? {
            self.tally.left.add(1);
            return Ok(false);
        }
        self.tally.files.add(1);
        if lost.is_empty() {
            return Ok(true);
        }
        let path = directory.path_of(Side::Target, entry.target());
        Err(FileError::Attributes { path, what: lost })
    }
}
