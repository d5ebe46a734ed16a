//! The engine's loop against a drive in memory, which keeps to its limits and refuses what it is told to.

use std::fs::File;
use std::path::Path;

use super::*;
use crate::copy::engine::{Progress, Tuning};

const BLOCK: usize = 512;
const LIMITS: Limits =
    Limits { block_bytes: 512, blocks: 4096, range_blocks: 7, command_blocks: 30, ranges: 4 };

/// Blocks, and what to refuse.
struct Fake {
    bytes: Vec<u8>,
    sent: usize,
    refuse_at: Option<usize>,
    lose: bool,
}

impl Fake {
    fn new() -> Self {
        let bytes = (0..4096 * BLOCK).map(|at| (at / 3 + at / BLOCK) as u8).collect();
        Self { bytes, sent: 0, refuse_at: None, lose: false }
    }
}

impl Sender for Fake {
    fn depth(&self) -> usize {
        3
    }

    fn send(&mut self, commands: &[Command]) -> Result<(), Refusal> {
        assert!(!commands.is_empty() && commands.len() <= 3);
        for command in commands {
            self.sent += 1;
            if self.refuse_at == Some(self.sent) {
                return Err(match self.lose {
                    true => Refusal::Lost(std::io::Error::from_raw_os_error(libc::EBADF)),
                    false => Refusal::Drive(0x4183),
                });
            }
            assert!(command.ranges.len() <= 4 && command.blocks() <= 30);
            let mut to = command.to as usize * BLOCK;
            for &(from, blocks) in &command.ranges {
                assert!(blocks <= 7);
                let from = from as usize * BLOCK;
                self.bytes.copy_within(from..from + blocks as usize * BLOCK, to);
                to += blocks as usize * BLOCK;
            }
        }
        Ok(())
    }
}

fn copy(fake: &mut Fake, progress: &Progress) -> Result<usize, Stop> {
    let file = File::open("/dev/null").unwrap();
    let side = || Side { file: &file, path: Path::new("x"), kind: Kind::BlockDevice, len: None };
    let tuning = Tuning::FREE;
    let (source, target) = (side(), side());
    let job = Job { source, target, data: &[], part: false, tuning, progress, sums: None };
    let extent = Extent { from: 10, to: 2000, blocks: 500 };
    let commands = command::commands(extent, &LIMITS, Format::Here, u64::MAX);
    run(&job, commands, 512, &Limiter::new(None), fake)
}

#[test]
fn a_drive_has_what_was_asked_for_and_nothing_else() {
    let (mut fake, progress) = (Fake::new(), Progress::default());
    let before = fake.bytes.clone();
    // Four ranges of seven are fewer than thirty blocks.
    assert_eq!(copy(&mut fake, &progress).unwrap(), 500_usize.div_ceil(28));
    assert_eq!(progress.copied(), 500 * 512);
    let (from, to) = (10 * BLOCK, 2000 * BLOCK);
    let len = 500 * BLOCK;
    assert!(fake.bytes[to..to + len] == before[from..from + len], "the copy differs");
    assert!(fake.bytes[..to] == before[..to] && fake.bytes[to + len..] == before[to + len..]);
}

#[test]
fn a_refusal_leaves_the_work_to_others_and_a_loss_does_not() {
    let mut fake = Fake { refuse_at: Some(8), ..Fake::new() };
    match copy(&mut fake, &Progress::default()) {
        Err(Stop::Unsupported(why)) => assert!(why.contains("0x183, over the limits"), "{why}"),
        other => panic!("{other:?}"),
    }
    let mut fake = Fake { refuse_at: Some(8), lose: true, ..Fake::new() };
    match copy(&mut fake, &Progress::default()) {
        Err(Stop::Failed(CopyError::Write { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_that_was_cancelled_sends_no_more() {
    let (mut fake, progress) = (Fake::new(), Progress::default());
    progress.cancel();
    assert!(matches!(copy(&mut fake, &progress), Err(Stop::Failed(CopyError::Cancelled))));
    assert_eq!(fake.sent, 0);
}

#[test]
fn files_and_devices_that_are_no_namespaces_are_refused() {
    let file = tempfile::tempfile().unwrap();
    let regular = Side { file: &file, path: Path::new("f"), kind: Kind::Regular, len: Some(0) };
    assert_eq!(place_of(&regular).unwrap_err(), "f is no block device");
    assert!(Way::between(&regular, &regular).is_err());
    assert!(limits(&regular).is_err() && look(&regular, &regular, 0).is_err());
}
