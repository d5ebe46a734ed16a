//! Copies with their checksums, for the list of the end that the user is at.

use std::fs::File;
use std::io;

use super::place::Way;
use super::{Receiver, Spot};
use crate::copy::error::FileError;
use crate::copy::file::ON_DEVICE;
use crate::copy::manifest::{self, HashError};
use crate::copy::tree::entry::by_descriptor;
use crate::remote::manifest::Copied;
use crate::remote::protocol::{Naming, Relative};

impl Receiver<'_, '_> {
    /// There is a copy at `spot`, a name of the file of number `link`, which has this checksum, if those are told.
    pub(super) fn list(&self, spot: &Spot, link: u64, sum: Option<[u8; 32]>) {
        let (Some(listing), Some(hash)) = (self.listing, sum) else { return };
        self.links.note_sum(link, hash);
        let place = &spot.place;
        let outer = place.outer.as_ref().unwrap_or(place);
        let way = Way::further(place.way.as_ref(), &spot.name);
        // An operand's own name is known to the end that has the list.
        let own = usize::from(self.task.naming == Naming::Operands);
        let names: Vec<&[u8]> =
            way.names().into_iter().skip(own).map(|name| name.to_bytes()).collect();
        let Ok(way) = Relative::new(&names.join(&b'/')) else {
            let why = "its path is longer than paths are";
            let (option, path) = ("--manifest", spot.path());
            return self.failed(&FileError::NotForThis { option, path, why });
        };
        let (operand, into) = outer.operand;
        listing.copied(Copied { operand, into, way, hash });
    }

    /// What was copied to the device at `spot` is not told, and why.
    pub(super) fn leave_unlisted(&self, spot: &Spot) {
        if self.listing.is_some() {
            let (option, path) = ("--manifest", spot.path());
            self.failed(&FileError::NotForThis { option, path, why: ON_DEVICE });
        }
    }

    /// There is another name of `file`, which is open as a place only. One that was not copied now is read.
    pub(super) fn list_link(&self, spot: &Spot, link: u64, file: &File) -> Result<(), FileError> {
        if self.listing.is_none() {
            return Ok(());
        }
        let failed = |cause| FileError::target(&spot.path(), "read, for its checksum,", cause);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Ok(());
        }
        let sum = match self.links.sum(link) {
            Some(sum) => sum,
            None => {
                let file = File::open(by_descriptor(file)).map_err(failed)?;
                let hash = manifest::hash(&file, metadata.len(), &self.session.work);
                let hash = hash.map_err(|error| match error {
                    HashError::Read(cause) => failed(cause),
                    HashError::Cancelled => failed(io::ErrorKind::Interrupted.into()),
                })?;
                *hash.as_bytes()
            }
        };
        self.list(spot, link, Some(sum));
        Ok(())
    }
}
