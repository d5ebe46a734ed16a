//! Man pages and shell completions, made from the definition of a command line.

use std::io;

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

/// What `--generate` prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum What {
    /// The man page
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

/// Writes `what` of `command` to `out`; a man page has a part for each of its subcommands.
///
/// # Errors
/// What writing fails with.
pub fn generate(what: What, mut command: Command, out: &mut dyn io::Write) -> io::Result<()> {
    let shell = match what {
        What::Man => return man(command, out),
        What::Bash => Shell::Bash,
        What::Zsh => Shell::Zsh,
        What::Fish => Shell::Fish,
    };
    let name = command.get_name().to_owned();
    // The generator panics where writing fails; a buffer does not.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    out.write_all(&text)
}

fn man(mut command: Command, out: &mut dyn io::Write) -> io::Result<()> {
    command.build(); // so that subcommands know what they are part of
    let parts: Vec<_> = command.get_subcommands().filter(|part| !part.is_hide_set()).collect();
    let parts: Vec<_> = parts.into_iter().cloned().collect();
    let name = command.get_name().replace('-', "\\-");
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for part in &parts {
        // They have no pages of their own.
        let part = part.get_name().replace('-', "\\-");
        text = text.replace(&format!("{name}\\-{part}(1)"), &format!("{name} {part}"));
    }
    out.write_all(text.as_bytes())?;
    parts.into_iter().try_for_each(|part| man_part(part, out))
}

/// A subcommand: its sections one level lower.
fn man_part(command: Command, out: &mut dyn io::Write) -> io::Result<()> {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_uppercase();
    let after = command.get_after_help().or(command.get_after_long_help()).is_some();
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if after {
        man.render_extra_section(&mut text)?;
    }
    let text = String::from_utf8_lossy(&text).replace(".SH ", ".SS ");
    write!(out, ".SH \"{name}\"\n{text}")
}
