//! The cases: one kind of traffic each, and what it gives to know.

use std::{fmt, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use netlab::{
    Amount, PingReport, Side, TcpPlan, TcpReport, TcpTransfer, Tunnel, UdpPlan, ping_for, udp_stream,
};
use serde::Serialize;

use super::{
    ladder::{Ladder, Rung},
    results::{Better, Figure, Subject},
};

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// One TCP stream.
    Tcp1,
    /// Eight TCP streams at once.
    Tcp8,
    /// One TCP stream the other way.
    TcpRev,
    /// One TCP stream each way at the same time.
    TcpBidir,
    /// One TCP stream over IPv6 inside the tunnel.
    Tcp6,
    /// The highest rate of 64-byte UDP payloads with less than 1 % lost.
    Udp64,
    /// The same with 512 bytes.
    Udp512,
    /// The same with packets of 1,400 bytes.
    Udp1400,
    /// Round-trip times of an idle tunnel.
    Ping,
    /// Round-trip times beside a TCP stream.
    PingLoad,
    /// Memory after eight streams each way.
    Rss,
}

/// What is read off a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Metric {
    /// TCP payload, 10⁹ bits per second.
    Gbps,
    /// The whole machine's busy CPU seconds per 10⁹ bytes of TCP payload, generators and kernel included.
    MachineCpuPerGb,
    /// The same of the two daemons' processes alone.
    DaemonCpuPerGb,
    /// UDP datagrams per second that arrived.
    PacketsPerSecond,
    /// Median round-trip time, microseconds.
    P50,
    /// 99th percentile of round-trip times, microseconds; an unanswered ping counts as one second.
    P99,
    /// The larger daemon's peak resident memory, 2²⁰ bytes.
    PeakRss,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Of one TCP or ping case.
    pub(crate) time: Duration,
    /// Of one rung of a rate ladder.
    pub(crate) rung: Duration,
}

/// Between pings. Short enough for a p99 from a few seconds, long enough that one does not wait for another.
const PING_INTERVAL: Duration = Duration::from_millis(5);
/// Pings beside TCP start when its window has opened.
const WARM_UP: Duration = Duration::from_millis(500);
/// What a lost ping counts for in percentiles.
pub(crate) const LOST: Duration = Duration::from_secs(1);

impl Subject for Case {
    fn title(&self) -> String {
        let title = match self {
            Self::Tcp1 => "TCP, 1 stream",
            Self::Tcp8 => "TCP, 8 streams",
            Self::TcpRev => "TCP, 1 stream, reverse",
            Self::TcpBidir => "TCP, both ways",
            Self::Tcp6 => "TCP over IPv6 inside",
            Self::Udp64 => "UDP, 64 bytes",
            Self::Udp512 => "UDP, 512 bytes",
            Self::Udp1400 => "UDP, packets of 1,400",
            Self::Ping => "ping, idle",
            Self::PingLoad => "ping under TCP",
            Self::Rss => "memory under load",
        };
        title.to_owned()
    }
}

impl Case {
    /// Every case. Memory comes last, so that it shows what the others left.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// About how long it takes, for the estimate.
    pub(crate) fn takes(self, settings: &Settings) -> Duration {
        /// A climb, the halvings, second chances, and the wait for stragglers at each rung.
        const RUNGS: u32 = 13;
        match self {
            Self::Udp64 | Self::Udp512 | Self::Udp1400 => {
                (settings.rung + Duration::from_millis(350)) * RUNGS
            }
            _ => settings.time + WARM_UP,
        }
    }

    /// Runs it in a tunnel.
    ///
    /// # Errors
    /// When the tunnel fails. Losses are no error but where nothing arrives at all.
    pub(crate) fn run(self, tunnel: &Tunnel, settings: &Settings) -> Result<Vec<(Metric, f64)>> {
        match self {
            Self::Tcp1 => tcp(tunnel, settings, &[Flow { from: Side::A, v6: false, streams: 1 }]),
            Self::Tcp8 => tcp(tunnel, settings, &[Flow { from: Side::A, v6: false, streams: 8 }]),
            Self::TcpRev => tcp(tunnel, settings, &[Flow { from: Side::B, v6: false, streams: 1 }]),
            Self::TcpBidir => tcp(tunnel, settings, &both_ways(1)),
            Self::Tcp6 => tcp(tunnel, settings, &[Flow { from: Side::A, v6: true, streams: 1 }]),
            Self::Udp64 => udp_ladder(tunnel, settings, 64),
            Self::Udp512 => udp_ladder(tunnel, settings, 512),
            // The packet is 1,400 bytes: as a payload that would be fragmented at an MTU of 1420.
            Self::Udp1400 => udp_ladder(tunnel, settings, 1400 - 28),
            Self::Ping => {
                let report = round_trips(tunnel, settings.time)?;
                ensure!(report.received() > 0, "no ping was answered");
                Ok(percentiles(&report))
            }
            Self::PingLoad => round_trips_under_load(tunnel, settings),
            Self::Rss => memory(tunnel, settings),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no case is hidden").get_name())
    }
}

impl Figure for Metric {
    fn title(self) -> &'static str {
        match self {
            Self::Gbps => "Gbit/s",
            Self::MachineCpuPerGb => "CPU s/GB, machine",
            Self::DaemonCpuPerGb => "CPU s/GB, daemons",
            Self::PacketsPerSecond => "packets/s",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::PeakRss => "peak RSS MiB",
        }
    }

    fn better(self) -> Better {
        match self {
            Self::Gbps | Self::PacketsPerSecond => Better::Higher,
            _ => Better::Lower,
        }
    }

    fn format(self, value: f64) -> String {
        match self {
            Self::PacketsPerSecond | Self::P50 | Self::P99 => format!("{value:.0}"),
            Self::PeakRss => format!("{value:.1}"),
            Self::Gbps | Self::MachineCpuPerGb | Self::DaemonCpuPerGb => format!("{value:.2}"),
        }
    }
}

/// Streams one way.
#[derive(Clone, Copy, Debug)]
struct Flow {
    from: Side,
    v6: bool,
    streams: usize,
}

const fn both_ways(streams: usize) -> [Flow; 2] {
    [Flow { from: Side::A, v6: false, streams }, Flow { from: Side::B, v6: false, streams }]
}

impl Flow {
    fn start(self, tunnel: &Tunnel, time: Duration) -> Result<TcpTransfer> {
        let to = self.from.other();
        let address = if self.v6 { to.inner_v6() } else { to.inner_v4() };
        let plan = TcpPlan { amount: Amount::For(time), streams: self.streams, verify: false };
        TcpTransfer::start(tunnel.host(self.from), tunnel.host(to), address, plan)
    }
}

fn tcp(tunnel: &Tunnel, settings: &Settings, flows: &[Flow]) -> Result<Vec<(Metric, f64)>> {
    let before = Cpu::used(tunnel)?;
    let reports = transfer(tunnel, settings.time, flows)?;
    let after = Cpu::used(tunnel)?;
    let rate: f64 = reports.iter().map(TcpReport::bits_per_second).sum();
    let bytes: u64 = reports.iter().map(|report| report.bytes).sum();
    ensure!(bytes > 0, "no byte arrived");
    let per_gb = |used: Duration| used.as_secs_f64() / (bytes as f64 / 1e9);
    Ok(vec![
        (Metric::Gbps, rate / 1e9),
        (Metric::MachineCpuPerGb, per_gb(after.machine - before.machine)),
        (Metric::DaemonCpuPerGb, per_gb(after.daemons - before.daemons)),
    ])
}

fn transfer(tunnel: &Tunnel, time: Duration, flows: &[Flow]) -> Result<Vec<TcpReport>> {
    let transfers: Vec<_> = flows.iter().map(|flow| flow.start(tunnel, time)).collect::<Result<_>>()?;
    transfers.into_iter().map(TcpTransfer::wait).collect()
}

/// CPU time used so far.
struct Cpu {
    machine: Duration,
    daemons: Duration,
}

impl Cpu {
    fn used(tunnel: &Tunnel) -> Result<Self> {
        let daemon = |side| netlab::process_cpu(tunnel.daemon(side).pid());
        Ok(Self { machine: netlab::machine_busy()?, daemons: daemon(Side::A)? + daemon(Side::B)? })
    }
}

fn udp_ladder(tunnel: &Tunnel, settings: &Settings, size: usize) -> Result<Vec<(Metric, f64)>> {
    let (from, to) = (tunnel.host(Side::A), tunnel.host(Side::B));
    let best = Ladder::DATAGRAMS.highest_rate(|offered| {
        let plan = UdpPlan { size, rate: offered as u64, duration: settings.rung };
        let report = udp_stream(from, to, Side::B.inner_v4(), plan)?;
        let sent = report.sent_rate();
        Ok((Rung { offered, sent, delivered: sent * (1.0 - report.loss()), loss: report.loss() }, ()))
    })?;
    let (best, ()) = best.context("datagrams are lost at every rate")?;
    Ok(vec![(Metric::PacketsPerSecond, best.delivered)])
}

fn round_trips(tunnel: &Tunnel, time: Duration) -> Result<PingReport> {
    ping_for(tunnel.host(Side::A), Side::B.inner_v4(), time, PING_INTERVAL)
}

fn round_trips_under_load(tunnel: &Tunnel, settings: &Settings) -> Result<Vec<(Metric, f64)>> {
    // The stream outlives the pings, even if the last one is late.
    let time = WARM_UP + settings.time + PING_INTERVAL * 2;
    let load = Flow { from: Side::A, v6: false, streams: 1 }.start(tunnel, time)?;
    thread::sleep(WARM_UP);
    let report = round_trips(tunnel, settings.time)?;
    load.wait()?;
    Ok(percentiles(&report))
}

fn percentiles(report: &PingReport) -> Vec<(Metric, f64)> {
    let percentile = |percent| report.percentile_of_sent(percent).unwrap_or(LOST).as_secs_f64() * 1e6;
    vec![(Metric::P50, percentile(50)), (Metric::P99, percentile(99))]
}

fn memory(tunnel: &Tunnel, settings: &Settings) -> Result<Vec<(Metric, f64)>> {
    transfer(tunnel, settings.time, &both_ways(8))?;
    let peak = |side| netlab::process_memory(tunnel.daemon(side).pid()).map(|memory| memory.peak);
    let larger = peak(Side::A)?.max(peak(Side::B)?);
    Ok(vec![(Metric::PeakRss, larger as f64 / f64::from(1 << 20))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_last() {
        assert_eq!(Case::all().last(), Some(&Case::Rss));
    }

    #[test]
    fn cases_are_named_as_the_command_line_has_them() {
        let names: Vec<_> = Case::all().iter().map(Case::to_string).collect();
        let expected = "tcp1 tcp8 tcp-rev tcp-bidir tcp6 udp64 udp512 udp1400 ping ping-load rss";
        assert_eq!(names.join(" "), expected);
    }
}
