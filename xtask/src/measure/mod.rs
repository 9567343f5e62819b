//! What `compare` and `bench` share: the cases, how they are run in rounds, and what is made of the figures.

mod case;
mod ladder;
mod machine;
mod results;
mod rounds;

pub(crate) use case::{Case, Metric, Settings};
pub(crate) use machine::Machine;
pub(crate) use results::{Better, Results};
pub(crate) use rounds::{Column, Underlay, estimate, run_rounds};
