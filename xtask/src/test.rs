//! `cargo xtask test`: every test there is, the daemon's again in each environment, and an honest account of those
//! that could not run.

mod environments;
mod features;
mod loom;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::Stdio,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use netlab::Environment;

use crate::{cargo, output};

/// Runs everything.
#[derive(Args, Debug)]
pub(crate) struct Test {
    /// Only tests of these packages.
    #[arg(short, long)]
    package: Vec<String>,
}

/// What a developer runs for a few hundred seeds is run for so many when everything is: minutes on two cores.
const SEEDS: &str = "10000";
/// Where seeded tests look for how many (`seeds::Seeds::variable`).
const SEEDED: [&str; 2] = ["VOLLEY_SIMULATION_SEEDS", "VOLLEY_ORACLE_SEEDS"];

/// One call of `cargo test`.
struct Pass {
    name: String,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

/// What the harnesses said, and what the tests wrote down.
#[derive(Debug, Default)]
struct Run {
    name: String,
    counts: Counts,
    not_run: Vec<String>,
    not_applying: Vec<String>,
    succeeded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let selection: Vec<_> = match &self.package[..] {
            [] => vec!["--workspace".to_owned()],
            packages => packages.iter().map(|package| format!("--package={package}")).collect(),
        };
        let all = self.package.is_empty();
        if all {
            say!("== features\n");
            features::check()?;
        }
        let mut runs = vec![Run::of(Pass::once(&selection, all))?];
        if all || self.package.iter().any(|package| package == "volley") {
            for environment in Environment::ALL {
                runs.push(Run::of(Pass::again(&selection, environment)?)?);
            }
        }
        if all {
            runs.push(Run::of(loom::pass()?)?);
        }
        conclude(&runs)
    }
}

impl Pass {
    /// With [`SEEDS`], unless somebody has set another number or chosen a few packages.
    fn once(selection: &[String], all: bool) -> Self {
        let seeded = SEEDED.iter().filter(|variable| all && std::env::var_os(variable).is_none());
        let variables = seeded.map(|variable| (*variable, SEEDS.to_owned())).collect();
        Self { name: "everything, once".to_owned(), arguments: selection.to_vec(), variables }
    }

    /// The same selection, so that cargo need not build anything again.
    fn again(selection: &[String], environment: Environment) -> Result<Self> {
        let tests = environments::repeated(environment)?.into_iter().map(|test| format!("--test={test}"));
        let arguments = selection.iter().cloned().chain(tests).collect();
        let mut variables = vec![(netlab::ENVIRONMENT, environment.name().to_owned())];
        variables.extend(environments::variables(environment));
        Ok(Self { name: environment.name().to_owned(), arguments, variables })
    }
}

impl Run {
    fn of(pass: Pass) -> Result<Self> {
        say!("\n== {}\n", pass.name);
        let (not_run, not_applying) = (Notes::new("not-run"), Notes::new("does-not-apply"));
        let mut cargo = cargo::cargo();
        cargo.args(["test", "--no-fail-fast"]).args(&pass.arguments);
        cargo.env_remove(netlab::ENVIRONMENT).envs(pass.variables);
        cargo.env(netlab::NOT_RUN_FILE, &not_run.file).env(netlab::DOES_NOT_APPLY_FILE, &not_applying.file);
        let mut child =
            cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let stdout = child.stdout.take().context("piped")?;
        let counting = thread::spawn(move || show_and_count(stdout, output::Results));
        let succeeded = child.wait()?.success();
        let mut counts = counting.join().map_err(|_| anyhow!("counting panicked"))??;
        let (not_run, not_applying) = (not_run.read(), not_applying.read());
        // To the harness, a test that has nothing to test has passed.
        counts.passed = counts.passed.saturating_sub(not_applying.len() as u64);
        Ok(Self { name: pass.name, counts, not_run, not_applying, succeeded })
    }

    fn skipped(&self) -> u64 {
        self.not_run.len() as u64 + self.counts.ignored
    }
}

/// A file to which tests append lines.
struct Notes {
    file: PathBuf,
}

impl Notes {
    fn new(kind: &str) -> Self {
        let file = std::env::temp_dir().join(format!("volley-{kind}-{}", std::process::id()));
        let _no_old_one = fs::remove_file(&file);
        Self { file }
    }

    fn read(self) -> Vec<String> {
        let lines = fs::read_to_string(&self.file).unwrap_or_default();
        let _nothing_to_remove = fs::remove_file(&self.file);
        lines.lines().map(str::to_owned).collect()
    }
}

/// Says how it went in the last lines, the counts last of all.
fn conclude(runs: &[Run]) -> Result<()> {
    let require_all = std::env::var(netlab::REQUIRE_ALL).as_deref() == Ok("1");
    let sum = |count: fn(&Run) -> u64| runs.iter().map(count).sum::<u64>();
    let skipped = sum(Run::skipped);
    if skipped > 0 {
        say!("\n{skipped} NOT RUN:");
        runs.iter().flat_map(|run| &run.not_run).for_each(|line| say!("{line}"));
        let ignored = sum(|run| run.counts.ignored);
        if ignored > 0 {
            say!("NOT RUN: {ignored} that their source tells cargo to ignore");
        }
    }
    let not_applying = sum(|run| run.not_applying.len() as u64);
    if not_applying > 0 {
        say!("\n{not_applying} DO NOT APPLY, because the environment changes the contract:");
        runs.iter().flat_map(|run| &run.not_applying).for_each(|line| say!("{line}"));
    }
    say!();
    for run in runs {
        let Counts { passed, failed, .. } = run.counts;
        let (skipped, not_applying) = (run.skipped(), run.not_applying.len());
        say!(
            "{}: {passed} passed, {failed} failed, {skipped} not run, {not_applying} do not apply",
            run.name
        );
    }
    let failed = sum(|run| run.counts.failed);
    say!("{} passed, {failed} failed, {skipped} not run", sum(|run| run.counts.passed));
    if failed > 0 || runs.iter().any(|run| !run.succeeded) {
        bail!("tests failed");
    }
    if let Some(run) = runs.iter().find(|run| run.counts.passed == 0) {
        bail!("no test ran: {}", run.name);
    }
    if require_all && skipped > 0 {
        bail!("{skipped} tests did not run, and {}=1", netlab::REQUIRE_ALL);
    }
    Ok(())
}

/// Copies the output through and adds up its `test result:` lines.
fn show_and_count(output: impl Read, mut shown: impl Write) -> Result<Counts> {
    let mut total = Counts::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        shown.write_all(&line)?;
        shown.write_all(b"\n")?;
        if let Some(counts) = parse_result(&String::from_utf8_lossy(&line)) {
            total.passed += counts.passed;
            total.failed += counts.failed;
            total.ignored += counts.ignored;
        }
    }
    Ok(total)
}

/// `test result: ok. 21 passed; 0 failed; 0 ignored; …`
fn parse_result(line: &str) -> Option<Counts> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        let field = rest.split(';').find_map(|field| field.trim().strip_suffix(name))?;
        field.trim().parse().ok()
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 2 tests\ntest a ... ok\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
        test result: FAILED. 3 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";

    #[test]
    fn results_of_all_harnesses_add_up() {
        let mut shown = Vec::new();
        let counts = show_and_count(OUTPUT.as_bytes(), &mut shown).unwrap();
        assert_eq!(shown, OUTPUT.as_bytes());
        assert_eq!(counts, Counts { passed: 5, failed: 1, ignored: 4 });
    }

    #[test]
    fn failures_and_empty_runs_are_errors() {
        let passed = Counts { passed: 5, ..Counts::default() };
        let run = |counts, succeeded| Run { counts, succeeded, ..Run::default() };
        assert!(conclude(&[run(passed, true)]).is_ok());
        assert!(conclude(&[run(passed, false)]).is_err());
        assert!(conclude(&[run(Counts { failed: 1, ..passed }, true)]).is_err());
        assert!(conclude(&[run(passed, true), run(Counts::default(), true)]).is_err());
    }
}
