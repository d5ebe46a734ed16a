//! hugectl: shows where contiguity went, and wins it back. Everything is in
//! [`bookend_tools::hugectl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    bookend_tools::hugectl::main()
}
