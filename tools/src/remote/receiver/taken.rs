//! Which operand has which name, where several could make the same: what one has made, or is making, no other replaces.
//! Names are kept as hashes, with a key that no peer knows.

use std::collections::HashMap;
use std::ffi::CString;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;

use super::{Operand, Receiver, Spot};
use crate::copy::error::FileError;
use crate::copy::request::Conflict;
use crate::copy::tree::directory::{Id, id_of};
use crate::remote::protocol::Naming;
use crate::remote::session::lock;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Whether directories of several operands could be the same.
    merges: bool,
    keys: [RandomState; 2],
    operands: Mutex<HashMap<[u64; 2], u32>>,
}

impl Taken {
    /// Of several operands.
    pub fn new(naming: Naming, operands: &[Operand]) -> Self {
        let mut names: Vec<&[u8]> =
            operands.iter().map(|operand| operand.name.as_slice()).collect();
        names.sort_unstable();
        let merges = naming != Naming::Operands
            || names.contains(&b".".as_slice())
            || names.windows(2).any(|two| two[0] == two[1]);
        Self { merges, ..Self::default() }
    }

    /// Whether `name` in a directory is that of `operand`, now or before.
    fn take(&self, directory: Id, name: &CString, operand: u32) -> bool {
        let hash = |key: &RandomState| key.hash_one((directory, name));
        let key = [hash(&self.keys[0]), hash(&self.keys[1])];
        *lock(&self.operands).entry(key).or_insert(operand) == operand
    }
}

impl Receiver<'_, '_> {
    /// Takes a name for what is no directory. `false` where another operand has it and what is there stays.
    ///
    /// # Errors
    /// Another operand has it, and would be overwritten, while it is made or afterwards.
    pub(super) fn take_name(&self, spot: &Spot) -> Result<bool, FileError> {
        let Some(taken) = &self.taken else { return Ok(true) };
        if spot.place.outer.is_some() && !taken.merges {
            return Ok(true);
        }
        let path = spot.path();
        let found = spot.place.file.metadata();
        let directory = found.map_err(|cause| FileError::target(&path, "look at", cause))?;
        if taken.take(id_of(&directory), &spot.name, spot.place.operand.0) {
            return Ok(true);
        }
        match self.task.settings.conflict {
            Conflict::Leave => Ok(false),
            Conflict::Replace | Conflict::ReplaceOlder => {
                Err(FileError::JustCreated { source_path: spot.source.clone(), target: path })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(naming: Naming, names: &[&str]) -> Taken {
        let operand = |name: &&str| Operand { name: name.as_bytes().to_vec(), shown: "".into() };
        Taken::new(naming, &names.iter().map(operand).collect::<Vec<_>>())
    }

    #[test]
    fn operands_that_may_meet_are_known() {
        for (names, merges) in
            [(&["a", "b"][..], false), (&["a", "b", "a"], true), (&["a", "."], true)]
        {
            assert_eq!(taken(Naming::Operands, names).merges, merges, "{names:?}");
        }
        assert!(taken(Naming::Parents, &["a", "b"]).merges);
    }

    #[test]
    fn a_name_is_of_the_first_that_takes_it() {
        let taken = taken(Naming::Operands, &["a", "a"]);
        let name = c"n".to_owned();
        assert!(taken.take((1, 2), &name, 0) && taken.take((1, 2), &name, 0));
        assert!(!taken.take((1, 2), &name, 1));
        assert!(taken.take((1, 3), &name, 1) && taken.take((1, 2), &c"m".to_owned(), 1));
    }
}
