//! What each engine must be able to do, and one copy by it.

use std::path::Path;

use bookend_tests::data::assert_same;
use bookend_tests::machine::FsKind;
use bookend_tests::tools::Run;

/// The values of `--engine`.
pub const ENGINES: [&str; 5] = ["auto", "reflink", "copy-range", "direct", "buffered"];

/// Whether `engine` copies within a file system of this kind: `Some(false)` where it must say that
/// it cannot, `None` where the kernel decides.
pub fn can(engine: &str, kind: FsKind) -> Option<bool> {
    match engine {
        "auto" | "buffered" => Some(true),
        "reflink" => Some(kind.has_reflink()),
        // There is no device to be direct with.
        "direct" => Some(kind != FsKind::Tmpfs),
        "copy-range" if kind == FsKind::Tmpfs => None,
        _ => Some(true),
    }
}

/// Copies within a file system of `kind` with `engine` and `more` options: the target is the same,
/// or the engine cannot and left none. Gives whether it copied.
#[track_caller]
pub fn copy(engine: &str, kind: FsKind, source: &Path, target: &Path, more: &[&str]) -> bool {
    let mut arguments = vec!["--engine", engine];
    arguments.extend(more);
    let mut command = std::process::Command::new(bookend_tests::tools::hugecp());
    let run = Run::of(command.args(&arguments).arg(source).arg(target));
    let what = format!("{engine} on {kind:?}, {}: {run:#?}", source.display());
    match run.status {
        Some(0) => {
            assert_ne!(can(engine, kind), Some(false), "copied where it cannot: {what}");
            assert_same(source, target);
            true
        }
        Some(1) => {
            assert_ne!(can(engine, kind), Some(true), "{what}");
            assert!(run.stderr.contains(engine), "the engine is not named: {what}");
            assert!(!target.exists(), "a target is left: {what}");
            false
        }
        _ => panic!("{what}"),
    }
}
