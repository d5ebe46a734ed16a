//! Why one file was not copied, in words that name the file, what was tried, and what to do.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bookend::units::Bytes;

use super::engine::{CopyError, Kind};
use super::plan::Skipped;
use super::quote::quote;
use super::target::Target;

/// Why one file was not copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The source cannot be opened or asked about.
    #[error("cannot {operation} {}: {}", quote(path), said(cause))]
    Source {
        /// The source.
        path: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The source is a directory.
    #[error(
        "{} is a directory, left out: -r copies it with what is in it",
        quote(.0)
    )]
    SourceIsDirectory(PathBuf),
    /// The source can never be read.
    #[error("{} is {what}: there is nothing to read", quote(path))]
    NotReadable {
        /// The source.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Both names lead to one file.
    #[error("{} and {} are the same file", quote(source_path), quote(target))]
    SameFile {
        /// One.
        source_path: PathBuf,
        /// The other.
        target: PathBuf,
    },
    /// Something about the target failed.
    #[error("cannot {operation} {}: {}{advice}", quote(path), said(cause))]
    Target {
        /// The target.
        path: PathBuf,
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        cause: io::Error,
        /// What to do, with its punctuation; empty if nothing comes to mind.
        advice: String,
    },
    /// A directory that holds the target would go on into what it makes.
    #[error("cannot copy the directory {} into itself, {}", quote(source_path), quote(target))]
    IntoItself {
        /// The directory.
        source_path: PathBuf,
        /// Where in it.
        target: PathBuf,
    },
    /// What the target has too much would be the source.
    #[error(
        "--delete would remove the source {}, which lies in the target {}: copy without it, or to elsewhere",
        quote(source_path),
        quote(target)
    )]
    DeletesSource {
        /// The source.
        source_path: PathBuf,
        /// The target.
        target: PathBuf,
    },
    /// A directory that lies in itself.
    #[error(
        "{} is the directory {} again, which it lies in (a bind mount, or a link that is \
         followed): left out",
        quote(path),
        quote(again)
    )]
    Loop {
        /// Where it was met.
        path: PathBuf,
        /// Where it was met before.
        again: PathBuf,
    },
    /// Something else has the name of a directory.
    #[error("cannot copy a directory to {}: something there is none; remove it first", quote(.0))]
    InTheWay(PathBuf),
    /// A directory has the name of something else.
    #[error("{} is a directory: what is none cannot replace it; remove it first", quote(.0))]
    DirectoryInTheWay(PathBuf),
    /// A device is not replaced by chance.
    #[error("{} is a device: it is not replaced; remove it, or copy to it without -r", quote(.0))]
    DeviceInTheWay(PathBuf),
    /// A FIFO or a socket is not replaced by chance either.
    #[error(
        "{} is a FIFO or a socket, which a copy between machines does not write to: remove it, or copy to \
         another name", quote(.0)
    )]
    PipeInTheWay(PathBuf),
    /// It was there when the directory was read.
    #[error("{} vanished before it was copied", quote(.0))]
    Vanished(PathBuf),
    /// Two runs with one target.
    #[error("another hugecp --resume is copying to {}: wait for it, or end it", quote(.0))]
    BeingCopied(PathBuf),
    /// What grew under another name beside the target is not what has that name.
    #[error(
        "{} has not got its new contents: something else took the name of the unfinished copy beside it (.hugecp-part) meanwhile: copy it again",
        quote(.0)
    )]
    Exchanged(PathBuf),
    /// It changed under a copy that can be resumed, which shall not be of two states.
    #[error("{} changed while it was copied: copy it again when it is at rest", quote(.0))]
    Changed(PathBuf),
    /// A file that several processes fill was not filled by all.
    #[error("{} is not there: rank {rank} of {count} did not copy its part of it", quote(path))]
    PartMissing {
        /// The target.
        path: PathBuf,
        /// The first that did not.
        rank: usize,
        /// Of how many.
        count: usize,
    },
    /// A path that would lead out of the target.
    #[error("{} has \"..\" in it, and would lead out of the target: name it without", quote(.0))]
    LeadsOut(PathBuf),
    /// A file cannot replace a directory.
    #[error("{} is a directory: a file cannot replace it (without -T it would go into it)", quote(.0))]
    TargetIsDirectory(PathBuf),
    /// Something that must be a directory is none.
    #[error("target {} is not a directory", quote(.0))]
    NotADirectory(PathBuf),
    /// Standard input cannot go into a directory.
    #[error("standard input has no name that it could have in {}: name a file there", quote(.0))]
    Nameless(PathBuf),
    /// The directory of the target is not there.
    #[error("target directory {} does not exist: create it first (mkdir -p)", quote(.0))]
    NoDirectory(PathBuf),
    /// A symbolic link that leads nowhere.
    #[error("{} is a symbolic link that leads nowhere: remove it, or create what it names", quote(.0))]
    Dangling(PathBuf),
    /// An existing target that may not be written.
    #[error("{} exists and may not be written (mode {mode:04o}): -f replaces it", quote(path))]
    Unwritable {
        /// The target.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something that cannot be written.
    #[error("{} is a socket: it cannot be written as a file", quote(.0))]
    TargetIsSocket(PathBuf),
    /// A device that something uses.
    #[error(
        "{} is in use (mounted, or part of a volume): writing to it would destroy what is there; \
         unmount it, or write all the same with -f", quote(.0)
    )]
    DeviceInUse(PathBuf),
    /// An option that this target cannot have.
    #[error("{option} is not possible for {}: {why}", quote(path))]
    NotForThis {
        /// The option.
        option: &'static str,
        /// The target.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// This run has just made the target from another source.
    #[error(
        "not overwriting {} with {}: it was just copied there from a file of the same name",
        quote(target),
        quote(source_path)
    )]
    JustCreated {
        /// What would be lost.
        target: PathBuf,
        /// What would replace it.
        source_path: PathBuf,
    },
    /// No engine could do it.
    #[error("cannot copy {} to {}: {}", quote(source_path), quote(target), reasons(skipped))]
    NoEngine {
        /// From.
        source_path: PathBuf,
        /// To.
        target: PathBuf,
        /// Who was tried or ruled out.
        skipped: Vec<Skipped>,
    },
    /// The copy itself failed.
    #[error("{}{advice}", without_number(&error.to_string()))]
    Copy {
        /// How.
        #[source]
        error: CopyError,
        /// What to do, with its punctuation; empty if nothing comes to mind.
        advice: String,
    },
    /// The other machine said so.
    #[error("{host}: {text}")]
    Remote {
        /// Which.
        host: String,
        /// What it said.
        text: String,
    },
    /// The data is there, but not everything about it.
    #[error("{} was copied, but not {}", quote(path), what.join(", nor "))]
    Attributes {
        /// The target, complete otherwise.
        path: PathBuf,
        /// What could not be set, and why.
        what: Vec<String>,
    },
}

impl FileError {
    /// An operation on the target that failed.
    pub fn target(path: &Path, operation: &'static str, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        let advice = advice(&cause, path, None);
        Self::Target { path: path.to_owned(), operation, cause, advice }
    }

    /// A copy of `needed` bytes to `target` that failed.
    pub fn copy(error: CopyError, target: &Target, needed: u64) -> Self {
        let advice = match &error {
            // A device is as large as it is, which the message has told; a pipe may lead anywhere.
            _ if target.kind != Kind::Regular => String::new(),
            CopyError::Write { cause, .. } | CopyError::Operation { cause, .. } => {
                // The unfinished copy holds a part of what was free.
                let held = target.file.metadata().map_or(0, |found| found.blocks() * 512);
                advice(cause, &target.path, Some((needed, held)))
            }
            _ => String::new(),
        };
        Self::Copy { error, advice }
    }

    /// Whether the reader of a pipe that we write to went away, of which nobody complains.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Copy { error: CopyError::Write { cause, .. }, .. }
            if cause.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether the user stopped it.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Copy { error: CopyError::Cancelled, .. })
    }
}

/// The system's words without "(os error 28)".
pub fn said(cause: &io::Error) -> String {
    without_number(&cause.to_string()).to_owned()
}

/// What a copy did not get, and why: `its times (Operation not permitted)`.
pub fn lost(what: impl std::fmt::Display, cause: impl Into<io::Error>) -> String {
    format!("{what} ({})", said(&cause.into()))
}

fn without_number(text: &str) -> &str {
    text.rfind(" (os error ").map_or(text, |end| &text[..end])
}

/// Why each engine did not run, the one asked for first.
fn reasons(skipped: &[Skipped]) -> String {
    let (not_wanted, why): (Vec<_>, Vec<_>) =
        skipped.iter().partition(|skipped| skipped.why.ends_with("was asked for"));
    let mut text: Vec<_> =
        why.iter().map(|skipped| format!("{}: {}", skipped.engine, skipped.why)).collect();
    if !not_wanted.is_empty() {
        text.push("leave --engine and --reflink out, and another way is found".to_owned());
    }
    text.join("; ")
}

const NO_ROOM: &str = "; make room on that file system";

/// What to do about `cause` at `path`, where so many bytes were to go, of which so many are held.
fn advice(cause: &io::Error, path: &Path, bytes: Option<(u64, u64)>) -> String {
    match cause.raw_os_error() {
        Some(libc::ENOSPC) => match (free_at(path), bytes) {
            (Some(free), Some((needed, held))) if free + held < needed => format!(
                "; {} are needed and {} are free there: make room{}",
                Bytes::new(needed),
                Bytes::new(free + held),
                if path.is_file() { ", or reuse the old file's with --in-place" } else { "" }
            ),
            _ => NO_ROOM.to_owned(),
        },
        Some(libc::EDQUOT) => "; remove something of yours there, or ask for more".to_owned(),
        Some(libc::EROFS) => "; copy to another one, or remount it writable".to_owned(),
        Some(libc::EFBIG) => "; its file system, or ulimit -f, allows no file so large".to_owned(),
        Some(libc::EBUSY) => {
            "; if it is a mount point, --in-place writes it where it is".to_owned()
        }
        Some(libc::EACCES | libc::EPERM) if path.is_file() => {
            "; --in-place writes the existing file and needs no right to its directory".to_owned()
        }
        _ => String::new(),
    }
}

/// Free bytes on the file system of `path` or of its directory.
fn free_at(path: &Path) -> Option<u64> {
    let directory = super::target::parent(path);
    let stat = nix::sys::statvfs::statvfs(directory).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::super::engine::EngineName;
    use super::*;

    #[test]
    fn a_forced_engine_says_why_not_and_what_else() {
        let skip = |engine, why: &str| Skipped { engine, why: why.to_owned() };
        let error = FileError::NoEngine {
            source_path: "a".into(),
            target: "b".into(),
            skipped: vec![
                skip(EngineName::Direct, "reflink was asked for"),
                skip(EngineName::Reflink, "ext4 cannot share blocks"),
            ],
        };
        let text = error.to_string();
        assert!(text.starts_with("cannot copy 'a' to 'b': reflink: ext4 cannot"), "{text}");
        assert!(text.contains("leave --engine"), "{text}");
        assert!(!text.contains("direct"), "{text}");
    }

    #[test]
    fn a_full_file_system_is_told_in_figures() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let text = advice(&full, Path::new("/tmp/new"), Some((1 << 60, 0)));
        assert!(text.contains(" are needed and "), "{text}");
        assert!(text.ends_with("are free there: make room"), "{text}");
        // Where there is room now, figures would only puzzle.
        assert_eq!(advice(&full, Path::new("/tmp/new"), Some((0, 0))), NO_ROOM);
    }

    #[test]
    fn the_number_of_an_error_is_left_out() {
        let cause = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(said(&cause), "No such file or directory");
        assert_eq!(said(&io::Error::other("odd")), "odd");
    }
}
