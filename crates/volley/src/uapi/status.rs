//! Our own addition to the protocol, `volley=1`: which fast paths are on, every counter, and from which local address
//! each peer is spoken to. `wg` never asks for it.

use std::{fmt::Write, net::IpAddr};

use encrypt::PublicKey;
use io_runtime::{DeviceStatus, Histogram};

/// Features and counters, in the order the daemon tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What is on, and why the rest is off.
    pub features: Vec<Feature>,
    /// Counters by name.
    pub counters: Vec<(String, u64)>,
    /// Batch sizes: name, then (size at most, batches).
    pub histograms: Vec<(String, Vec<(u64, u64)>)>,
    /// Pinned local addresses, by the peer's public key.
    pub sources: Vec<(PublicKey, IpAddr)>,
}

/// One feature and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, such as `udp_gso`.
    pub name: String,
    /// `on`, or `off` and why, or a value.
    pub state: String,
}

impl Status {
    /// Takes what concerns this from the data plane's status.
    pub fn of(device: &DeviceStatus) -> Self {
        let features = features(device).into_iter().map(|(name, state)| Feature { name: name.into(), state });
        let counters = [("core", device.core.traffic().collect::<Vec<_>>())]
            .into_iter()
            .chain([
                ("io", device.io.traffic.iter().collect()),
                ("core_drop", device.core.drops().collect()),
                ("io_drop", device.io.drops.iter().collect()),
            ])
            .flat_map(|(group, all)| {
                all.into_iter().map(move |(name, count)| (format!("{group}_{name}"), count))
            });
        let histogram = |name: &str, of: &Histogram| {
            (name.to_owned(), of.buckets().map(|(size, count)| (size as u64, count)).collect())
        };
        Self {
            features: features.collect(),
            counters: counters.collect(),
            histograms: vec![
                histogram("send_batches", &device.io.send_batches),
                histogram("recv_batches", &device.io.recv_batches),
            ],
            sources: device.peers.iter().filter_map(|peer| Some((peer.public_key, peer.source?))).collect(),
        }
    }

    /// The answer's lines, without the closing `errno` line.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for Feature { name, state } in &self.features {
            let _ = writeln!(text, "feature.{name}={state}");
        }
        for (name, count) in &self.counters {
            let _ = writeln!(text, "counter.{name}={count}");
        }
        for (name, buckets) in &self.histograms {
            let buckets: Vec<_> = buckets.iter().map(|(size, count)| format!("{size}:{count}")).collect();
            let _ = writeln!(text, "histogram.{name}={}", buckets.join(","));
        }
        for (peer, source) in &self.sources {
            let _ = writeln!(text, "source.{}={source}", peer.to_hex());
        }
        text
    }

    /// Reads one line of the answer; `None` if it is not one.
    pub fn read_line(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        let (kind, name) = key.split_once('.')?;
        match kind {
            "feature" => self.features.push(Feature { name: name.into(), state: value.into() }),
            "counter" => self.counters.push((name.into(), value.parse().ok()?)),
            "histogram" => {
                let bucket = |text: &str| {
                    let (size, count) = text.split_once(':')?;
                    Some((size.parse().ok()?, count.parse().ok()?))
                };
                self.histograms.push((name.into(), value.split(',').map(bucket).collect::<Option<_>>()?));
            }
            "source" => self.sources.push((PublicKey::from_hex(name).ok()?, value.parse().ok()?)),
            _ => return None,
        }
        Some(())
    }
}

fn features(device: &DeviceStatus) -> Vec<(&'static str, String)> {
    let features = &device.features;
    let offloads = features.tun_offloads;
    let on = |on: bool| if on { "on" } else { "off" }.to_owned();
    let backend = features.backend.as_ref().map_or_else(|| "other".to_owned(), ToString::to_string);
    vec![
        ("backend", backend),
        ("arrangement", format!("{:?}", features.arrangement).to_lowercase()),
        ("crew", features.crew.to_string()),
        ("link", if device.link_up { "up" } else { "down" }.to_owned()),
        ("mtu", device.mtu.to_string()),
        ("udp_gso", features.udp_gso.to_string()),
        ("udp_gso_segments", features.udp_gso_segments.to_string()),
        ("udp_gro", features.udp_gro.to_string()),
        ("tun_coalesce_tcp", features.tun_coalesce_tcp.to_string()),
        ("tun_coalesce_udp", features.tun_coalesce_udp.to_string()),
        ("sched_batch", features.sched_batch.to_string()),
        ("tun_checksum", on(offloads.checksum)),
        ("tun_tso", on(offloads.tso)),
        ("tun_uso", on(offloads.uso)),
        ("ipv6", on(features.ipv6)),
        ("udp_send_buffer", features.udp_send_buffer.to_string()),
        ("udp_recv_buffer", features.udp_recv_buffer.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_to_the_same() {
        let status = Status {
            features: vec![Feature { name: "udp_gso".into(), state: "off (why = because)".into() }],
            counters: vec![("io_ticks".into(), u64::MAX)],
            histograms: vec![("send_batches".into(), vec![(1, 2), (2, 0)])],
            sources: vec![(PublicKey::from_bytes([7; 32]), "fe80::1".parse().unwrap())],
        };
        let mut read = Status::default();
        for line in status.print().lines() {
            read.read_line(line).expect(line);
        }
        assert_eq!(read, status);
        for line in ["", "x", "feature=1", "counter.a=b", "histogram.a=1", "histogram.a=1:x", "source.a=::1"]
        {
            assert_eq!(read.read_line(line), None, "{line}");
        }
    }
}
