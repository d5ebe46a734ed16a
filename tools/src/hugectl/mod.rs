//! What `hugectl` does: one module a command, each thin over `bookend_defrag::system`.
//!
//! - [`status`]: what the machine has, and how broken up it is.
//! - [`map`]: physical memory, block by block.
//! - [`blame`]: who stands in the way.
//! - [`predict`]: how many huge pages could be had; [`reserve`] gets them, [`release`] gives them
//!   back, and compacts.
//! - [`collapse`]: huge pages for a running process; [`advise`]: settings to change; [`persist`]: a
//!   unit that reserves at boot.
//! - [`watch`]: all that as it changes; [`export`]: the same for Prometheus.
//! - [`picture`]: maps in files.
//! - [`topology`]: nodes, and the devices near each.

use std::process::ExitCode;

use bookend::os::{Linux, Os};
use bookend::units::{Node, PageSize};
use bookend_defrag::system::{Files, HugePools};
use clap::{CommandFactory, Parser, Subcommand};

use crate::cli::exit;
use crate::cli::generate::{self, What};
use crate::cli::interrupt::Interrupts;

pub mod advise;
pub mod blame;
pub mod collapse;
pub mod error;
pub mod export;
pub mod map;
pub mod persist;
pub mod picture;
pub mod predict;
pub mod release;
pub mod request;
pub mod reserve;
pub mod status;
pub mod table;
pub mod topology;
pub mod watch;

pub use error::Failure;

/// The tool's name in messages.
const TOOL: &str = "hugectl";

/// Shows where contiguous memory went and who holds it, and gets it back without a reboot.
#[derive(Debug, Parser)]
#[command(name = TOOL, version, disable_help_subcommand = true, after_help = "\
Exit status: 0 done, 1 failed, 2 bad usage, 3 done in part, 130 or 143 stopped by SIGINT or SIGTERM.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Options of `generate`.
#[derive(Clone, Debug, clap::Args)]
pub struct GenerateOptions {
    /// What to print
    #[arg(value_name = "WHAT", value_enum)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Options),
    Map(map::Options),
    Blame(blame::Options),
    Predict(predict::Options),
    Reserve(reserve::Options),
    Release(release::Options),
    Compact(release::CompactOptions),
    Collapse(collapse::Options),
    Advise(advise::Options),
    Persist(persist::Options),
    Watch(watch::Options),
    Export(export::Options),
    Topology(topology::Options),
    /// Prints the man page or the completions of a shell
    Generate(GenerateOptions),
}

/// What every command is given: the machine's files, its base page, and whether to stop.
#[derive(Clone, Debug)]
pub struct Context {
    /// The kernel's files.
    pub files: Files,
    /// The base page.
    pub base: PageSize,
    /// Being asked to stop.
    pub interrupts: Interrupts,
}

/// Runs the tool on the process's command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let interrupts = match Interrupts::note() {
        Ok(interrupts) => interrupts,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    let context = Context { files: Files::of_machine(), base: Linux.base_page_size(), interrupts };
    match run(&cli.command, &context) {
        Ok(status) => ExitCode::from(status),
        Err(error) => exit::fail(TOOL, &error, error.status()),
    }
}

/// The exit status of a command that did not fail.
fn run(command: &Command, context: &Context) -> Result<u8, Failure> {
    match command {
        Command::Status(options) => status::run(options, context),
        Command::Map(options) => map::run(options, context),
        Command::Blame(options) => blame::run(options, context),
        Command::Predict(options) => predict::run(options, context),
        Command::Reserve(options) => reserve::run(options, context),
        Command::Release(options) => release::run(options, context),
        Command::Compact(options) => release::compact(options, context),
        Command::Collapse(options) => collapse::run(options, context),
        Command::Advise(options) => advise::run(options, context),
        Command::Persist(options) => persist::run(options, context),
        Command::Watch(options) => watch::run(options, context),
        Command::Export(options) => export::run(options, context),
        Command::Topology(options) => topology::run(options, context),
        Command::Generate(options) => print_generated(options.what),
    }
}

fn print_generated(what: What) -> Result<u8, Failure> {
    match generate::generate(what, Cli::command(), &mut std::io::stdout().lock()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(exit::SUCCESS),
    }
}

/// An error where there is no such node, that says which there are.
fn check_node(files: &Files, node: Option<Node>) -> Result<(), Failure> {
    let Some(node) = node else { return Ok(()) };
    let nodes = HugePools::of(files).nodes()?;
    if nodes.contains(&node) || (nodes.is_empty() && node == Node::new(0)) {
        return Ok(());
    }
    let names: Vec<_> = nodes.iter().map(Node::to_string).collect();
    let there_are = if names.is_empty() { "0".to_owned() } else { names.join(", ") };
    Err(Failure::Usage(format!("--node {node}: no such node; this machine has {there_are}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn generated(what: What) -> String {
        let mut out = Vec::new();
        generate::generate(what, Cli::command(), &mut out).unwrap();
        String::from_utf8(out).unwrap().replace("\\-", "-")
    }

    #[test]
    fn the_man_page_and_each_shell_know_every_command_and_option() {
        for &what in What::value_variants() {
            let text = generated(what);
            let commands = Cli::command();
            for command in commands.get_subcommands() {
                assert!(text.contains(command.get_name()), "{what:?}: {command}");
                for long in command.get_arguments().filter_map(|option| option.get_long()) {
                    let spelled = match what {
                        What::Fish => format!("-l {long}"),
                        _ => format!("--{long}"),
                    };
                    assert!(text.contains(&spelled), "{what:?}: {command} {spelled}");
                }
            }
        }
    }

    #[test]
    fn the_man_page_has_a_part_for_each_command() {
        let text = generated(What::Man);
        assert_eq!(text.matches(".TH ").count(), 1);
        assert_eq!(text.matches("(1)").count(), 0, "parts are not pages");
        for part in [
            "contiguous memory went",
            ".SH \"HUGECTL RESERVE\"",
            "SIGKILL leaves the pool",
            "hugectl reserve",
        ] {
            assert!(text.contains(part), "no {part}");
        }
    }
}
