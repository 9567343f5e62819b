//! Answers to `get`, requests of `set`, and the reading of answers: the texts that [`super::client`] and
//! [`super::server`] exchange.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use io_runtime::DeviceUpdate;
use ipnet::IpNet;
use tunnel_core::{AllowedIpUpdate, PeerUpdate};
use zeroize::Zeroizing;

/// How "no key" is told.
const NO_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A device as `get` tells it.
#[derive(Clone, Debug, Default)]
pub struct Device {
    /// Our private key, if set.
    pub private_key: Option<PrivateKey>,
    /// The UDP port; 0 before it is bound.
    pub listen_port: u16,
    /// SO_MARK of the sockets, 0 for none.
    pub fwmark: u32,
    /// In order of creation.
    pub peers: Vec<Peer>,
}

/// A peer as `get` tells it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Static public key.
    pub public_key: PublicKey,
    /// Pre-shared key, if any.
    pub preshared_key: Option<PresharedKey>,
    /// Where it is, as far as we know.
    pub endpoint: Option<SocketAddr>,
    /// Since the Unix epoch; zero when there was none.
    pub last_handshake: Duration,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// Sorted.
    pub allowed_ips: Vec<IpNet>,
}

impl Peer {
    /// A peer of which only the key is known.
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            last_handshake: Duration::ZERO,
            tx_bytes: 0,
            rx_bytes: 0,
            persistent_keepalive: 0,
            allowed_ips: Vec::new(),
        }
    }
}

/// The answer to `get`, without the closing `errno` line.
pub fn print_get(device: &Device) -> Zeroizing<String> {
    // Room for everything: a `String` that grows leaves copies of keys behind in freed memory.
    let room = |peer: &Peer| 512 + 64 * peer.allowed_ips.len();
    let mut text = Text::with_capacity(256 + device.peers.iter().map(room).sum::<usize>());
    if let Some(key) = &device.private_key {
        text.secret("private_key", Some(key.to_hex()));
    }
    text.line("listen_port", device.listen_port);
    if device.fwmark != 0 {
        text.line("fwmark", device.fwmark);
    }
    for peer in &device.peers {
        print_peer(&mut text, peer);
    }
    text.0
}

fn print_peer(text: &mut Text, peer: &Peer) {
    text.line("public_key", peer.public_key.to_hex());
    // Always told: `wg` and `wgctrl` know zeros to mean none.
    text.secret("preshared_key", peer.preshared_key.as_ref().map(PresharedKey::to_hex));
    text.line("protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        text.line("endpoint", endpoint);
    }
    text.line("last_handshake_time_sec", peer.last_handshake.as_secs());
    text.line("last_handshake_time_nsec", peer.last_handshake.subsec_nanos());
    text.line("tx_bytes", peer.tx_bytes);
    text.line("rx_bytes", peer.rx_bytes);
    text.line("persistent_keepalive_interval", peer.persistent_keepalive);
    for prefix in &peer.allowed_ips {
        text.line("allowed_ip", prefix);
    }
}

/// A whole `set` request, its blank line included.
pub fn print_set(update: &DeviceUpdate) -> Zeroizing<String> {
    let tunnel = &update.tunnel;
    let room = |peer: &PeerUpdate| 512 + 64 * peer.allowed_ips.len();
    let mut text = Text::with_capacity(256 + tunnel.peers.iter().map(room).sum::<usize>());
    text.line("set", 1);
    if let Some(key) = &tunnel.private_key {
        text.secret("private_key", key.as_ref().map(PrivateKey::to_hex));
    }
    if let Some(port) = update.listen_port {
        text.line("listen_port", port);
    }
    if let Some(mark) = update.fwmark {
        text.line("fwmark", mark);
    }
    text.flag("replace_peers", tunnel.replace_peers);
    for peer in &tunnel.peers {
        print_peer_update(&mut text, peer);
    }
    text.0.push('\n');
    text.0
}

fn print_peer_update(text: &mut Text, peer: &PeerUpdate) {
    text.line("public_key", peer.public_key.to_hex());
    text.flag("remove", peer.remove);
    text.flag("update_only", peer.update_only);
    if let Some(key) = &peer.preshared_key {
        text.secret("preshared_key", key.as_ref().map(PresharedKey::to_hex));
    }
    if let Some(endpoint) = peer.endpoint {
        text.line("endpoint", endpoint);
    }
    if let Some(seconds) = peer.persistent_keepalive {
        text.line("persistent_keepalive_interval", seconds);
    }
    text.flag("replace_allowed_ips", peer.replace_allowed_ips);
    for change in &peer.allowed_ips {
        match change {
            AllowedIpUpdate::Add(prefix) => text.line("allowed_ip", prefix),
            AllowedIpUpdate::Remove(prefix) => text.line("allowed_ip", format_args!("-{prefix}")),
        }
    }
}

struct Text(Zeroizing<String>);

impl Text {
    fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(String::with_capacity(bytes)))
    }

    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.0, "{key}={value}");
    }

    fn flag(&mut self, key: &str, set: bool) {
        if set {
            self.line(key, true);
        }
    }

    /// `None` is told as a key of zeros.
    fn secret(&mut self, name: &str, hex: Option<Zeroizing<String>>) {
        match hex {
            Some(hex) => self.line(name, &*hex),
            None => self.line(name, NO_KEY),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

    use encrypt::{PresharedKey, PrivateKey, PublicKey};
    use proptest::prelude::*;
    use tunnel_core::TunnelUpdate;

    use super::*;
    use crate::uapi::{Request, RequestParser, client::DeviceReader};

    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| IpNet::new(Ipv4Addr::from(bits).into(), len)),
            (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| IpNet::new(Ipv6Addr::from(bits).into(), len)),
        ]
        .prop_map(|prefix| prefix.expect("the length fits").trunc())
    }

    fn endpoint() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<u32>(), any::<u16>()).prop_map(|(bits, port)| (Ipv4Addr::from(bits), port).into()),
            (any::<u128>(), any::<u16>(), any::<u32>()).prop_map(|(bits, port, scope)| SocketAddrV6::new(
                bits.into(),
                port,
                0,
                scope
            )
            .into()),
        ]
    }

    fn key() -> impl Strategy<Value = [u8; 32]> {
        prop_oneof![1 => Just([0; 32]), 9 => any::<[u8; 32]>()]
    }

    fn non_zero(key: [u8; 32]) -> Option<[u8; 32]> {
        (key != [0; 32]).then_some(key)
    }

    prop_compose! {
        fn peer_update()(
            public_key in any::<[u8; 32]>(), flags in any::<[bool; 3]>(), preshared_key in proptest::option::of(key()),
            endpoint in proptest::option::of(endpoint()), keepalive in proptest::option::of(any::<u16>()),
            allowed_ips in proptest::collection::vec((any::<bool>(), prefix()), 0..5),
        ) -> PeerUpdate {
            PeerUpdate {
                public_key: PublicKey::from_bytes(public_key),
                remove: flags[0],
                update_only: flags[1],
                preshared_key: preshared_key.map(|key| non_zero(key).map(PresharedKey::from_bytes)),
                endpoint,
                persistent_keepalive: keepalive,
                replace_allowed_ips: flags[2],
                allowed_ips: allowed_ips
                    .into_iter()
                    .map(|(add, prefix)| if add { AllowedIpUpdate::Add(prefix) } else { AllowedIpUpdate::Remove(prefix) })
                    .collect(),
            }
        }
    }

    prop_compose! {
        fn update()(
            private_key in proptest::option::of(key()), listen_port in proptest::option::of(any::<u16>()),
            fwmark in proptest::option::of(any::<u32>()), replace_peers in any::<bool>(),
            peers in proptest::collection::vec(peer_update(), 0..5),
        ) -> DeviceUpdate {
            let private_key = private_key.map(|key| non_zero(key).map(PrivateKey::from_bytes));
            DeviceUpdate { listen_port, fwmark, tunnel: TunnelUpdate { private_key, replace_peers, peers } }
        }
    }

    prop_compose! {
        fn peer()(
            public_key in any::<[u8; 32]>(), preshared_key in key(), endpoint in proptest::option::of(endpoint()),
            seconds in any::<u32>(), nanos in 0..1_000_000_000u32, bytes in any::<[u64; 2]>(), keepalive in any::<u16>(),
            allowed_ips in proptest::collection::vec(prefix(), 0..5),
        ) -> Peer {
            Peer {
                public_key: PublicKey::from_bytes(public_key),
                preshared_key: non_zero(preshared_key).map(PresharedKey::from_bytes),
                endpoint,
                last_handshake: Duration::new(seconds.into(), nanos),
                tx_bytes: bytes[0],
                rx_bytes: bytes[1],
                persistent_keepalive: keepalive,
                allowed_ips,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_as_set_is_parsed_to_the_same(update in update()) {
            let printed = print_set(&update);
            let mut parser = RequestParser::new(|_| None);
            let parsed = printed.lines().find_map(|line| parser.line(line.as_bytes()));
            let Some(Ok(Request::Set(parsed))) = parsed else { panic!("{parsed:?}\n{}", *printed) };
            prop_assert_eq!(print_set(&parsed), printed);
        }

        #[test]
        fn what_is_printed_as_get_is_read_to_the_same(
            private_key in key(), listen_port in any::<u16>(), fwmark in any::<u32>(),
            peers in proptest::collection::vec(peer(), 0..5),
        ) {
            let private_key = non_zero(private_key).map(PrivateKey::from_bytes);
            let printed = print_get(&Device { private_key, listen_port, fwmark, peers });
            let mut reader = DeviceReader::default();
            for line in printed.lines() {
                reader.line(line).expect(line);
            }
            prop_assert_eq!(print_get(&reader.finish()), printed);
        }
    }

    #[test]
    fn nothing_reallocates_while_keys_are_printed() {
        let prefix: IpNet = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
        let endpoint = SocketAddrV6::new(u128::MAX.into(), u16::MAX, 0, u32::MAX).into();
        let peer = Peer {
            endpoint: Some(endpoint),
            last_handshake: Duration::MAX,
            tx_bytes: u64::MAX,
            rx_bytes: u64::MAX,
            persistent_keepalive: u16::MAX,
            allowed_ips: vec![prefix; 9],
            ..Peer::new(PublicKey::from_bytes([0xff; 32]))
        };
        let device = Device {
            private_key: Some(PrivateKey::from_bytes([0xff; 32])),
            listen_port: u16::MAX,
            fwmark: u32::MAX,
            peers: vec![peer; 3],
        };
        let capacity = 256 + 3 * (512 + 64 * 9);
        assert_eq!(print_get(&device).capacity(), capacity);
    }
}
