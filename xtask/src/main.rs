//! Every developer command of Volley: `cargo xtask COMMAND`.
#![forbid(unsafe_code)]
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when nobody reads; `say!` and `tell!` do not"
)]

#[macro_use]
mod output;

mod bars;
mod bench;
mod cargo;
mod compare;
mod demo;
mod flood;
mod measure;
mod modes;
mod one_end;
mod peers;
mod profile;
mod table;
mod test;
mod tidy;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Every developer command of Volley")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the rules of the house: which crate may depend on which, where clocks and unsafe code stand, formatting.
    Tidy(tidy::Tidy),
    /// Run every test there is; name what could not run.
    Test(test::Test),
    /// Carry a gigabyte of TCP through two real daemons in each mode, and show what batching buys.
    Demo(demo::Demo),
    /// Sample both daemons in each mode, and show where their CPU time goes.
    Profile(profile::Profile),
    /// Check every inner packet of a gigabyte of mixed traffic, and every byte of coalesced TCP.
    Wire(wire::Wire),
    /// Measure Volley alone with one fast path after the other switched on, and the floor below it.
    Bench(bench::Bench),
    /// Measure Volley and every other implementation that is installed, in turn, and say whether the goals are met.
    Compare(compare::Compare),
    /// Flood a running tunnel with handshakes, and have crowds of honest clients come at once.
    Flood(flood::Flood),
    /// Measure one end of a tunnel alone, sending and receiving: what a daemon carries and costs without the other end's
    /// part in it.
    OneEnd(one_end::OneEnd),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Tidy(tidy) => tidy.run(),
        Command::Test(test) => test.run(),
        Command::Demo(demo) => demo.run(),
        Command::Profile(profile) => profile.run(),
        Command::Wire(wire) => wire.run(),
        Command::Bench(bench) => bench.run(),
        Command::Compare(compare) => compare.run(),
        Command::Flood(flood) => flood.run(),
        Command::OneEnd(one_end) => one_end.run(),
    };
    match outcome {
        Ok(()) if output::is_lost() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
