//! Standard output, where the reader may have gone away.
//!
//! Rust ignores SIGPIPE and `println!` panics on a closed pipe; these return an error instead. A
//! pipe closed by its reader (`fragbench … | head -1`) is no failure of ours and counts as written.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

/// Writes `line` and a newline to standard output.
///
/// # Errors
/// What writing failed with (a full disk, say), but for a closed pipe.
pub fn line(line: impl fmt::Display) -> io::Result<()> {
    forgive_closed_pipe(write(|out| writeln!(out, "{line}")))
}

/// Writes `value` as one line of JSON to standard output.
///
/// # Errors
/// As [`line()`].
pub fn json(value: &impl Serialize) -> io::Result<()> {
    forgive_closed_pipe(write(|out| {
        serde_json::to_writer(&mut *out, value)?;
        out.write_all(b"\n")
    }))
}

fn write(body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    body(&mut out)?;
    out.flush()
}

fn forgive_closed_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_pipe_is_forgiven() {
        let error = |kind| Err(io::Error::from(kind));
        assert!(forgive_closed_pipe(error(io::ErrorKind::BrokenPipe)).is_ok());
        assert!(forgive_closed_pipe(error(io::ErrorKind::StorageFull)).is_err());
    }
}
