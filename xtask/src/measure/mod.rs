//! What `compare` and `bench` share: the cases, how they are run in rounds, and what is made of the figures.

mod case;
pub(crate) mod chart;
mod ladder;
mod machine;
mod results;
mod rounds;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::cargo;

pub(crate) use case::{Case, LOST, Metric, Settings};
pub(crate) use ladder::{Ladder, Rung};
pub(crate) use machine::Machine;
pub(crate) use results::{Better, Figure, Results, Subject};
pub(crate) use rounds::{Column, Underlay, estimate, progress, run_rounds};

/// The binary that the command line names, or a fresh one.
pub(crate) fn volley_binary(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => path.canonicalize().with_context(|| path.display().to_string()),
        None => cargo::build_volley(),
    }
}

/// The rounds and times that the command line asks for.
pub(crate) fn plan(rounds: u32, seconds: f64, quick: bool) -> Result<(u32, Settings)> {
    ensure!(seconds.is_finite() && seconds >= 0.1, "--seconds: at least a tenth");
    let (rounds, seconds) = if quick { (1, 0.5) } else { (rounds, seconds) };
    let time = Duration::from_secs_f64(seconds);
    Ok((rounds, Settings { time, rung: (time / 3).min(Duration::from_secs(1)) }))
}

/// Every sample and what it was measured on.
pub(crate) fn to_json<C: Subject, M: Figure>(
    machine: &Machine,
    results: &Results<C, M>,
    rounds: u32,
    time: Duration,
) -> Result<String> {
    let value = serde_json::json!({
        "machine": machine,
        "rounds": rounds,
        "seconds": time.as_secs_f64(),
        "columns": results.columns(),
        "notes": results.notes(),
        "series": results.series()?,
    });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_one_short_round_whatever_else_is_asked() {
        let (rounds, settings) = plan(7, 10.0, true).unwrap();
        assert_eq!((rounds, settings.time), (1, Duration::from_millis(500)));
        assert!(plan(1, 0.0, false).is_err() && plan(1, f64::NAN, false).is_err());
    }

    #[test]
    fn a_rung_is_never_longer_than_a_second() {
        assert_eq!(plan(1, 30.0, false).unwrap().1.rung, Duration::from_secs(1));
        assert_eq!(plan(1, 1.5, false).unwrap().1.rung, Duration::from_millis(500));
    }
}
