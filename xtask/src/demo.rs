//! `cargo xtask demo`: what batching buys, on this machine, in under a minute.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use netlab::{KernelCounters, Side, TcpPlan, TcpTransfer, Tunnel, TunnelBuilder};

use crate::{
    cargo,
    modes::{MODES, Mode, UdpCounters, udp_counters},
    table::{Table, median},
};

const GIB: u64 = 1 << 30;
/// How often the bar moves.
const FRAME: Duration = Duration::from_millis(100);

/// Carries TCP through two real daemons in each mode.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// GiB of TCP through each mode, over all rounds.
    #[arg(long, default_value_t = 1.0)]
    gib: f64,
    /// Rounds, the modes taking turns in each; figures are medians.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// This daemon instead of one built here.
    #[arg(long, value_name = "PATH")]
    volley: Option<PathBuf>,
}

/// One mode, one round.
#[derive(Clone, Copy, Debug)]
struct Round {
    bytes: u64,
    seconds: f64,
    daemon_cpu: f64,
    /// The sending side's own counters.
    ours: UdpCounters,
    /// The kernel's count of UDP sends of the same host.
    kernel_sends: u64,
    /// The kernel's count of UDP deliveries at the other: single datagrams if that one does no GRO.
    kernel_deliveries: u64,
}

impl Demo {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.rounds > 0 && self.gib > 0.0, "nothing to do");
        let volley = self.volley.clone().map_or_else(cargo::build_volley, Ok)?;
        netlab::enter_user_namespace()?;
        let bytes = (self.gib * GIB as f64 / f64::from(self.rounds)).ceil() as u64;
        let bars = Bars::new(bytes * u64::from(self.rounds));
        let mut results: Vec<(Mode, Vec<Round>)> = MODES.map(|mode| (mode, Vec::new())).into();
        for _ in 0..self.rounds {
            for (number, (mode, rounds)) in results.iter_mut().enumerate() {
                let round = carry(&volley, *mode, bytes, &bars.modes[number])
                    .with_context(|| format!("mode {}", mode.name))?;
                bars.note(number, &round);
                rounds.push(round);
            }
        }
        bars.finish();
        report(&results)
    }
}

/// One bar per mode, filled a part in each round.
struct Bars {
    modes: Vec<ProgressBar>,
}

impl Bars {
    fn new(bytes: u64) -> Self {
        let style = ProgressStyle::with_template("{prefix:27} {bar:32} {bytes:>10} of {total_bytes} {msg}")
            .expect("a valid template");
        let all = MultiProgress::new();
        let bar =
            |mode: &Mode| all.add(ProgressBar::new(bytes)).with_style(style.clone()).with_prefix(mode.name);
        Self { modes: MODES.iter().map(bar).collect() }
    }

    /// Bars are for terminals; a log gets a line for each round.
    fn note(&self, number: usize, round: &Round) {
        if let Some(bar) = self.modes.get(number).filter(|bar| bar.is_hidden()) {
            let rate = round.bytes as f64 * 8.0 / round.seconds / 1e9;
            say!("{}: {rate:.2} Gbit/s, {} bytes verified", bar.prefix(), round.bytes);
        }
    }

    fn finish(&self) {
        self.modes.iter().for_each(ProgressBar::abandon);
    }
}

/// Starts both daemons, sends `bytes` from one end to the other, and takes the readings around it.
fn carry(volley: &Path, mode: Mode, bytes: u64, bar: &ProgressBar) -> Result<Round> {
    let implementation = mode.implementation(volley);
    let tunnel = TunnelBuilder::new(&implementation, &implementation).start()?;
    let (a, b) = (tunnel.host(Side::A), tunnel.host(Side::B));
    let before = Reading::take(&tunnel)?;
    let transfer = TcpTransfer::start(a, b, Side::B.inner_v4(), TcpPlan::bytes(bytes))?;
    let already = bar.position();
    while !transfer.is_finished() {
        bar.set_position(already + transfer.received());
        thread::sleep(FRAME);
    }
    let report = transfer.wait()?;
    bar.set_position(already + report.bytes);
    bar.set_message(format!("{:.2} Gbit/s, bytes verified", report.bits_per_second() / 1e9));
    let after = Reading::take(&tunnel)?;
    let sent = after.sent.since(&before.sent);
    let delivered = after.delivered.since(&before.delivered);
    Ok(Round {
        bytes: report.bytes,
        seconds: report.elapsed.as_secs_f64(),
        daemon_cpu: (after.daemon_cpu - before.daemon_cpu).as_secs_f64(),
        ours: UdpCounters {
            sends: after.ours.sends - before.ours.sends,
            datagrams_sent: after.ours.datagrams_sent - before.ours.datagrams_sent,
        },
        kernel_sends: sent.udp_sends(),
        kernel_deliveries: delivered.udp_deliveries(),
    })
}

/// Everything read before and after.
struct Reading {
    daemon_cpu: Duration,
    ours: UdpCounters,
    sent: KernelCounters,
    delivered: KernelCounters,
}

impl Reading {
    fn take(tunnel: &Tunnel) -> Result<Self> {
        let cpu = |side| netlab::process_cpu(tunnel.daemon(side).pid());
        Ok(Self {
            daemon_cpu: cpu(Side::A)? + cpu(Side::B)?,
            ours: udp_counters(tunnel, Side::A)?,
            sent: tunnel.host(Side::A).kernel_counters()?,
            delivered: tunnel.host(Side::B).kernel_counters()?,
        })
    }
}

fn report(results: &[(Mode, Vec<Round>)]) -> Result<()> {
    let mut table = Table::new([
        "mode",
        "Gbit/s",
        "against (a)",
        "CPU s per GB, both daemons",
        "datagrams per send call",
        "UDP send calls per GB",
        "kernel's count",
    ]);
    let mut first = None;
    for (mode, rounds) in results {
        let middle = |figure: &dyn Fn(&Round) -> f64| {
            median(&rounds.iter().map(figure).collect::<Vec<_>>()).context("no rounds")
        };
        let per_gb = |count: f64, round: &Round| count / (round.bytes as f64 / 1e9);
        let rate = middle(&|round| round.bytes as f64 * 8.0 / round.seconds / 1e9)?;
        let base = *first.get_or_insert(rate);
        table.row([
            mode.name.to_owned(),
            format!("{rate:.2}"),
            format!("{:.2} ×", rate / base),
            format!("{:.2}", middle(&|round| per_gb(round.daemon_cpu, round))?),
            format!(
                "{:.1}",
                middle(&|round| round.ours.datagrams_sent as f64 / round.ours.sends.max(1) as f64)?
            ),
            format!("{:.0}", middle(&|round| per_gb(round.ours.sends as f64, round))?),
            format!("{:.0}", middle(&|round| per_gb(round.kernel_sends as f64, round))?),
        ]);
    }
    say!("\n{table}");
    let total: u64 = results.iter().flat_map(|(_, rounds)| rounds).map(|round| round.bytes).sum();
    say!("{:.2} GiB carried, every byte compared with the one sent.", total as f64 / GIB as f64);
    results.iter().try_for_each(|(mode, rounds)| rounds.iter().try_for_each(|round| cross_check(mode, round)))
}

/// Our counters must agree with the kernel's: sends with sends; datagrams, where the far side takes them one
/// by one, with deliveries. Handshakes and keepalives between two readings are the tolerance.
fn cross_check(mode: &Mode, round: &Round) -> Result<()> {
    let agree = |ours: u64, kernel: u64| ours.abs_diff(kernel) as f64 <= 16.0 + ours as f64 * 0.01;
    if !agree(round.ours.sends, round.kernel_sends) {
        bail!("{}: we count {} sends, the kernel {}", mode.name, round.ours.sends, round.kernel_sends);
    }
    let singly = mode.arguments.contains(&"--no-udp-gro");
    if singly && !agree(round.ours.datagrams_sent, round.kernel_deliveries) {
        bail!(
            "{}: we count {} datagrams sent, the kernel delivered {}",
            mode.name,
            round.ours.datagrams_sent,
            round.kernel_deliveries
        );
    }
    Ok(())
}
