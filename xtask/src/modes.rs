//! Volley with one fast path after the other switched on: what demo and bench compare.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use netlab::{Implementation, Side, Tunnel};
use serde_json::Value;

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
    Mode {
        name: "(a) one packet per call",
        arguments: &[
            "--batch=1",
            "--no-udp-gso",
            "--no-udp-gro",
            "--no-tun-offload",
            "--arrangement=tun-threads",
        ],
    },
    Mode {
        name: "(b) the seed: batches, GSO",
        arguments: &["--batch=50", "--no-udp-gro", "--no-tun-offload", "--arrangement=tun-threads"],
    },
    Mode {
        name: "(c) … and UDP GRO",
        arguments: &["--batch=50", "--no-tun-offload", "--arrangement=tun-threads"],
    },
    Mode { name: "(d) … and TUN offloads", arguments: &[] },
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
    pub(crate) send_calls: u64,
    pub(crate) datagrams_sent: u64,
}

/// Asks the Volley at one end of a tunnel for its counters.
pub(crate) fn udp_counters(volley: &Path, tunnel: &Tunnel, side: Side) -> Result<UdpCounters> {
    let volley = volley.to_owned();
    let output = tunnel
        .host(side)
        .run(move || Command::new(volley).args(["show", Tunnel::INTERFACE, "--json"]).output())
        .context("volley show")?;
    ensure!(output.status.success(), "volley show: {}", String::from_utf8_lossy(&output.stderr));
    let status: Value = serde_json::from_slice(&output.stdout).context("volley show's JSON")?;
    let counter = |name| find_number(&status, name).with_context(|| format!("volley show has no {name}"));
    Ok(UdpCounters { send_calls: counter("io_udp_send_calls")?, datagrams_sent: counter("io_udp_datagrams_sent")? })
}

/// The number under `name`, wherever it stands: the nesting is the daemon's affair.
fn find_number(value: &Value, name: &str) -> Option<u64> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .and_then(Value::as_u64)
            .or_else(|| fields.values().find_map(|field| find_number(field, name))),
        Value::Array(items) => items.iter().find_map(|item| find_number(item, name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_at_any_depth() {
        let status = serde_json::json!([{ "name": "wg0", "io": { "traffic": { "udp_send_calls": 7 } } }]);
        assert_eq!(find_number(&status, "udp_send_calls"), Some(7));
        assert_eq!(find_number(&status, "udp_recv_calls"), None);
    }
}
