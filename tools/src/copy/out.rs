//! Where `hugecp` writes what it has to say.

use std::fmt::Display;

use crate::cli::output;

/// Where results go: standard output, unless that carries the data.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// To standard error instead.
    pub aside: bool,
}

impl Out {
    /// Writes a line.
    ///
    /// # Errors
    /// What writing says.
    pub fn line(self, line: impl Display) -> std::io::Result<()> {
        if self.aside {
            eprintln_quietly(&line);
            Ok(())
        } else {
            output::line(line)
        }
    }

    /// Writes an object on one line.
    ///
    /// # Errors
    /// What writing says.
    pub fn json(self, value: &impl serde::Serialize) -> std::io::Result<()> {
        if !self.aside {
            return output::json(value);
        }
        let text = serde_json::to_string(value)?;
        eprintln_quietly(&text);
        Ok(())
    }
}

fn eprintln_quietly(line: &impl Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}"); // nobody may be listening
}
