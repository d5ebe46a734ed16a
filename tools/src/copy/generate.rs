//! The man page and the shell completions, made from the definition of the command line.

use std::io;

use clap::ValueEnum;
use clap_complete::Shell;

use super::options;

/// What `--generate` prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum What {
    /// The man page, hugecp(1)
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

/// Writes `what` to `out`.
///
/// # Errors
/// What writing fails with.
pub fn generate(what: What, out: &mut dyn io::Write) -> io::Result<()> {
    let shell = match what {
        What::Man => return clap_mangen::Man::new(options::command()).render(out),
        What::Bash => Shell::Bash,
        What::Zsh => Shell::Zsh,
        What::Fish => Shell::Fish,
    };
    // The generator panics where writing fails; a buffer does not.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut options::command(), "hugecp", &mut text);
    out.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
