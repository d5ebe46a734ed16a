//! hugecp's man page and shell completions.

use std::io;

use super::options;
use crate::cli::generate;
pub use crate::cli::generate::What;

/// Writes `what` to `out`.
///
/// # Errors
/// What writing fails with.
pub fn generate(what: What, out: &mut dyn io::Write) -> io::Result<()> {
    generate::generate(what, options::command(), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn text(what: What) -> String {
        let mut out = Vec::new();
        generate(what, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_knows_every_long_option() {
        for what in What::value_variants() {
            // In a man page, a minus sign is escaped.
            let text = text(*what).replace("\\-", "-");
            for option in options::command().get_arguments() {
                let Some(long) = option.get_long() else { continue };
                let shown = !option.is_hide_set();
                let spelled = match what {
                    What::Fish => format!("-l {long}"),
                    _ => format!("--{long}"),
                };
                assert!(!shown || text.contains(&spelled), "{what:?} lacks {spelled}");
            }
        }
    }

    #[test]
    fn the_man_page_has_the_notes_and_the_three_forms() {
        let text = text(What::Man).replace("\\-", "-");
        for part in [".TH hugecp 1", "SRC... DIR", "-t DIR SRC", "SIGUSR1", "Exit status"] {
            assert!(text.contains(part), "no {part}:\n{text}");
        }
    }
}
