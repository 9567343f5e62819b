#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when nobody reads; `output` stands for stdout and stderr"
)]

pub mod cli;
pub mod config;
pub mod daemon;
mod doctor;
pub mod log;
mod metrics;
mod output;
mod pcap;
mod programs;
mod quick;
mod secrets;
mod show;
mod signals;
mod tools;
mod trouble;
pub mod uapi;
mod wall_clock;

pub use trouble::{Trouble, WithFix};
