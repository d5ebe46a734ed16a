//! Why a command of `hugectl` failed, and the exit status that goes with it.

use std::io;

use bookend_defrag::system::FileError;

use crate::cli::exit;
use crate::cli::interrupt::Interrupted;

/// Why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// What was asked makes no sense on this machine, or at all; the text has the remedy.
    #[error("{0}")]
    Usage(String),
    /// A file of the kernel.
    #[error("{0}{hint}", hint = hint(.0))]
    File(#[from] FileError),
    /// Standard output.
    #[error("cannot write the report")]
    Output(#[source] io::Error),
    /// A file of the user's.
    #[error("{path}: cannot {what}", path = path.display())]
    UserFile {
        /// Which.
        path: std::path::PathBuf,
        /// Read, write, …
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Of one command alone; the text has the remedy.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
    /// A signal came.
    #[error("interrupted")]
    Interrupted(u8),
}

impl From<Interrupted> for Failure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.status())
    }
}

impl Failure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Interrupted(status) => *status,
            _ => exit::FAILURE,
        }
    }
}

/// What would help, in front of the system's own words.
fn hint(error: &FileError) -> &'static str {
    if error.is_read_only() {
        " (mounted read-only here, as in a container: run hugectl on the host)"
    } else if error.is_denied() {
        " (run hugectl as root, or with CAP_SYS_ADMIN and CAP_DAC_OVERRIDE)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_depends_on_what_the_system_said() {
        let write = |kind: io::ErrorKind| {
            let source = kind.into();
            let path = "/sys/x".into();
            Failure::File(FileError::Write { path, value: "1".into(), source }).to_string()
        };
        assert!(write(io::ErrorKind::PermissionDenied).contains("as root"));
        assert!(write(io::ErrorKind::ReadOnlyFilesystem).contains("on the host"));
        assert_eq!(write(io::ErrorKind::Interrupted), "/sys/x: cannot write \"1\"");
    }
}
