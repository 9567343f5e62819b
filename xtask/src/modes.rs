//! Volley with one fast path after the other switched on: what demo and bench compare.

use std::path::Path;

use anyhow::{Context, Result};
use netlab::{Implementation, Side, Tunnel};

/// One way to run Volley.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// Its letter and name in tables.
    pub(crate) name: &'static str,
    /// Arguments for the daemon.
    pub(crate) arguments: &'static [&'static str],
}

/// From one packet per system call to everything, one step at a time.
pub(crate) const MODES: [Mode; 4] = [
    // The TUN's own threads are a part of the seed, so before it there is one loop.
    Mode {
        name: "(a) one packet per call",
        arguments: &[
            "--batch=1",
            "--no-udp-gso",
            "--no-udp-gro",
            "--no-tun-offload",
            "--no-sched-batch",
            "--arrangement=inline",
        ],
    },
    Mode {
        name: "(b) the seed: batches, GSO",
        arguments: &[
            "--batch=50",
            "--no-udp-gro",
            "--no-tun-offload",
            "--no-sched-batch",
            "--arrangement=tun-threads",
        ],
    },
    Mode {
        name: "(c) … and UDP GRO",
        arguments: &["--batch=50", "--no-tun-offload", "--no-sched-batch", "--arrangement=tun-threads"],
    },
    Mode { name: "(d) … and all the rest", arguments: &[] },
];

impl Mode {
    /// Volley started this way.
    pub(crate) fn implementation(&self, volley: &Path) -> Implementation {
        Implementation::volley(volley, self.arguments).named(self.name)
    }
}

/// What a daemon itself counted on its UDP side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UdpCounters {
    /// Calls that sent something.
    pub(crate) sends: u64,
    pub(crate) datagrams_sent: u64,
}

/// Asks the Volley at one end of a tunnel for what it counted on its UDP side.
pub(crate) fn udp_counters(tunnel: &Tunnel, side: Side) -> Result<UdpCounters> {
    let status = status(tunnel, side)?;
    let counter = |name| find_counter(&status, name).with_context(|| format!("volley counts no {name}"));
    // Calls that found the socket's buffer full sent nothing.
    let sends = counter("io_udp_send_calls")? - counter("io_udp_send_blocked")?;
    Ok(UdpCounters { sends, datagrams_sent: counter("io_udp_datagrams_sent")? })
}

/// One counter of the Volley at one end of a tunnel.
pub(crate) fn counter(tunnel: &Tunnel, side: Side, name: &str) -> Result<u64> {
    find_counter(&status(tunnel, side)?, name).with_context(|| format!("volley counts no {name}"))
}

/// By the request that is Volley's own addition to the configuration protocol.
fn status(tunnel: &Tunnel, side: Side) -> Result<String> {
    tunnel.daemon(side).uapi().request(tunnel.host(side), "volley=1\n\n")
}

fn find_counter(status: &str, name: &str) -> Option<u64> {
    let mut counters = status.lines().filter_map(|line| line.strip_prefix("counter.")?.split_once('='));
    counters.find(|(counter, _)| *counter == name)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let status = "feature.x=7\ncounter.io_udp_send_calls_x=1\ncounter.io_udp_send_calls=7\n";
        assert_eq!(find_counter(status, "io_udp_send_calls"), Some(7));
        assert_eq!(find_counter(status, "x"), None);
    }
}
