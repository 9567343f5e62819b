//! What is measured of a daemon: the rows of the tables, and what is read off each.

use clap::ValueEnum;
use netlab::{FULL_TRAIN, InnerProtocol};
use serde::{Serialize, Serializer};

use crate::measure::{Better, Figure, Subject};

/// What the command line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// Sending TCP super-packets to one peer.
    SendTcp,
    /// Sending trains of UDP datagrams to one peer.
    SendUdp,
    /// Receiving the packets of a TCP stream from one peer.
    ReceiveTcp,
    /// Receiving UDP datagrams from one peer.
    ReceiveUdp,
    /// Sending UDP to 1, 100 and 1,000 peers in turn, in trains of 45, of 16 and lone packets.
    Peers,
}

/// What the daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Sends full trains to one peer.
    Send(InnerProtocol),
    /// Receives full trains from one peer.
    Receive(InnerProtocol),
    /// Sends UDP to peers in turn.
    SendInTurn { train: Train, peers: usize },
}

/// What a peer gets when it is its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Train {
    Full,
    Short,
    Lone,
}

/// One row: the work, and on how many processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) work: Work,
    pub(super) cores: usize,
}

/// The ladder over peers.
const PEERS: [usize; 3] = [1, 100, 1_000];
const TRAINS: [Train; 3] = [Train::Full, Train::Short, Train::Lone];

impl Train {
    pub(super) const fn packets(self) -> usize {
        match self {
            Self::Full => FULL_TRAIN,
            Self::Short => 16,
            Self::Lone => 1,
        }
    }

    fn title(self) -> String {
        match self {
            Self::Lone => "lone packets".to_owned(),
            _ => format!("trains of {}", self.packets()),
        }
    }
}

impl Case {
    fn work(self) -> Vec<Work> {
        match self {
            Self::SendTcp => vec![Work::Send(InnerProtocol::Tcp)],
            Self::SendUdp => vec![Work::Send(InnerProtocol::Udp)],
            Self::ReceiveTcp => vec![Work::Receive(InnerProtocol::Tcp)],
            Self::ReceiveUdp => vec![Work::Receive(InnerProtocol::Udp)],
            Self::Peers => TRAINS
                .into_iter()
                .flat_map(|train| PEERS.map(|peers| Work::SendInTurn { train, peers }))
                .collect(),
        }
    }
}

impl Row {
    /// The rows of these cases on each of these numbers of processors. No case stands for all with one peer.
    pub(super) fn all(cases: &[Case], cores: &[usize]) -> Vec<Self> {
        let one_peer = [Case::SendTcp, Case::SendUdp, Case::ReceiveTcp, Case::ReceiveUdp];
        let cases = if cases.is_empty() { &one_peer } else { cases };
        let work = cases.iter().flat_map(|case| case.work());
        let mut rows: Vec<_> =
            work.flat_map(|work| cores.iter().map(move |&cores| Self { work, cores })).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// How many peers the daemon has.
    pub(super) const fn peers(self) -> usize {
        match self.work {
            Work::Send(_) | Work::Receive(_) => 1,
            Work::SendInTurn { peers, .. } => peers,
        }
    }
}

impl Subject for Row {
    fn title(&self) -> String {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let name = |protocol| if protocol == InnerProtocol::Tcp { "TCP" } else { "UDP" };
        let work = match self.work {
            Work::Send(protocol) => format!("sends {}", name(protocol)),
            Work::Receive(protocol) => format!("receives {}", name(protocol)),
            Work::SendInTurn { train, peers } => {
                format!("sends {} to {peers} peer{}", train.title(), plural(peers))
            }
        };
        format!("{work}, {} core{}", self.cores, plural(self.cores))
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.title())
    }
}

/// What is read off a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Metric {
    /// Inner packets' bits with less than 1 % lost, 10⁹ per second.
    Gbps,
    /// The daemon's CPU seconds per 10⁹ inner bytes at that rate.
    CpuPerGb,
    /// The same at half of that rate.
    CpuPerGbHalf,
    /// Processors that the daemon keeps busy at the full rate.
    Cores,
    /// Processors that the load generator keeps busy meanwhile.
    LoadCores,
}

impl Figure for Metric {
    fn title(self) -> &'static str {
        match self {
            Self::Gbps => "Gbit/s",
            Self::CpuPerGb => "CPU s/GB",
            Self::CpuPerGbHalf => "CPU s/GB, half load",
            Self::Cores => "cores busy",
            Self::LoadCores => "cores for the load",
        }
    }

    fn better(self) -> Better {
        if self == Self::Gbps { Better::Higher } else { Better::Lower }
    }

    fn format(self, value: f64) -> String {
        match self {
            Self::Gbps | Self::Cores | Self::LoadCores => format!("{value:.2}"),
            Self::CpuPerGb | Self::CpuPerGbHalf => format!("{value:.3}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cases_by_processors_each_once() {
        let titles = |cases: &[Case], cores: &[usize]| -> Vec<_> {
            Row::all(cases, cores).iter().map(Subject::title).collect()
        };
        assert_eq!(
            titles(&[Case::ReceiveUdp, Case::SendTcp, Case::SendTcp], &[1, 2]),
            ["sends TCP, 1 core", "sends TCP, 2 cores", "receives UDP, 1 core", "receives UDP, 2 cores"]
        );
        assert_eq!(titles(&[], &[1]).len(), 4);
        let peers = titles(&[Case::Peers], &[2]);
        assert_eq!(peers.len(), 9);
        assert_eq!(peers[0], "sends trains of 45 to 1 peer, 2 cores");
        for title in ["sends lone packets to 1 peer, 2 cores", "sends trains of 45 to 1000 peers, 2 cores"] {
            assert!(peers.iter().any(|other| other == title), "{peers:?}");
        }
    }
}
