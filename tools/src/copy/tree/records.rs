//! Records of journals, on their way from whoever fills a range of a divided file to the leader, which has the journal.
//!
//! They may be late, or be lost with their process: then the pieces are copied again by the next run, if any.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::context::lock;
use crate::copy::engine::{Log, PieceSum};
use crate::copy::journal::Header;

/// What waits to be sent.
#[derive(Debug, Default)]
pub struct Records(Mutex<BTreeMap<u32, Vec<u8>>>);

impl Records {
    /// Takes what waits, by the [number](super::team::Divided::number) of the file.
    pub fn take(&self) -> BTreeMap<u32, Vec<u8>> {
        std::mem::take(&mut *lock(&self.0))
    }
}

/// Makes the records of a file.
#[derive(Debug)]
pub struct Recorder {
    /// Where they wait.
    pub records: Arc<Records>,
    /// The number of the file.
    pub number: u32,
    /// What begins its journal.
    pub header: Header,
}

impl Log for Recorder {
    fn note(&self, piece: &PieceSum) {
        let record = self.header.record(piece);
        lock(&self.records.0).entry(self.number).or_default().extend(record);
    }
}
