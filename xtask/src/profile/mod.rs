//! `cargo xtask profile`: where the daemons' CPU time goes, mode by mode, as `perf` sees it.

mod stacks;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use netlab::{Amount, Side, TcpPlan, TcpTransfer, Tunnel, TunnelBuilder};

use self::stacks::{Place, Tally};
use crate::{
    measure::{Machine, volley_binary},
    modes::{MODES, Mode},
    table::{Table, median},
};

/// Before the first sample: the stream has filled its window by then.
const WARM_UP: Duration = Duration::from_secs(1);
/// How much longer than the samples the stream lasts.
const TAIL: Duration = Duration::from_millis(500);
/// Fewer samples than this of both daemons say nothing.
const FEWEST_SAMPLES: u64 = 100;

/// Samples both daemons while one TCP stream runs, in each mode in turn. Needs root and `perf`.
#[derive(Args, Debug)]
pub(crate) struct Profile {
    /// Rounds, the modes taking turns in each; figures are medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of samples in each mode and round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// This daemon instead of one built here.
    #[arg(long, value_name = "FILE")]
    volley: Option<PathBuf>,
}

impl Profile {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.seconds.is_finite() && self.seconds >= 0.1, "--seconds: at least a tenth");
        let time = Duration::from_secs_f64(self.seconds);
        let volley = volley_binary(self.volley.as_deref())?;
        let machine = Machine::here()?;
        let warning = machine.warn_if_busy()?;
        let file = std::env::temp_dir().join(format!("volley-profile-{}", std::process::id()));
        let mut rounds = MODES.map(|mode| (mode, Vec::new()));
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
        let bar = ProgressBar::new(u64::from(self.rounds) * MODES.len() as u64).with_style(style);
        for _ in 0..self.rounds {
            for (mode, tallies) in &mut rounds {
                bar.set_message(mode.name);
                let tally = sample(&volley, *mode, time, &file);
                let _ = fs::remove_file(&file); // it may not be there
                tallies.push(tally.with_context(|| format!("mode {}", mode.name))?);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        say!("{}\n\n{}", machine.describe(), table(&rounds)?);
        warning.into_iter().for_each(|note| say!("{note}"));
        Ok(())
    }
}

/// Runs one stream in one mode, and samples the machine in its middle.
fn sample(volley: &Path, mode: Mode, time: Duration, file: &Path) -> Result<Tally> {
    let implementation = mode.implementation(volley);
    let tunnel = TunnelBuilder::new(&implementation, &implementation).start()?;
    let plan = TcpPlan { amount: Amount::For(WARM_UP + time + TAIL), streams: 1, verify: false };
    let stream = TcpTransfer::start(tunnel.host(Side::A), tunnel.host(Side::B), Side::B.inner_v4(), plan)?;
    thread::sleep(WARM_UP);
    record(time, file)?;
    stream.wait()?;
    let tally = Tally::of(&script(file)?, &pids(&tunnel));
    ensure!(tally.samples() >= FEWEST_SAMPLES, "only {} samples of the daemons", tally.samples());
    Ok(tally)
}

fn pids(tunnel: &Tunnel) -> [u32; 2] {
    [Side::A, Side::B].map(|side| tunnel.daemon(side).pid())
}

/// All of the machine: a daemon's system calls also run on other tasks' behalf, and the other way round.
fn record(time: Duration, file: &Path) -> Result<()> {
    let status = Command::new("perf")
        .args(["record", "--quiet", "--all-cpus", "--call-graph=fp", "--output"])
        .arg(file)
        .args(["--", "sleep", &time.as_secs_f64().to_string()])
        .stdin(Stdio::null())
        .status()
        .context("perf does not start; install it (Debian: linux-perf)")?;
    ensure!(status.success(), "perf record failed; it needs root, or kernel.perf_event_paranoid at -1");
    Ok(())
}

fn script(file: &Path) -> Result<String> {
    let output = Command::new("perf")
        .arg("script")
        .arg("--input")
        .arg(file)
        .args(["--fields", "comm,pid,ip,sym"])
        .stdin(Stdio::null())
        .output()
        .context("perf script")?;
    ensure!(output.status.success(), "perf script failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Modes across, places down: the share of all samples of both daemons.
fn table(rounds: &[(Mode, Vec<Tally>)]) -> Result<Table> {
    let names = rounds.iter().map(|(mode, _)| mode.name);
    let mut table = Table::new(["share of both daemons' CPU time, %"].into_iter().chain(names));
    for place in Place::ALL {
        let shares = rounds.iter().map(|(_, tallies)| middle(tallies, |tally| tally.share(place)));
        table.row(row(place.title(), shares.collect::<Result<Vec<_>>>()?));
    }
    let sending = |tally: &Tally| tally.share(Place::UdpSend);
    let base = middle(&rounds[0].1, sending)?;
    let ratios = rounds.iter().map(|(_, tallies)| Ok(middle(tallies, sending)? / base));
    let ratios = ratios.map(|ratio: Result<f64>| ratio.map(|ratio| format!("{ratio:.2} ×")));
    let ratios = ratios.collect::<Result<Vec<_>>>()?;
    table.row(["UDP sending, against (a)".to_owned()].into_iter().chain(ratios));
    let samples = rounds.iter().map(|(_, tallies)| tallies.iter().map(Tally::samples).sum::<u64>());
    table.row(["samples".to_owned()].into_iter().chain(samples.map(|samples| samples.to_string())));
    Ok(table)
}

fn middle(tallies: &[Tally], figure: impl Fn(&Tally) -> f64) -> Result<f64> {
    median(&tallies.iter().map(figure).collect::<Vec<_>>()).context("no rounds")
}

fn row(title: &str, shares: Vec<f64>) -> impl Iterator<Item = String> {
    let shares = shares.into_iter().map(|share| format!("{:.1}", share * 100.0));
    [title.to_owned()].into_iter().chain(shares)
}
