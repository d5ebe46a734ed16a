//! Where what comes of an operand goes.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::place::Place;
use super::{Level, Operand, Position, Receiver, Spot};
use crate::copy::error::FileError;
use crate::copy::tree::operands::{split, without_slash};
use crate::copy::tree::wishes::Follow;
use crate::remote::protocol::{Naming, Onto};
use crate::remote::task::Target;

impl Receiver<'_, '_> {
    /// What follows is of an operand.
    pub(super) fn begin_operand(
        &self,
        at: &mut Position,
        target: &Target,
        index: u32,
        operand: &Operand,
    ) {
        at.stack.clear();
        at.source.clone_from(&operand.shown);
        let spot = match self.task.naming {
            Naming::Operands => self.operand(target, index, operand),
            Naming::Listed | Naming::Parents => self.top(target, index, operand),
        };
        at.operand = spot.map_err(|error| self.failed(&error)).ok();
        at.directory_only = target.path.as_os_str().as_bytes().ends_with(b"/")
            && !self.root.is_directory(&target.path);
        if self.task.naming != Naming::Operands {
            let place = at.operand.as_ref().map(|spot| Arc::clone(&spot.place));
            let source = operand.shown.clone();
            at.stack.push(Level { place, unseen: BTreeSet::new(), source });
        }
        at.base = at.stack.len();
    }

    /// The directory in which listed names are made again; where that is of a list, it is made.
    fn top(&self, target: &Target, index: u32, operand: &Operand) -> Result<Spot, FileError> {
        if self.task.naming == Naming::Listed {
            let failed = |cause| {
                FileError::target(&self.root.shown(&target.path), "create directory", cause)
            };
            self.root.make_directory(&target.path).map_err(failed)?;
        }
        let place = self.outer(&target.path, (index, true))?;
        Ok(Spot { place, name: c".".to_owned(), source: operand.shown.clone() })
    }

    /// Where an operand goes.
    fn operand(&self, target: &Target, index: u32, operand: &Operand) -> Result<Spot, FileError> {
        let into = match target.onto {
            Onto::Into => true,
            Onto::Exactly => false,
            Onto::Either => self.root.is_directory(&target.path),
        };
        // Links are followed where nothing is made under their names.
        let follow = (self.task.check && self.task.wishes.follow != Follow::Never)
            || (!self.task.wishes.recursive && self.root.is_device(&target.path));
        let path = if follow { &self.root.resolved(&target.path) } else { &target.path };
        let (above, name) = if into {
            let (_, name) = split(Path::new(OsStr::new("")));
            let named = CString::new(operand.name.clone()).unwrap_or(name);
            (target.path.clone(), named)
        } else if self.root.is_directory(path) {
            split(path) // `link/` is what the link leads to
        } else {
            split(&without_slash(path))
        };
        let place = self.outer(&above, (index, into))?;
        Ok(Spot { place, name, source: operand.shown.clone() })
    }

    /// A directory that is there, in which what is of an operand is made, and whether under the operand's name.
    fn outer(&self, path: &Path, operand: (u32, bool)) -> Result<Arc<Place>, FileError> {
        let shown = self.root.shown(path);
        let directory = self.root.directory(path).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => FileError::NoDirectory(shown.clone()),
            std::io::ErrorKind::NotADirectory => FileError::NotADirectory(shown.clone()),
            _ => FileError::target(&shown, "open", cause),
        })?;
        self.will_write(&directory);
        Ok(Arc::new(Place::outer(directory, shown, operand)))
    }
}
