//! What is left to do in a directory when all that is in it is done: its attributes, and what is
//! to be removed.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::context::{Context, lock};
use super::delete;
use super::directory::{Directory, Side, file_of};
use crate::copy::attributes;
use crate::copy::error::{FileError, lost};

impl Context<'_> {
    /// Finishes `directory`, a child of which may still be open as `below`. Gives its descriptors.
    pub fn finish(
        &self,
        directory: &Arc<Directory>,
        below: Option<&[Arc<OwnedFd>; 2]>,
    ) -> Option<[Arc<OwnedFd>; 2]> {
        if self.is_member() {
            return None; // the leader does it when all is there
        }
        let open = |side, below: Option<&Arc<OwnedFd>>| {
            directory
                .open_from(side, below.map(|fd| &**fd), &self.shelf)
                .map_err(|cause| directory.cannot(side, "finish", cause))
        };
        let opened = open(Side::Source, below.map(|[source, _]| source))
            .and_then(|source| Ok([source, open(Side::Target, below.map(|[_, target]| target))?]));
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.failed(directory, &error);
                return None;
            }
        };
        if self.is_cancelled() {
            return Some(opened);
        }
        if self.wishes.delete {
            self.delete_extra(directory, &opened[1]);
        }
        let files = file_of(&opened[0]).and_then(|one| Ok((one, file_of(&opened[1])?)));
        let missing = match files {
            Ok((source, target)) => self.set_attributes(directory, &source, &target),
            Err(error) => vec![lost("its attributes", error)],
        };
        if !missing.is_empty() {
            let path = directory.path(Side::Target);
            self.failed(directory, &FileError::Attributes { path, what: missing });
        }
        Some(opened)
    }

    fn set_attributes(&self, directory: &Directory, source: &File, target: &File) -> Vec<String> {
        if self.settings.preserve {
            return attributes::preserve(target, source, &directory.metadata);
        }
        // Without -p, a directory loses the rights that it needed while it was filled.
        let lacking = if directory.fresh { 0o700 & !directory.metadata.mode() } else { 0 };
        let added = lacking | directory.lent.load(Ordering::Relaxed);
        if added == 0 {
            return Vec::new();
        }
        let changed = target.metadata().and_then(|now| {
            let mode = now.mode() & 0o7777 & !added;
            target.set_permissions(std::fs::Permissions::from_mode(mode))
        });
        changed.err().map(|error| lost("its mode", error)).into_iter().collect()
    }

    /// Removes what the source does not have, if it is known what it has.
    fn delete_extra(&self, directory: &Arc<Directory>, target: &OwnedFd) {
        let Some(names) = directory.names.get() else { return };
        if directory.fresh || directory.incomplete.load(Ordering::Relaxed) {
            return;
        }
        let above = directory.relative(c"");
        let keep = |path: &[u8], is_directory| {
            let is_here = !path.contains(&b'/');
            let known = || CString::new(path).is_ok_and(|name| names.contains(&name));
            let excluded = || self.wishes.rules.excludes(&[&above, path].concat(), is_directory);
            (is_here && known()) || (!self.wishes.rules.is_empty() && excluded())
        };
        let is_source = |id| lock(&self.sources).contains(&id);
        let result = delete::extra(target, keep, is_source);
        self.tally.deleted.add(result.removed);
        for (name, cause) in result.failures {
            let path = directory.path_of(Side::Target, &name);
            self.failed(directory, &FileError::target(&path, "delete", cause));
        }
    }
}
