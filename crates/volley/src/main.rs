//! The Volley daemon and its tools. Everything is in the library, where it can be tested.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    volley::cli::main()
}
