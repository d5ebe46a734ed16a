//! What killed runs of `hugecp --resume` leave.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use bookend_tools::copy::engine::PieceSum;
use bookend_tools::copy::journal::{self, HEADER_BYTES, RECORD_BYTES};

use super::Dir;

/// What a killed run left.
pub struct Left {
    /// Records in the journal.
    pub records: Vec<PieceSum>,
    /// Of them, those that hold.
    pub verified: Vec<PieceSum>,
    /// Bytes of these, each once: a record comes before its data, so that a piece whose data did not come
    /// is written by a later run, and has two.
    pub bytes: u64,
    /// Bytes of all records, each once: what was under way to the disk may get there after the process has ended.
    pub claimed: u64,
}

/// Looks at what is beside `target`, with eyes of its own: every record, one after the other.
pub fn look(dir: &Dir, target: &str) -> Option<Left> {
    let hidden = |what| dir.join(target).with_file_name(format!(".{}.hugecp-{what}", name(target)));
    let journal = fs::read(hidden("journal")).ok()?;
    let header = journal.get(..HEADER_BYTES)?;
    let mut records = Vec::new();
    for record in journal[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
        let alone: Vec<u8> = header.iter().chain(record).copied().collect();
        records.extend(journal::parse(&alone)?.pieces);
    }
    let part = File::open(hidden("part")).ok()?;
    let summer = journal::parse(&journal)?.header.summer;
    let holds = |piece: &&PieceSum| {
        let mut bytes = vec![0; (piece.range.end - piece.range.start) as usize];
        part.read_exact_at(&mut bytes, piece.range.start).is_ok()
            && summer.sum(piece.range.start, &bytes) == piece.sum
    };
    let verified = records.iter().filter(holds).cloned().collect();
    let apart = journal::parse(&journal)?.pieces;
    let len = |piece: &PieceSum| piece.range.end - piece.range.start;
    let bytes = apart.iter().filter(holds).map(len).sum();
    Some(Left { records, verified, bytes, claimed: apart.iter().map(len).sum() })
}

fn name(target: &str) -> &str {
    target.rsplit_once('/').map_or(target, |(_, name)| name)
}

impl Left {
    /// That a later run, which left `now`, copied nothing of what was verified: the journal only grows.
    #[track_caller]
    pub fn check_kept(&self, now: &Self, what: &str) {
        for piece in &now.records[self.records.len().min(now.records.len())..] {
            let twice = self.verified.iter().any(|done| {
                piece.range.start < done.range.end && done.range.start < piece.range.end
            });
            assert!(!twice, "{what}: {:?} was copied a second time", piece.range);
        }
    }
}
