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

/// What the lengths of a name and its value take in a message.
const LENGTHS: usize = 8;

/// What `metadata` is about has, and with `file` its extended attributes too. Those that cannot be
/// read are told in `lost`.
pub fn collect(metadata: &Metadata, file: Option<&File>, lost: &mut Vec<String>) -> Attributes {
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
    let Some(file) = file else { return found };
    let mut bytes = 0;
    for name in attributes::names_to_preserve(file) {
        match file.get_xattr(&name) {
            Ok(Some(value)) if bytes + name.len() + value.len() + LENGTHS > ATTRIBUTES_MAX => {
                lost.push(format!("{} (too long to be sent)", name.display()));
            }
            Ok(Some(value)) => {
                bytes += name.len() + value.len() + LENGTHS;
                let name = PathText(name.into_vec());
                found.xattrs.push(ExtendedAttribute { name, value: Blob(value) });
            }
            Ok(None) => {} // it was removed since it was listed
            Err(error) => lost.push(format!("{} ({})", name.display(), said(&error))),
        }
    }
    found
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
