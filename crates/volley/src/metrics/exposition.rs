//! The Prometheus text format, version 0.0.4. Secrets never get here: only counters, states and the
//! peers' public keys are read.

use std::fmt::{Display, Write};

use io_runtime::{DeviceStatus, Histogram};

use crate::wall_clock::WallClock;

/// Everything about the interface at one instant.
pub(super) fn render(interface: &str, status: &DeviceStatus, clock: &WallClock) -> String {
    let mut text = Exposition::new(interface, status.peers.len());
    states(&mut text, status);
    peers(&mut text, status, clock);
    for (name, count) in status.core.traffic() {
        counter(&mut text, "core", name, count);
    }
    for (name, count) in status.io.traffic.iter() {
        counter(&mut text, "io", name, count);
    }
    drops(&mut text, status);
    let io = &status.io;
    let help = "Datagrams per successful UDP send; more than 1 is GSO at work.";
    histogram(&mut text, "volley_udp_send_batch_datagrams", help, &io.send_batches);
    let help = "Datagrams per received UDP buffer; more than 1 is GRO at work.";
    histogram(&mut text, "volley_udp_receive_batch_datagrams", help, &io.recv_batches);
    text.text
}

fn states(text: &mut Exposition, status: &DeviceStatus) {
    let features = &status.features;
    let arrangement = format!("{:?}", features.arrangement).to_lowercase();
    let crew = features.crew.to_string();
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("arrangement", &arrangement), ("crew", &crew)];
    text.family("volley_info", "gauge", "The daemon's version and how its threads share the work.")
        .sample(&labels, 1);

    let offloads = features.tun_offloads;
    let on = |on: bool| (on, if on { "on" } else { "off" }.to_owned());
    let mut family =
        text.family("volley_feature_enabled", "gauge", "1 if a fast path is in use; `state` says why not.");
    for (feature, (enabled, state)) in [
        ("udp_gso", (features.udp_gso.is_on(), features.udp_gso.to_string())),
        ("udp_gro", (features.udp_gro.is_on(), features.udp_gro.to_string())),
        ("tun_coalesce_tcp", (features.tun_coalesce_tcp.is_on(), features.tun_coalesce_tcp.to_string())),
        ("tun_coalesce_udp", (features.tun_coalesce_udp.is_on(), features.tun_coalesce_udp.to_string())),
        ("sched_batch", (features.sched_batch.is_on(), features.sched_batch.to_string())),
        ("tun_checksum", on(offloads.checksum)),
        ("tun_tso", on(offloads.tso)),
        ("tun_uso", on(offloads.uso)),
        ("ipv6", on(features.ipv6)),
    ] {
        family.sample(&[("feature", feature), ("state", &state)], u8::from(enabled));
    }
    for (name, help, value) in [
        ("volley_link_up", "1 while the interface is set up.", usize::from(status.link_up)),
        ("volley_mtu_bytes", "The interface's MTU.", status.mtu),
        ("volley_udp_gso_segments", "Datagrams per send, at most.", features.udp_gso_segments),
        ("volley_udp_send_buffer_bytes", "Kernel send buffer of each UDP socket.", features.udp_send_buffer),
        (
            "volley_udp_receive_buffer_bytes",
            "Kernel receive buffer of each UDP socket.",
            features.udp_recv_buffer,
        ),
        ("volley_peers", "Configured peers.", status.peers.len()),
    ] {
        text.family(name, "gauge", help).sample(&[], value);
    }
}

fn peers(text: &mut Exposition, status: &DeviceStatus, clock: &WallClock) {
    let keys: Vec<_> = status.peers.iter().map(|peer| peer.public_key.to_base64()).collect();
    let peers = || keys.iter().zip(&status.peers);

    let help = "Bytes of authenticated UDP payload received from the peer.";
    let mut family = text.family("volley_peer_receive_bytes_total", "counter", help);
    for (key, peer) in peers() {
        family.sample(&[("public_key", key)], peer.rx_bytes);
    }
    let help = "Bytes of UDP payload sent to the peer.";
    let mut family = text.family("volley_peer_transmit_bytes_total", "counter", help);
    for (key, peer) in peers() {
        family.sample(&[("public_key", key)], peer.tx_bytes);
    }
    let help = "When the newest session was agreed, since the Unix epoch; 0 if never.";
    let mut family = text.family("volley_peer_last_handshake_timestamp_seconds", "gauge", help);
    for (key, peer) in peers() {
        let time = peer.last_handshake.map_or(0.0, |instant| clock.time_of(instant).as_secs_f64());
        family.sample(&[("public_key", key)], time);
    }
}

/// A counter of which the table gives the name.
fn counter(text: &mut Exposition, part: &str, name: &str, count: u64) {
    let help = format!("Counted by the {part} part: {}.", name.replace('_', " "));
    text.family(&format!("volley_{part}_{name}_total"), "counter", &help).sample(&[], count);
}

fn drops(text: &mut Exposition, status: &DeviceStatus) {
    let core = status.core.drops().map(|drop| ("core", drop));
    let io = status.io.drops.iter().map(|drop| ("io", drop));
    let mut family = text.family("volley_drops_total", "counter", "What was dropped, by part and reason.");
    for (part, (reason, count)) in core.chain(io) {
        family.sample(&[("part", part), ("reason", reason)], count);
    }
}

fn histogram(text: &mut Exposition, name: &str, help: &str, histogram: &Histogram) {
    let mut family = text.family(name, "histogram", help);
    let mut up_to_here = 0;
    // The last one also holds what is larger than it says.
    for (size, count) in histogram.buckets().take(Histogram::BUCKETS - 1) {
        up_to_here += count;
        family.suffixed("_bucket", &[("le", &size.to_string())], up_to_here);
    }
    family.suffixed("_bucket", &[("le", "+Inf")], histogram.count());
    family.suffixed("_sum", &[], histogram.sum());
    family.suffixed("_count", &[], histogram.count());
}

/// A text that grows family by family: the format wants each in one piece.
struct Exposition {
    text: String,
    /// Every sample's first label.
    interface: String,
}

impl Exposition {
    fn new(interface: &str, peers: usize) -> Self {
        // What 0 peers and each more take, roughly.
        Self { text: String::with_capacity((16 << 10) + 512 * peers), interface: escape(interface) }
    }

    fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, interface: &self.interface, name }
    }
}

struct Family<'a> {
    text: &'a mut String,
    interface: &'a str,
    name: &'a str,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}{{interface=\"{}\"", self.name, self.interface);
        for (label, value) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escape(value));
        }
        let _ = writeln!(self.text, "}} {value}");
    }
}

/// A label's value as the format wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use encrypt::{PresharedKey, PrivateKey, PublicKey};
    use io_runtime::{DeviceUpdate, RuntimeConfig};
    use tun_device::{MemoryTun, Offloads};
    use tunnel_core::{PeerUpdate, TunnelUpdate};

    use super::*;

    const PRIVATE: [u8; 32] = [0x5a; 32];
    const PRESHARED: [u8; 32] = [0xa5; 32];
    const PEERS: [[u8; 32]; 2] = [[7; 32], [9; 32]];

    /// The status of a real data plane with two peers, some numbers made up.
    fn status() -> DeviceStatus {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tun, _host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let handle =
            io_runtime::spawn(tun, RuntimeConfig { udp_gso: false, ..RuntimeConfig::default() }).unwrap();
        let peer = |key| PeerUpdate {
            preshared_key: Some(Some(PresharedKey::from_bytes(PRESHARED))),
            ..PeerUpdate::new(PublicKey::from_bytes(key))
        };
        let tunnel = TunnelUpdate {
            private_key: Some(Some(PrivateKey::from_bytes(PRIVATE))),
            peers: PEERS.map(peer).into(),
            ..TunnelUpdate::default()
        };
        let mut status = runtime.block_on(async {
            handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() }).await.unwrap();
            let status = handle.status().await.unwrap();
            handle.shutdown();
            handle.finished().await.unwrap();
            status
        });
        status.peers[0].rx_bytes = 1 << 40;
        status.peers[1].tx_bytes = 12;
        status.peers[1].last_handshake = Some(status.now);
        status.core.drops.rx_replay = 3;
        status.io.drops.tun_down = 4;
        status.features.tun_coalesce_udp = io_runtime::Feature::Resting;
        status.core.traffic.initiations_sent = 5;
        for size in [1, 1, 2, 40] {
            status.io.send_batches.record(size);
        }
        status
    }

    fn rendered(interface: &str) -> String {
        let status = status();
        let clock = WallClock::new(status.now, Duration::from_millis(1_700_000_000_500));
        render(interface, &status, &clock)
    }

    #[test]
    fn every_peer_drop_reason_and_batch_is_told() {
        let text = rendered("wg0");
        let lines: HashSet<_> = text.lines().collect();
        let [first, second] = PEERS.map(|key| PublicKey::from_bytes(key).to_base64());
        for line in [
            format!(
                r#"volley_peer_receive_bytes_total{{interface="wg0",public_key="{first}"}} 1099511627776"#
            ),
            format!(r#"volley_peer_transmit_bytes_total{{interface="wg0",public_key="{second}"}} 12"#),
            format!(
                r#"volley_peer_last_handshake_timestamp_seconds{{interface="wg0",public_key="{first}"}} 0"#
            ),
            format!(
                r#"volley_peer_last_handshake_timestamp_seconds{{interface="wg0",public_key="{second}"}} 1700000000.5"#
            ),
            r#"volley_drops_total{interface="wg0",part="core",reason="rx_replay"} 3"#.into(),
            r#"volley_drops_total{interface="wg0",part="io",reason="tun_down"} 4"#.into(),
            r#"volley_core_initiations_sent_total{interface="wg0"} 5"#.into(),
            r#"volley_udp_send_batch_datagrams_bucket{interface="wg0",le="1"} 2"#.into(),
            r#"volley_udp_send_batch_datagrams_bucket{interface="wg0",le="32"} 3"#.into(),
            r#"volley_udp_send_batch_datagrams_bucket{interface="wg0",le="64"} 4"#.into(),
            r#"volley_udp_send_batch_datagrams_sum{interface="wg0"} 44"#.into(),
            r#"volley_feature_enabled{interface="wg0",feature="udp_gso",state="off (switched off)"} 0"#
                .into(),
            r#"volley_feature_enabled{interface="wg0",feature="tun_uso",state="on"} 1"#.into(),
            r#"volley_feature_enabled{interface="wg0",feature="tun_coalesce_tcp",state="on"} 1"#.into(),
            r#"volley_feature_enabled{interface="wg0",feature="tun_coalesce_udp",state="resting (refused by the kernel; tried again)"} 0"#
                .into(),
            r#"volley_peers{interface="wg0"} 2"#.into(),
        ] {
            assert!(lines.contains(&*line), "{line} is missing in:\n{text}");
        }
        let status = status();
        let reasons = status.core.drops().count() + status.io.drops.iter().count();
        assert_eq!(text.lines().filter(|line| line.starts_with("volley_drops_total{")).count(), reasons);
    }

    #[test]
    fn no_secret_is_told() {
        let text = rendered("wg0");
        let private = PrivateKey::from_bytes(PRIVATE);
        let preshared = PresharedKey::from_bytes(PRESHARED);
        for secret in [private.to_base64(), private.to_hex(), preshared.to_base64(), preshared.to_hex()] {
            assert!(!text.to_lowercase().contains(&secret.to_lowercase()), "{text}");
        }
    }

    #[test]
    fn the_text_keeps_to_the_format() {
        check_format(&rendered("wg0"));
    }

    #[test]
    fn a_strange_interface_name_is_escaped() {
        let text = rendered("a\"b\\c");
        assert!(text.contains(r#"volley_peers{interface="a\"b\\c"} 2"#), "{text}");
        check_format(&text);
    }

    /// Panics unless families are in one piece, told once, with a type; samples are their family's, told
    /// once, and numbers; and histograms add up.
    fn check_format(text: &str) {
        assert!(text.ends_with('\n'));
        let (mut families, mut series) = (HashSet::new(), HashSet::new());
        let (mut family, mut kind) = ("", "");
        let mut bucket = 0.0;
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                (family, _) = help.split_once(' ').expect(line);
                assert!(family.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                assert!(families.insert(family), "twice: {line}");
                kind = "";
                continue;
            }
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, told) = told.split_once(' ').expect(line);
                assert_eq!(name, family);
                assert!(["gauge", "counter", "histogram"].contains(&told), "{line}");
                assert_eq!(told == "counter", family.ends_with("_total"), "{line}");
                (kind, bucket) = (told, 0.0);
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect(line);
            let value: f64 = value.parse().expect(line);
            assert!(series.insert(name), "twice: {line}");
            let (name, labels) = name.strip_suffix('}').and_then(|name| name.split_once('{')).expect(line);
            check_labels(labels);
            match name.strip_prefix(family).expect(line) {
                "" => assert!(["gauge", "counter"].contains(&kind), "{line}"),
                "_bucket" => {
                    assert!(kind == "histogram" && labels.contains(",le=\"") && value >= bucket, "{line}");
                    bucket = value;
                }
                "_sum" => assert_eq!(kind, "histogram", "{line}"),
                "_count" => assert!(kind == "histogram" && value.to_bits() == bucket.to_bits(), "{line}"),
                other => panic!("{other} in {line}"),
            }
        }
    }

    fn check_labels(labels: &str) {
        let mut rest = labels;
        loop {
            let (name, value) = rest.split_once("=\"").expect(labels);
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{labels}");
            let mut is_escaped = false;
            let end = value.find(|c| {
                let ends = c == '"' && !is_escaped;
                is_escaped = c == '\\' && !is_escaped;
                ends
            });
            match &value[end.expect(labels) + 1..] {
                "" => return,
                more => rest = more.strip_prefix(',').expect(labels),
            }
        }
    }
}
