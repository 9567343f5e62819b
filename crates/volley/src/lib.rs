#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
mod doctor;
pub mod log;
mod metrics;
mod pcap;
mod quick;
mod show;
mod tools;
mod trouble;
pub mod uapi;
mod wall_clock;

pub use trouble::{Trouble, WithFix};
