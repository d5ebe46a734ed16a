//! Hard links: which files of the source were copied already, and what their copies are called.
//!
//! The first name of a file that is met copies it; names that are met while it is copied wait, and
//! later ones are linked to the copy. If the copy fails, the next name in line tries.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard};

use super::directory::{Directory, Id};
use super::list::Entry;

/// A copy that can be linked to.
#[derive(Clone, Debug)]
pub struct Made {
    /// The directory that it is in.
    pub directory: Arc<Directory>,
    /// Its name there.
    pub name: CString,
    /// Its device and inode: under its name may be something else by now.
    pub id: Id,
}

/// What to do about a name of a file that has several.
#[derive(Debug)]
pub enum Claim {
    /// Copy it, and say how that went.
    Copy,
    /// Link it to this.
    Link(Made),
    /// Nothing: whoever copies it will get the entry back.
    Wait,
}

#[derive(Debug)]
enum State {
    UnderWay(Vec<(Arc<Directory>, Entry)>),
    Done(Made),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Links {
    files: Mutex<HashMap<Id, State>>,
}

impl Links {
    fn files(&self) -> MutexGuard<'_, HashMap<Id, State>> {
        self.files.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Says what to do about `entry`, a name of `file`. One that waits holds its directory.
    pub fn claim(&self, file: Id, directory: &Arc<Directory>, entry: &Entry) -> Claim {
        let mut files = self.files();
        match files.get_mut(&file) {
            None => {
                files.insert(file, State::UnderWay(Vec::new()));
                Claim::Copy
            }
            Some(State::Done(made)) => Claim::Link(made.clone()),
            Some(State::UnderWay(waiting)) => {
                directory.hold();
                waiting.push((Arc::clone(directory), entry.clone()));
                Claim::Wait
            }
        }
    }

    /// `file` was copied, or (`None`) was not; gives back who waited for it.
    pub fn settle(&self, file: Id, made: Option<Made>) -> Vec<(Arc<Directory>, Entry)> {
        let mut files = self.files();
        let before = match made {
            Some(made) => files.insert(file, State::Done(made)),
            None => files.remove(&file),
        };
        match before {
            Some(State::UnderWay(waiting)) => waiting,
            _ => Vec::new(),
        }
    }
}
