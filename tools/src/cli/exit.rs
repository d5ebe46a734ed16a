//! How a tool ends.

use std::fmt;
use std::process::ExitCode;

/// Everything asked for was done.
pub const SUCCESS: u8 = 0;
/// Something asked for could not be done; standard error says what.
pub const FAILURE: u8 = 1;
/// The command line makes no sense; nothing was tried. (clap exits with the same.)
pub const USAGE: u8 = 2;
/// Some of what was asked for was done, and the rest cannot be; the report says why.
pub const PARTLY: u8 = 3;
/// Ended by SIGINT: 128 + 2, as shells report it.
pub const INTERRUPTED: u8 = 130;
/// Ended by SIGTERM: 128 + 15.
pub const TERMINATED: u8 = 143;

/// Prints `tool: error`, and the chain of causes that the message does not already tell, on
/// standard error; gives the exit code of `status`.
pub fn fail(tool: &str, error: &dyn std::error::Error, status: u8) -> ExitCode {
    complain(tool, &with_causes(error));
    ExitCode::from(status)
}

/// Prints `tool: message` on standard error, which may be closed: there is no one left to tell.
pub fn complain(tool: &str, message: &dyn fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{tool}: {message}");
}

/// Prints a remark on standard error, for whoever watches: no failure, and no part of the output.
pub fn remark(message: &dyn fmt::Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// An error and its causes, colon by colon; a cause that the text so far ends with is not repeated.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot open x")]
        Silent(#[source] io::Error),
        #[error("cannot open x: {0}")]
        Telling(#[source] io::Error),
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::other("no luck");
        assert_eq!(with_causes(&Outer::Silent(cause())), "cannot open x: no luck");
        assert_eq!(with_causes(&Outer::Telling(cause())), "cannot open x: no luck");
    }
}
