//! `volley doctor`: what Volley needs of this machine, tried out, and how to mend what is amiss.

mod checks;
mod tun;
mod udp;

use std::fmt::{self, Display};

use serde::Serialize;

use crate::{Trouble, WithFix, output};

/// What to check, and how to tell it.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// For programs.
    #[arg(long)]
    json: bool,

    /// Check that this UDP port is free, too.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

/// Checks everything and tells it.
///
/// # Errors
/// When a check fails.
pub(crate) fn run(args: &Args) -> Result<(), Trouble> {
    let report = Report::new(checks::all(args.port));
    if args.json {
        output::print(&serde_json::to_string_pretty(&report).or_trouble("cannot write JSON")?)?;
    } else {
        output::write(report.to_string().as_bytes())?;
    }
    match report.failures() {
        0 => Ok(()),
        1 => Err(Trouble::new("one check failed")),
        failures => Err(Trouble::new(format!("{failures} checks failed"))),
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    /// As it should be.
    Pass,
    /// Volley works, but slower or less conveniently than it could; or nobody may look.
    Warn,
    /// Volley does not work here.
    Fail,
}

/// One check's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    outcome: Outcome,
    found: String,
    fix: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Pass, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

/// All of them.
#[derive(Debug, Serialize)]
struct Report {
    healthy: bool,
    checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let healthy = checks.iter().all(|check| check.outcome != Outcome::Fail);
        Self { healthy, checks }
    }

    fn failures(&self) -> usize {
        self.checks.iter().filter(|check| check.outcome == Outcome::Fail).count()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for Check { name, outcome, found, fix } in &self.checks {
            let word = match outcome {
                Outcome::Pass => "PASS",
                Outcome::Warn => "WARN",
                Outcome::Fail => "FAIL",
            };
            writeln!(f, "{word}  {name:width$}  {found}")?;
            if let Some(fix) = fix {
                writeln!(f, "      {:width$}  to mend it: {fix}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Check::pass("short", "fine"),
            Check::warn("much longer", "slow", "buy a faster one"),
            Check::fail("x", "none", "get one"),
        ])
    }

    #[test]
    fn every_check_is_a_line_and_its_fix_another() {
        let expected = "\
PASS  short        fine
WARN  much longer  slow
                   to mend it: buy a faster one
FAIL  x            none
                   to mend it: get one
";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn only_failures_are_unhealthy() {
        assert!(!report().healthy);
        assert_eq!(report().failures(), 1);
        let warned = Report::new(vec![Check::warn("a", "b", "c")]);
        assert!(warned.healthy);
        assert_eq!(warned.failures(), 0);
    }

    #[test]
    fn programs_read_the_same() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["healthy"], false);
        assert_eq!(json["checks"][0]["outcome"], "pass");
        assert_eq!(json["checks"][0]["fix"], serde_json::Value::Null);
        assert_eq!(json["checks"][1]["fix"], "buy a faster one");
    }
}
