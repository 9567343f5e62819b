//! `cargo xtask compare`: Volley beside every other userspace WireGuard that is installed, on equal terms.

mod proof;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use netlab::Implementation;

use self::proof::verdicts;
use crate::{
    measure::{
        Case, Column, Machine, Results, Settings, chart, estimate, plan, run_rounds, to_json, volley_binary,
    },
    peers::{Peer, known_peers},
};

/// Measures Volley and every other implementation in turn, all with their default settings over the same link.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// Rounds, the implementations taking turns in each; figures are medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these cases.
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
    /// One more implementation, by the command that runs it in the foreground: name='command {iface}'.
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    peers: Vec<Peer>,
    /// Only these of the implementations that are looked for (wireguard-go, boringtun-cli, gotatun). Each must be there.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Seconds for each TCP and ping case; a rung of a UDP ladder takes a third of it, at most 1 s.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// One round of half a second each: whether it works, not how well.
    #[arg(long)]
    quick: bool,
    /// Measure this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    volley: Option<PathBuf>,
    /// Write every sample as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown, too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw the main figures as SVG, such as docs/bench/compare.svg, which the README shows.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

impl Compare {
    pub(crate) fn run(&self) -> Result<()> {
        let (rounds, settings) = plan(self.rounds, self.seconds, self.quick)?;
        let cases = if self.cases.is_empty() { Case::all() } else { self.cases.clone() };
        let known = known_peers(&self.only)?;
        let volley = volley_binary(self.volley.as_deref())?;
        netlab::enter_user_namespace()?;
        let machine = Machine::here()?;

        let mut columns = vec![Column::new(Implementation::volley(&volley, &[]))];
        columns.extend(known.found.into_iter().map(Column::new));
        columns.extend(self.peers.iter().map(|peer| Column::new(peer.implementation.clone())));
        ensure_distinct(&columns)?;
        if columns.len() == 1 {
            bail!("there is nothing to compare with: {}; or name one with --peer", known.missing.join("; "));
        }
        known.missing.iter().for_each(|missing| tell!("NOT COMPARED: {missing}"));
        tell!("About {} minutes …", estimate(columns.len(), &cases, rounds, &settings).as_secs() / 60 + 1);

        let warning = machine.warn_if_busy()?;
        let mut results = run_rounds(&columns, &cases, rounds, &settings, || Ok(()))?;
        known.missing.into_iter().chain(warning).for_each(|note| results.note(note));
        let report = report(&machine, &results, rounds, &settings);
        say!("{report}");
        if let Some(file) = &self.markdown {
            fs::write(file, &report).with_context(|| file.display().to_string())?;
        }
        if let Some(file) = &self.chart {
            fs::write(file, chart::draw(&results, |column| column == 0)?)
                .with_context(|| file.display().to_string())?;
        }
        if let Some(file) = &self.json {
            fs::write(file, to_json(&machine, &results, rounds, settings.time)?)
                .with_context(|| file.display().to_string())?;
        }
        let volley_complete =
            results.rows().iter().all(|&(case, metric)| results.median(0, case, metric).is_some());
        ensure!(volley_complete, "volley itself failed in a case; see the notes");
        Ok(())
    }
}

/// Two columns of one name could not be told apart.
fn ensure_distinct(columns: &[Column]) -> Result<()> {
    for (number, column) in columns.iter().enumerate() {
        let earlier = columns[..number].iter().any(|other| other.name == column.name);
        ensure!(
            !earlier,
            "two implementations are called {:?}: give one another name with --peer",
            column.name
        );
    }
    Ok(())
}

fn report(machine: &Machine, results: &Results, rounds: u32, settings: &Settings) -> String {
    let mut report = format!(
        "{}\n\nMedians of {rounds} interleaved rounds of {:.1} s; in brackets how many times better volley is; \
         spread is the widest (max − min) / median of a row.\n\n{}",
        machine.describe(),
        settings.time.as_secs_f64(),
        results.table(Some(0))
    );
    report.push('\n');
    verdicts(results).iter().for_each(|verdict| report.push_str(&format!("{verdict}\n")));
    results.notes().iter().for_each(|note| report.push_str(&format!("NOTE {note}\n")));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_one_name_are_refused() {
        let column = || Column::new(Implementation::template("volley", "x {iface}").unwrap());
        assert!(ensure_distinct(&[column()]).is_ok());
        assert!(ensure_distinct(&[column(), column()]).is_err());
    }
}
