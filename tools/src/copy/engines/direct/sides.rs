//! The two sides of a direct copy: which of them goes past the page cache, and how aligned.

use std::fs::File;

use crate::copy::engine::{Job, Kind, Side, Stop};
use crate::copy::probe;

/// The descriptors that a direct copy uses.
#[derive(Debug)]
pub(super) struct Sides {
    /// The source past the page cache, if that is possible.
    source: Option<File>,
    /// The target past the page cache, if that is possible.
    target: Option<File>,
    /// What offsets and lengths of direct requests are multiples of.
    pub(super) alignment: u64,
    /// What a user who asks should know.
    pub(super) notes: Vec<String>,
}

impl Sides {
    /// Opens what can be opened with O_DIRECT.
    ///
    /// # Errors
    /// [`Stop::Unsupported`] where neither side can.
    pub(super) fn open(job: &Job<'_>) -> Result<Self, Stop> {
        let mut notes = Vec::new();
        let mut alignment = 1;
        let mut open = |side: &Side<'_>, name, write| match direct_descriptor(side, write) {
            Ok((file, needed)) => {
                alignment = needed.max(alignment);
                Some(file)
            }
            Err(why) => {
                notes.push(format!("{name} through the page cache: {why}"));
                None
            }
        };
        let source = open(&job.source, "source", false);
        let target = open(&job.target, "target", true);
        if source.is_none() && target.is_none() {
            return Err(Stop::Unsupported(format!(
                "neither side takes O_DIRECT ({})",
                notes.join("; ")
            )));
        }
        Ok(Self { source, target, alignment, notes })
    }

    /// The descriptor to read from.
    pub(super) fn source<'a>(&'a self, job: &Job<'a>) -> &'a File {
        self.source.as_ref().unwrap_or(job.source.file)
    }

    /// The descriptor to write to.
    pub(super) fn target<'a>(&'a self, job: &Job<'a>) -> &'a File {
        self.target.as_ref().unwrap_or(job.target.file)
    }

    /// Whether the source is read past the page cache.
    pub(super) fn is_source_direct(&self) -> bool {
        self.source.is_some()
    }

    /// Whether the target is written past the page cache.
    pub(super) fn is_target_direct(&self) -> bool {
        self.target.is_some()
    }
}

/// A descriptor of the same file with O_DIRECT, and its alignment; or why there is none.
fn direct_descriptor(side: &Side<'_>, write: bool) -> Result<(File, u64), String> {
    if side.kind == Kind::Stream {
        return Err("it is a stream".into());
    }
    let (file, alignment) = probe::open_direct(side.file, write)?;
    if !alignment.is_power_of_two() || alignment > super::SLOT_BYTES_MIN {
        return Err(format!("O_DIRECT wants an alignment of {alignment} bytes there"));
    }
    Ok((file, alignment))
}
