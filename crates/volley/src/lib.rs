#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod daemon;
mod doctor;
pub mod log;
mod metrics;
mod quick;
mod show;
mod tools;
mod trouble;
pub mod uapi;

pub use trouble::{Trouble, WithFix};
