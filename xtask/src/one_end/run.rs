//! The rounds: a ladder of rates for each daemon and row in turn.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use netlab::{FULL_TRAIN, Incoming, InnerProtocol, Measured, OneEnd, OneEndPlan, Outgoing, Placement};

use super::{
    contestant::Contestant,
    row::{Metric, Row, Work},
};
use crate::measure::{Ladder, Results, Rung, Subject, progress};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Of one rung.
    pub(super) time: Duration,
    /// What may be sealed beforehand, bytes.
    pub(super) memory: usize,
}

/// The first climb, in inner bits per second: from what everybody carries.
const FIRST: Ladder = Ladder { start: 1e9, lowest: 20e6, climb: 2.0 };
/// In later rounds about where the limit is known: the climb starts this far below it, in small steps.
const BELOW: f64 = 0.85;
const STEP: f64 = 1.12;

/// What each thread of a daemon takes, processors, at the full rate.
pub(super) type Threads = BTreeMap<(Row, usize, String), Vec<f64>>;

impl Settings {
    /// About how long [`run_rounds`] takes.
    pub(super) fn estimate(&self, contestants: usize, rows: &[Row], rounds: u32) -> Duration {
        /// Rungs of the first round's ladders, second chances and the half load included, and of later ones'.
        const RUNGS: (u32, u32) = (14, 8);
        /// What comes on top of each rung: sealing, and waiting for the last packet.
        const BESIDE: Duration = Duration::from_millis(350);
        /// Starting a daemon, and a handshake.
        const START: (Duration, Duration) = (Duration::from_millis(700), Duration::from_millis(3));
        let ends = ends(rows).keys().map(|&(_, peers)| START.0 + START.1 * peers as u32).sum::<Duration>();
        let rungs = (RUNGS.0 + RUNGS.1 * (rounds - 1)) * rows.len() as u32;
        ((self.time + BESIDE) * rungs + ends * rounds) * contestants as u32
    }
}

/// The rows by what can be shared between them: processors and peers.
fn ends(rows: &[Row]) -> BTreeMap<(usize, usize), Vec<Row>> {
    let mut ends: BTreeMap<_, Vec<_>> = BTreeMap::new();
    rows.iter().for_each(|row| ends.entry((row.cores, row.peers())).or_default().push(*row));
    ends
}

/// Measures everybody in every round. What fails is noted and left out; the rest goes on.
pub(super) fn run_rounds(
    contestants: &[Contestant],
    rows: &[Row],
    rounds: u32,
    settings: &Settings,
) -> Result<(Results<Row, Metric>, Threads)> {
    let mut results = Results::new(contestants.iter().map(Contestant::name));
    let mut threads = Threads::new();
    let mut known: BTreeMap<(usize, Row), f64> = BTreeMap::new();
    let ends = ends(rows);
    let bar = progress(u64::from(rounds) * contestants.len() as u64 * rows.len() as u64)?;
    for round in 1..=rounds {
        // Daemons take turns at each end, not at all of them: what is compared lies close together in time.
        for (&(cores, peers), rows) in &ends {
            for (column, contestant) in contestants.iter().enumerate() {
                let name = contestant.name();
                bar.set_message(format!("round {round}, {name}: {peers} peers, {cores} cores"));
                let mut end = match start(contestant, cores, peers) {
                    Ok(end) => end,
                    Err(error) => {
                        results.note(format!("round {round}: {name}: {error:#}"));
                        bar.inc(rows.len() as u64);
                        continue;
                    }
                };
                for &row in rows {
                    let limit = known.get(&(column, row)).copied();
                    let outcome = measure(limit, |rate| {
                        bar.set_message(format!(
                            "round {round}, {name} {}: {:.2} Gbit/s",
                            row.title(),
                            rate / 1e9
                        ));
                        attempt(&mut end, row, rate, settings)
                    });
                    match outcome {
                        Ok(Found { full, half }) => {
                            known.insert((column, row), full.throughput());
                            add(&mut results, &mut threads, column, row, &full, &half);
                        }
                        Err(error) => {
                            results.note(format!("round {round}: {name} {}: {error:#}", row.title()));
                        }
                    }
                    bar.inc(1);
                }
            }
        }
    }
    bar.finish_and_clear();
    Ok((results, threads))
}

fn start(contestant: &Contestant, cores: usize, peers: usize) -> Result<OneEnd> {
    OneEnd::start(&OneEndPlan {
        implementation: contestant.implementation.clone(),
        peers,
        placement: Some(Placement::cores(cores)?),
        cipher: contestant.cipher,
    })
}

fn attempt(end: &mut OneEnd, row: Row, rate: f64, settings: &Settings) -> Result<Measured> {
    let time = settings.time;
    match row.work {
        Work::Send(protocol) => end.send(&Outgoing { protocol, train: FULL_TRAIN, peers: 1, rate, time }),
        Work::SendInTurn { train, peers } => {
            let (protocol, train) = (InnerProtocol::Udp, train.packets());
            end.send(&Outgoing { protocol, train, peers, rate, time })
        }
        Work::Receive(protocol) => end.receive(&Incoming { protocol, rate, time, memory: settings.memory }),
    }
}

/// A daemon at its limit, and at half of it.
struct Found {
    full: Measured,
    half: Measured,
}

/// Finds the limit, from what was found before if anything was.
fn measure(limit: Option<f64>, mut attempt: impl FnMut(f64) -> Result<Measured>) -> Result<Found> {
    let ladder = match limit {
        None => FIRST,
        Some(limit) => Ladder { start: limit * BELOW, climb: STEP, ..FIRST },
    };
    let found = ladder.highest_rate(|rate| {
        let measured = attempt(rate)?;
        let rung = Rung {
            offered: rate,
            sent: measured.offered(),
            delivered: measured.throughput(),
            loss: measured.loss(),
        };
        Ok((rung, measured))
    })?;
    let (_, full) = found.context("packets are lost at every rate")?;
    let half = attempt(full.throughput() / 2.0)?;
    Ok(Found { full, half })
}

fn add(
    results: &mut Results<Row, Metric>,
    threads: &mut Threads,
    column: usize,
    row: Row,
    full: &Measured,
    half: &Measured,
) {
    for (metric, value) in [
        (Metric::Gbps, full.throughput() / 1e9),
        (Metric::CpuPerGb, full.cpu_per_gb()),
        (Metric::CpuPerGbHalf, half.cpu_per_gb()),
        (Metric::Cores, full.cores()),
        (Metric::LoadCores, full.load_cores()),
    ] {
        results.add(column, row, metric, value);
    }
    for (thread, used) in &full.thread_cpu {
        let cores = used.as_secs_f64() / full.carrying.as_secs_f64();
        threads.entry((row, column, thread.clone())).or_default().push(cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_end::row::Case;

    /// A daemon that carries up to `capacity` bits per second, a second long each time.
    fn daemon(capacity: f64, rates: &mut Vec<f64>) -> impl FnMut(f64) -> Result<Measured> {
        move |rate| {
            rates.push(rate);
            let packets = |rate: f64| (rate / (1_420.0 * 8.0)) as u64;
            let second = Duration::from_secs(1);
            Ok(Measured {
                sent: packets(rate),
                carried: packets(rate.min(capacity)),
                sending: second,
                carrying: second,
                daemon_cpu: second.mul_f64(rate.min(capacity) / capacity),
                ..Measured::default()
            })
        }
    }

    #[test]
    fn the_limit_is_found_and_then_half_of_it_offered() {
        for capacity in [0.3e9, 4.5e9, 23e9] {
            let mut rates = Vec::new();
            let Found { full, half } = measure(None, daemon(capacity, &mut rates)).unwrap();
            let found = full.throughput();
            assert!(found > capacity * 0.95 && found <= capacity, "{found} of {capacity}");
            assert!((half.throughput() - found / 2.0).abs() < 1e5);
            assert!(rates.len() <= 16, "{rates:?}");
        }
    }

    #[test]
    fn where_the_limit_was_found_before_less_is_tried() {
        for change in [0.8, 1.0, 1.3] {
            let mut rates = Vec::new();
            let Found { full, .. } = measure(Some(5e9), daemon(5e9 * change, &mut rates)).unwrap();
            assert!(full.throughput() > 5e9 * change * 0.95);
            assert!(rates.iter().all(|&rate| rate > 1e9) && rates.len() <= 10, "{rates:?}");
        }
    }

    #[test]
    fn rows_share_a_daemon_that_has_as_many_peers_and_processors() {
        let rows = Row::all(&[Case::SendTcp, Case::ReceiveTcp, Case::Peers], &[1, 2]);
        let ends = ends(&rows);
        assert_eq!(
            ends.keys().copied().collect::<Vec<_>>(),
            [(1, 1), (1, 100), (1, 1_000), (2, 1), (2, 100), (2, 1_000)]
        );
        assert_eq!(ends[&(1, 1)].len(), 2 + 3);
        assert!(ends[&(2, 100)].iter().all(|row| row.title().contains("100 peers, 2 cores")));
    }
}
