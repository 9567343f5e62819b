//! Interleaved rounds: A B C A B C …, a fresh tunnel for each, so that a slow minute hurts all alike.

use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use netlab::{Implementation, Side, Tunnel, TunnelBuilder};

use super::{
    case::{Case, Settings},
    results::Results,
};

/// What is measured against others: an implementation, and what it runs over.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) implementation: Implementation,
    pub(crate) underlay: Underlay,
}

/// The link below the tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Underlay {
    /// IPv4 over a veth pair that passes UDP super-packets whole, as it is made.
    #[default]
    Plain,
    /// IPv6 over the same.
    V6,
    /// IPv4 over a veth pair with `tx-udp-segmentation off`: trains are cut before they cross, as on a wire.
    Cut,
    /// The same, and the receiving end joins them again (GRO), as the driver of a network card does.
    CutAndJoined,
}

impl Column {
    pub(crate) fn new(implementation: Implementation) -> Self {
        let name = implementation.name().to_owned();
        Self { name, implementation, underlay: Underlay::Plain }
    }

    pub(crate) fn over(mut self, underlay: Underlay) -> Self {
        self.underlay = underlay;
        self
    }

    fn start(&self) -> Result<Tunnel> {
        let builder = TunnelBuilder::new(&self.implementation, &self.implementation);
        let features: &[(&str, bool)] = match self.underlay {
            Underlay::Plain => &[],
            Underlay::V6 => return builder.over_v6().start(),
            Underlay::Cut => &[("tx-udp-segmentation", false)],
            // veth leaves GRO out for senders that have TSO, but for UDP sockets when forwarding is on.
            Underlay::CutAndJoined => {
                &[("tx-udp-segmentation", false), ("rx-gro", true), ("rx-udp-gro-forwarding", true)]
            }
        };
        let tunnel = builder.start()?;
        for host in [Side::A, Side::B].map(|side| tunnel.host(side)) {
            features.iter().try_for_each(|(name, on)| host.set_feature(Tunnel::LINK, name, *on))?;
        }
        Ok(tunnel)
    }
}

/// Measures every column in every round. What fails is noted and left out; the rest goes on.
pub(crate) fn run_rounds(
    columns: &[Column],
    cases: &[Case],
    rounds: u32,
    settings: &Settings,
    mut between: impl FnMut() -> Result<()>,
) -> Result<Results> {
    let mut cases = cases.to_vec();
    cases.sort_unstable();
    cases.dedup();
    let mut results = Results::new(columns.iter().map(|column| column.name.as_str()));
    let steps = u64::from(rounds) * columns.len() as u64 * cases.len() as u64;
    let bar = progress(steps)?;
    for round in 1..=rounds {
        for (number, column) in columns.iter().enumerate() {
            let tunnel = column.start().with_context(|| column.name.clone());
            let tunnel = match tunnel {
                Ok(tunnel) => tunnel,
                Err(error) => {
                    results.note(format!("round {round}: {error:#}"));
                    bar.inc(cases.len() as u64);
                    continue;
                }
            };
            for &case in &cases {
                bar.set_message(format!("round {round}, {}, {case}", column.name));
                match case.run(&tunnel, settings) {
                    Ok(figures) => {
                        figures
                            .into_iter()
                            .for_each(|(metric, value)| results.add(number, case, metric, value));
                    }
                    Err(error) => results.note(format!("round {round}: {}: {case}: {error:#}", column.name)),
                }
                bar.inc(1);
            }
        }
        between()?;
    }
    bar.finish_and_clear();
    Ok(results)
}

/// About how long [`run_rounds`] takes.
pub(crate) fn estimate(columns: usize, cases: &[Case], rounds: u32, settings: &Settings) -> Duration {
    let tunnel: Duration = cases.iter().map(|case| case.takes(settings)).sum();
    tunnel * rounds * columns as u32
}

pub(crate) fn progress(steps: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    Ok(ProgressBar::new(steps).with_style(style))
}
