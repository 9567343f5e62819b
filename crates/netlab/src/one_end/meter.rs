//! What was carried and what it cost: the interfaces' counters and the scheduler's account.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use encrypt::DATA_OVERHEAD;

use super::frames::{InnerProtocol, PACKET_LEN};
use crate::{account, clock, link::InterfaceCounters};

/// A data message of a full packet: the payload of each datagram on the link.
pub(super) const DATAGRAM_LEN: usize = PACKET_LEN + DATA_OVERHEAD;
/// Ethernet, IPv4 and UDP: an interface counts them once for each datagram or train.
const OUTER_HEADERS: u64 = 14 + 20 + 8;
/// Between two looks at whether all has been carried.
const POLL: Duration = Duration::from_millis(1);
/// Nothing was carried for so long, and all of the daemon slept: the rest is lost.
const QUIET: Duration = Duration::from_millis(40);
/// On a busy machine a daemon may wait for a processor, but not for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Inner packets that the load consisted of.
    pub sent: u64,
    /// Inner packets that the daemon carried.
    pub carried: u64,
    /// How long they were being sent.
    pub sending: Duration,
    /// How long they were being carried: until the last one was.
    pub carrying: Duration,
    /// The daemon's CPU time.
    pub daemon_cpu: Duration,
    /// The same for its threads, by their names.
    pub thread_cpu: BTreeMap<String, Duration>,
    /// The load generator's CPU time.
    pub load_cpu: Duration,
}

impl Measured {
    /// The share that was not carried.
    pub fn loss(&self) -> f64 {
        self.sent.saturating_sub(self.carried) as f64 / self.sent.max(1) as f64
    }

    /// Inner bits per second that were sent.
    pub fn offered(&self) -> f64 {
        bits(self.sent) / self.sending.as_secs_f64()
    }

    /// Inner bits per second that were carried.
    pub fn throughput(&self) -> f64 {
        bits(self.carried) / self.carrying.as_secs_f64()
    }

    /// CPU seconds of the daemon per 10⁹ inner bytes.
    pub fn cpu_per_gb(&self) -> f64 {
        self.daemon_cpu.as_secs_f64() / (bits(self.carried) / 8.0) * 1e9
    }

    /// The processors that the daemon kept busy.
    pub fn cores(&self) -> f64 {
        self.daemon_cpu.as_secs_f64() / self.carrying.as_secs_f64()
    }

    /// The processors that the load kept busy while it was sent.
    pub fn load_cores(&self) -> f64 {
        self.load_cpu.as_secs_f64() / self.sending.as_secs_f64()
    }
}

fn bits(packets: u64) -> f64 {
    packets as f64 * PACKET_LEN as f64 * 8.0
}

/// One load after the other, the pauses between them left out.
impl AddAssign for Measured {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.carried += other.carried;
        self.sending += other.sending;
        self.carrying += other.carrying;
        self.daemon_cpu += other.daemon_cpu;
        self.load_cpu += other.load_cpu;
        for (thread, used) in other.thread_cpu {
            *self.thread_cpu.entry(thread).or_default() += used;
        }
    }
}

/// Where a daemon's packets are counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    /// On the link, sealed.
    Leaving,
    /// Where the tunnel's interface hands them to the kernel.
    Delivered(InnerProtocol),
}

/// Reads everything about one daemon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    pub(super) daemon: u32,
    pub(super) interface: &'static str,
    pub(super) counted: Counted,
}

/// One reading.
pub(super) struct Reading {
    at: Instant,
    carried: u64,
    daemon_cpu: Duration,
    thread_cpu: BTreeMap<String, Duration>,
    load_cpu: Duration,
}

impl Meter {
    pub(super) fn read(&self) -> Result<Reading> {
        let counters = InterfaceCounters::of_process(self.daemon, self.interface)?;
        Ok(Reading {
            carried: self.counted.packets(&counters),
            at: clock::now(),
            daemon_cpu: account::process_cpu(self.daemon)?,
            thread_cpu: account::thread_cpu(self.daemon)?,
            load_cpu: account::own_cpu()?,
        })
    }

    /// Waits until all that was `sent` since `start` is carried or lost. `end` is when the last of it was sent.
    pub(super) fn settle(&self, start: &Reading, sent: u64, end: Reading) -> Result<Measured> {
        let (sending, load_cpu) = (end.at - start.at, end.load_cpu - start.load_cpu);
        let mut last = end;
        let mut asleep_since = last.at;
        while last.carried - start.carried < sent {
            thread::sleep(POLL);
            let counters = InterfaceCounters::of_process(self.daemon, self.interface)?;
            if self.counted.packets(&counters) != last.carried {
                last = self.read()?;
                asleep_since = last.at;
            } else if !account::is_asleep(self.daemon)? {
                asleep_since = clock::now();
            }
            if asleep_since.elapsed() > QUIET || last.at.elapsed() > PATIENCE {
                break;
            }
        }
        let thread_cpu = last.thread_cpu.into_iter().map(|(thread, used)| {
            let before = start.thread_cpu.get(&thread).copied().unwrap_or_default();
            (thread, used.saturating_sub(before))
        });
        Ok(Measured {
            sent,
            carried: (last.carried - start.carried).min(sent),
            sending,
            carrying: last.at - start.at,
            daemon_cpu: last.daemon_cpu - start.daemon_cpu,
            thread_cpu: thread_cpu.collect(),
            load_cpu,
        })
    }
}

impl Counted {
    /// Full packets among what an interface counted. A train or super-packet counts as one packet, with one set of
    /// headers; handshakes and keepalives are a fraction of one.
    fn packets(self, counters: &InterfaceCounters) -> u64 {
        let payload = |bytes: u64, packets: u64, headers: u64| bytes.saturating_sub(packets * headers);
        match self {
            Self::Leaving => {
                payload(counters.tx_bytes, counters.tx_packets, OUTER_HEADERS) / DATAGRAM_LEN as u64
            }
            Self::Delivered(inner) => {
                payload(counters.rx_bytes, counters.rx_packets, inner.header_len() as u64)
                    / inner.payload_len() as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_whether_they_cross_alone_or_in_trains() {
        // Two lone datagrams, a train of 45, and a keepalive.
        let counters = InterfaceCounters {
            tx_bytes: 2 * (42 + 1_452) + 42 + 45 * 1_452 + 42 + 32,
            tx_packets: 4,
            ..InterfaceCounters::default()
        };
        assert_eq!(Counted::Leaving.packets(&counters), 47);
        // The same, delivered as two packets and one super-packet.
        let counters = InterfaceCounters {
            rx_bytes: 2 * 1_420 + 40 + 45 * 1_380,
            rx_packets: 3,
            ..InterfaceCounters::default()
        };
        assert_eq!(Counted::Delivered(InnerProtocol::Tcp).packets(&counters), 47);
    }

    #[test]
    fn figures_are_of_inner_packets() {
        let second = Duration::from_secs(1);
        let mut measured = Measured {
            sent: 100_000,
            carried: 99_000,
            sending: second,
            carrying: second,
            daemon_cpu: second / 2,
            thread_cpu: BTreeMap::from([("one".to_owned(), second / 2)]),
            load_cpu: second / 4,
        };
        for _ in 0..2 {
            assert!((measured.loss() - 0.01).abs() < 1e-9);
            assert!((measured.throughput() - 99_000.0 * 1_420.0 * 8.0).abs() < 1.0);
            assert!((measured.offered() - 100_000.0 * 1_420.0 * 8.0).abs() < 1.0);
            assert!((measured.cpu_per_gb() - 0.5 / 0.140_58).abs() < 1e-9);
            assert!((measured.cores() - 0.5).abs() < 1e-9 && (measured.load_cores() - 0.25).abs() < 1e-9);
            // The same once more changes no figure.
            measured += measured.clone();
        }
        assert_eq!(measured.thread_cpu["one"], second * 2);
    }
}
