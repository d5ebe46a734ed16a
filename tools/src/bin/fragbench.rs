//! fragbench: measures what is contiguous. Everything is in [`bookend_tools::fragbench`].

use std::process::ExitCode;

fn main() -> ExitCode {
    bookend_tools::fragbench::main()
}
