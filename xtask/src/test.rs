//! `cargo xtask test`: every test there is, and an honest account of those that could not run.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::cargo;

/// Runs everything.
#[derive(Args, Debug)]
pub(crate) struct Test {
    /// Only tests of these packages.
    #[arg(short, long)]
    package: Vec<String>,
}

/// What the harnesses said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let not_run_file = std::env::temp_dir().join(format!("volley-not-run-{}", std::process::id()));
        let _no_old_one = fs::remove_file(&not_run_file);
        let selection: Vec<_> = match &self.package[..] {
            [] => vec!["--workspace".to_owned()],
            packages => packages.iter().map(|package| format!("--package={package}")).collect(),
        };
        let mut child = cargo::cargo()
            .args(["test", "--no-fail-fast"])
            .args(selection)
            .env(netlab::NOT_RUN_FILE, &not_run_file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run cargo")?;
        let stdout = child.stdout.take().context("piped")?;
        let counting = thread::spawn(move || show_and_count(stdout, std::io::stdout()));
        let status = child.wait()?;
        let counts = counting.join().map_err(|_| anyhow!("counting panicked"))??;
        let not_run = fs::read_to_string(&not_run_file).unwrap_or_default();
        let _nothing_to_remove = fs::remove_file(&not_run_file);
        conclude(counts, &not_run, status.success())
    }
}

/// Says how it went in the last lines, the counts last of all.
fn conclude(counts: Counts, not_run: &str, cargo_succeeded: bool) -> Result<()> {
    let require_all = std::env::var(netlab::REQUIRE_ALL).as_deref() == Ok("1");
    let skipped = not_run.lines().count() as u64 + counts.ignored;
    if skipped > 0 {
        println!("\n{skipped} NOT RUN:\n{not_run}");
        if counts.ignored > 0 {
            println!("NOT RUN: {} that their source tells cargo to ignore", counts.ignored);
        }
    }
    println!("{} passed, {} failed, {skipped} not run", counts.passed, counts.failed);
    if !cargo_succeeded || counts.failed > 0 {
        bail!("tests failed");
    }
    if counts.passed == 0 {
        bail!("no test ran");
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
        assert!(conclude(passed, "", true).is_ok());
        assert!(conclude(passed, "", false).is_err());
        assert!(conclude(Counts { failed: 1, ..passed }, "", true).is_err());
        assert!(conclude(Counts::default(), "", true).is_err());
    }
}
