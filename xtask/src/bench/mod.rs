//! `cargo xtask bench`: Volley alone, one fast path after the other switched on, and the floor below it.

mod floor;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use netlab::Implementation;

use self::{floor::Floor, report::Report};
use crate::{
    cargo,
    measure::{Case, Column, Machine, Underlay, chart, estimate, plan, run_rounds, to_json, volley_binary},
    modes::MODES,
};

/// Measures Volley in each mode in turn, and what encryption and system calls alone cost.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// Rounds, the modes taking turns in each; figures are medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these cases.
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
    /// Only these modes, by their letters.
    #[arg(long, value_delimiter = ',', value_name = "LETTER")]
    modes: Vec<char>,
    /// Seconds for each TCP and ping case; a rung of a UDP ladder takes a third of it, at most 1 s.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// One round of half a second each, shown and not written: whether it works, not how well.
    #[arg(long)]
    quick: bool,
    /// Measure this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    volley: Option<PathBuf>,
    /// Where the table and the chart go; by default docs/bench, or nowhere when quick or not everything is measured.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write every sample as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One column: a mode, and the link it runs over.
struct Stage {
    name: &'static str,
    /// The letter of the stage that it adds something to.
    adds_to: Option<char>,
    arguments: &'static [&'static str],
    underlay: Underlay,
}

/// The first three are the demo's. Then each edge adds its part, and last the same over other links.
fn stages() -> Vec<Stage> {
    let [one, seed, gro, _] = MODES.map(|mode| (mode.name, mode.arguments));
    let tun_in = (
        "(d) … and super-packets read",
        &["--batch=50", "--no-tun-coalesce", "--no-sched-batch", "--arrangement=tun-threads"][..],
    );
    let tun_out = ("(e) … and written", &["--batch=50", "--no-sched-batch", "--arrangement=tun-threads"][..]);
    let inline = ("(f) … in one loop", &["--batch=50", "--no-sched-batch", "--arrangement=inline"][..]);
    let all = &["--batch=50", "--arrangement=inline"][..];
    let (plain, v6) = (Underlay::Plain, Underlay::V6);
    [
        (one, None, plain),
        (seed, Some('a'), plain),
        (gro, Some('b'), plain),
        (tun_in, Some('c'), plain),
        (tun_out, Some('d'), plain),
        (inline, Some('e'), plain),
        (("(g) … in batch scheduling", all), Some('f'), plain),
        (("(h) as (g), IPv6 outside", all), Some('g'), v6),
        (("(i) as (g), link cuts trains", all), Some('g'), Underlay::Cut),
        (("(j) as (i), receiver joins", all), Some('i'), Underlay::CutAndJoined),
    ]
    .into_iter()
    .map(|((name, arguments), adds_to, underlay)| Stage { name, adds_to, arguments, underlay })
    .collect()
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        let (rounds, settings) = plan(self.rounds, self.seconds, self.quick)?;
        let cases = if self.cases.is_empty() { Case::all() } else { self.cases.clone() };
        let stages = self.chosen(stages())?;
        let volley = volley_binary(self.volley.as_deref())?;
        netlab::enter_user_namespace()?;
        let machine = Machine::here()?;
        let columns: Vec<_> = stages.iter().map(|stage| stage.column(&volley)).collect();
        tell!("About {} minutes …", estimate(columns.len(), &cases, rounds, &settings).as_secs() / 60 + 1);

        let warning = machine.warn_if_busy()?;
        let mut floors = Vec::new();
        let mut results = run_rounds(&columns, &cases, rounds, &settings, || {
            floors.push(Floor::measure().context("the floor")?);
            Ok(())
        })?;
        warning.into_iter().for_each(|note| results.note(note));
        let floor = Floor::median(&floors).context("no rounds")?;
        let report =
            Report { machine: &machine, results: &results, floor, stages: &stages, rounds, settings };
        say!("{}", report.text());
        if let Some(folder) = self.folder() {
            write(&folder, &report)?;
        }
        if let Some(file) = &self.json {
            fs::write(file, to_json(&machine, &results, rounds, settings.time)?)
                .with_context(|| file.display().to_string())?;
        }
        ensure!(
            results.notes().iter().all(|note| !note.starts_with("round ")),
            "cases failed; see the notes"
        );
        Ok(())
    }

    fn chosen(&self, stages: Vec<Stage>) -> Result<Vec<Stage>> {
        let letters: Vec<char> = stages.iter().map(Stage::letter).collect();
        let unknown = self.modes.iter().find(|letter| !letters.contains(letter));
        ensure!(unknown.is_none(), "there is no mode {:?}, only {letters:?}", unknown.unwrap_or(&' '));
        let wanted = |stage: &Stage| self.modes.is_empty() || self.modes.contains(&stage.letter());
        Ok(stages.into_iter().filter(wanted).collect())
    }

    /// Half a measurement should not replace a whole one.
    fn folder(&self) -> Option<PathBuf> {
        let whole = !self.quick && self.cases.is_empty() && self.modes.is_empty();
        self.out.clone().or_else(|| whole.then(|| cargo::root().join("docs/bench")))
    }
}

impl Stage {
    fn column(&self, volley: &Path) -> Column {
        Column::new(Implementation::volley(volley, self.arguments).named(self.name)).over(self.underlay)
    }

    fn letter(&self) -> char {
        self.name.chars().nth(1).unwrap_or('?')
    }
}

fn write(folder: &Path, report: &Report<'_>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (name, text) in
        [("README.md", report.markdown()), ("ablation.svg", chart::draw(report.results, |_| true)?)]
    {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        tell!("Wrote {}", file.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_a_letter_of_its_own() {
        let letters: String = stages().iter().map(Stage::letter).collect();
        assert_eq!(letters, "abcdefghij");
    }
}
