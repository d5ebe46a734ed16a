//! What a file has besides its contents, on its way to another machine.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;

use nix::sys::time::TimeSpec;
use xattr::FileExt;

use super::protocol::{ATTRIBUTES_MAX, Attributes, Blob, ExtendedAttribute, Moment, PathText};
use crate::copy::attributes::{self, Basics};
use crate::copy::error::said;
use crate::copy::tree::special;

/// What the lengths of a name and its value take in a message.
const LENGTHS: usize = 8;

/// Where extended attributes are to be read from.
#[derive(Clone, Copy, Debug)]
pub enum Carrier<'a> {
    /// A file or directory, open for reading.
    Open(&'a File),
    /// Anything else, open as a place only.
    Place(&'a File),
}

/// What `metadata` is about has, and its extended attributes too where they are to be read. Those that
/// cannot be are told in `lost`.
pub fn collect(
    metadata: &Metadata,
    from: Option<Carrier<'_>>,
    lost: &mut Vec<String>,
) -> Attributes {
    let mut found = Attributes {
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        accessed: Moment {
            seconds: metadata.atime(),
            nanoseconds: metadata.atime_nsec() as u32, // below 10^9
        },
        modified: Moment { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() as u32 },
        xattrs: Vec::new(),
    };
    let read = match from {
        Some(Carrier::Open(file)) => read(file, lost),
        Some(Carrier::Place(place)) => special::xattrs(place),
        None => Vec::new(),
    };
    let mut bytes = 0;
    for (name, value) in read {
        if bytes + name.len() + value.len() + LENGTHS > ATTRIBUTES_MAX {
            lost.push(format!("{} (too long to be sent)", name.display()));
        } else {
            bytes += name.len() + value.len() + LENGTHS;
            let name = PathText(name.into_vec());
            found.xattrs.push(ExtendedAttribute { name, value: Blob(value) });
        }
    }
    found
}

fn read(file: &File, lost: &mut Vec<String>) -> Vec<(OsString, Vec<u8>)> {
    let names = attributes::names_to_preserve(file).into_iter();
    let value = |name: OsString| match file.get_xattr(&name) {
        Ok(value) => value.map(|value| (name, value)), // or it was removed since it was listed
        Err(error) => {
            lost.push(format!("{} ({})", name.display(), said(&error)));
            None
        }
    };
    names.filter_map(value).collect()
}

/// A moment as `stat(2)` has it: seconds and nanoseconds.
pub fn time(moment: &Moment) -> (i64, i64) {
    (moment.seconds, moment.nanoseconds.into())
}

/// Mode, owner and times, as they came.
pub fn basics(came: &Attributes) -> Basics {
    let moment = |moment: &Moment| {
        TimeSpec::new(moment.seconds, i64::from(moment.nanoseconds.min(999_999_999)))
    };
    Basics {
        mode: came.mode & 0o7777,
        uid: came.uid,
        gid: came.gid,
        accessed: moment(&came.accessed),
        modified: moment(&came.modified),
    }
}

/// Gives `file` all that came. Returns what was lost.
pub fn give(file: &File, came: &Attributes) -> Vec<String> {
    let names = came.xattrs.iter().map(|xattr| OsString::from_vec(xattr.name.0.clone()));
    attributes::preserve_as(file, &basics(came), names.collect(), |name| {
        let named = |xattr: &&ExtendedAttribute| OsStr::from_bytes(&xattr.name.0) == name;
        Ok(came.xattrs.iter().find(named).map(|xattr| xattr.value.0.clone()))
    })
}

/// Gives what is no regular file, is `now`, and open as a place only, the extended attributes that came, as far as it
/// may have them and this process may give them.
pub fn give_xattrs(there: &File, now: &Metadata, came: &Attributes, lost: &mut Vec<String>) {
    let own = came.xattrs.iter().filter(|xattr| special::may_have(&xattr.name.0));
    let own = own.map(|xattr| (OsString::from_vec(xattr.name.0.clone()), xattr.value.0.clone()));
    special::give_xattrs(there, now, own.collect(), lost);
}
