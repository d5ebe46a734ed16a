//! Copies files; see [`bookend_tools::copy`].

use std::process::ExitCode;

use bookend_tools::copy::{options::Options, run};

fn main() -> ExitCode {
    match Options::read(std::env::args_os()) {
        Ok(options) => run::run(options),
        Err(error) => error.exit(),
    }
}
