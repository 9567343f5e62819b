//! Tunnels in memory with simulated time: nodes, the network between them, and packets to send.

use std::{
    fmt::{self, Debug},
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
    time::{Duration, Instant},
};

use encrypt::{Identity, PrivateKey, PublicKey};
use gso_queue::{Destination, Ecn};
use tunnel_core::{
    AllowedIpUpdate, Arrival, PeerStatus, PeerUpdate, Tunnel, TunnelConfig, TunnelUpdate, UpdateError,
};

use crate::netem::Network;

/// Makes tests of generic functions: each runs on the deterministic backend, on boringtun and on the native one.
macro_rules! on_every_backend {
    ($($scenario:ident,)*) => {
        mod deterministic {
            $(#[test] fn $scenario() { super::$scenario::<encrypt::deterministic::InsecureIdentity>(); })*
        }
        mod boringtun {
            $(#[test] fn $scenario() { super::$scenario::<encrypt::boring::BoringIdentity>(); })*
        }
        mod native {
            $(#[test] fn $scenario() { super::$scenario::<crate::native::Simulated>(); })*
        }
    };
}
pub(crate) use on_every_backend;

/// Where simulated time starts.
#[expect(clippy::disallowed_methods, reason = "one base instant, to which simulations add offsets")]
pub(crate) static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One tunnel with its endpoint, its sink, and the packets that came out of it.
pub(crate) struct Node<I: Identity> {
    pub(crate) tunnel: Tunnel<I>,
    pub(crate) key: PrivateKey,
    pub(crate) address: SocketAddr,
    /// What the tunnel sent and the network has not taken yet.
    pub(crate) sink: Vec<(Destination, Vec<u8>)>,
    /// Inner packets that arrived, in order.
    pub(crate) delivered: Vec<Vec<u8>>,
    /// The network does not reach this node.
    pub(crate) unplugged: bool,
    /// What this node sends gets nowhere.
    pub(crate) muted: bool,
    /// Nothing reaches it and no time passes for it, until it wakes.
    pub(crate) asleep: bool,
}

/// Nodes joined by a network. `PAIR` scenarios use nodes [`A`] and [`B`].
pub(crate) struct World<I: Identity> {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Node<I>>,
    pub(crate) network: Network,
    /// Every datagram sent so far.
    pub(crate) wire: Vec<Datagram>,
}

/// A datagram on its way.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: Destination,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

impl<I: Identity> Node<I> {
    pub(crate) fn new(number: u8, config: TunnelConfig) -> Self {
        let key = PrivateKey::from_bytes([number + 1; 32]);
        let mut node = Self {
            tunnel: Tunnel::new(config),
            key: key.clone(),
            address: SocketAddr::from(([192, 0, 2, number + 1], 51820)),
            sink: Vec::new(),
            delivered: Vec::new(),
            unplugged: false,
            muted: false,
            asleep: false,
        };
        let update = TunnelUpdate { private_key: Some(Some(key)), ..TunnelUpdate::default() };
        node.tunnel.update(update, *START, &mut node.sink).unwrap();
        node
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.key.public_key()
    }

    pub(crate) fn peer(&self, key: &PublicKey) -> PeerStatus {
        self.tunnel.peers().find(|peer| peer.public_key == *key).expect("no such peer")
    }

    /// A named traffic or drop counter.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let counters = self.tunnel.counters();
        counters.traffic().chain(counters.drops()).find(|(n, _)| *n == name).expect("no such counter").1
    }

    /// Every drop counter that is not zero.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        self.tunnel.counters().drops().filter(|(_, value)| *value != 0).collect()
    }
}

impl<I: Identity> World<I> {
    /// Two nodes that know each other; A knows where B is. A owns 10.0.0.1 and fd00::1, B 10.0.0.2 and fd00::2.
    pub(crate) fn pair() -> Self {
        Self::pair_with(TunnelConfig::default())
    }

    pub(crate) fn pair_with(config: TunnelConfig) -> Self {
        Self::pair_of(config, config)
    }

    /// A pair of which each has its own bounds.
    pub(crate) fn pair_of(a: TunnelConfig, b: TunnelConfig) -> Self {
        let nodes = vec![Node::new(0, a), Node::new(1, b)];
        let mut world = Self { now: *START, nodes, network: Network::perfect(), wire: Vec::new() };
        for (node, other) in [(A, B), (B, A)] {
            let mut peer = PeerUpdate::new(world.nodes[other].public_key());
            peer.endpoint = (node == A).then_some(world.nodes[B].address);
            peer.allowed_ips =
                vec![add(&format!("10.0.0.{}/32", other + 1)), add(&format!("fd00::{}/128", other + 1))];
            world.update(node, peer);
        }
        world
    }

    /// One node more, that nobody knows.
    pub(crate) fn add_node(&mut self, config: TunnelConfig) {
        let number = u8::try_from(self.nodes.len()).unwrap();
        self.nodes.push(Node::new(number, config));
    }

    /// A pair with a session that both sides have confirmed.
    pub(crate) fn connected() -> Self {
        Self::connected_with(TunnelConfig::default())
    }

    pub(crate) fn connected_with(config: TunnelConfig) -> Self {
        let mut world = Self::pair_with(config);
        world.send(A, &ping(A, B, 0));
        world.settle();
        assert_eq!(std::mem::take(&mut world.nodes[B].delivered), [ping(A, B, 0)]);
        world.wire.clear();
        world
    }

    pub(crate) fn update(&mut self, node: usize, peer: PeerUpdate) {
        let update = TunnelUpdate { peers: vec![peer], ..TunnelUpdate::default() };
        self.try_update(node, update).unwrap();
    }

    pub(crate) fn try_update(&mut self, node: usize, update: TunnelUpdate) -> Result<(), UpdateError> {
        let node = &mut self.nodes[node];
        node.tunnel.update(update, self.now, &mut node.sink)
    }

    /// An update of `node`'s peer `other` that changes nothing yet.
    pub(crate) fn about(&self, other: usize) -> PeerUpdate {
        PeerUpdate::new(self.nodes[other].public_key())
    }

    /// What `node` knows about its peer `other`.
    pub(crate) fn peer(&self, node: usize, other: usize) -> PeerStatus {
        self.nodes[node].peer(&self.nodes[other].public_key())
    }

    /// An inner packet enters the tunnel.
    pub(crate) fn send(&mut self, node: usize, packet: &[u8]) {
        let node = &mut self.nodes[node];
        node.tunnel.send(packet, self.now, &mut node.sink).unwrap();
    }

    /// A datagram arrives, whoever sent it; gives the inner packet if there is one.
    pub(crate) fn arrive(&mut self, node: usize, bytes: &[u8], from: Arrival) -> Option<Vec<u8>> {
        let node = &mut self.nodes[node];
        let mut datagram = bytes.to_vec();
        let packet = node.tunnel.receive(&mut datagram, from, self.now, &mut node.sink)?.to_vec();
        node.delivered.push(packet.clone());
        Some(packet)
    }

    /// The kinds of all that `node` has sent so far.
    pub(crate) fn sent_by(&self, node: usize) -> Vec<Kind> {
        let sent = self.wire.iter().filter(|datagram| datagram.from == self.nodes[node].address);
        sent.map(Datagram::kind).collect()
    }

    /// What `node` sent just now, taken off the network.
    pub(crate) fn intercept(&mut self, node: usize) -> Vec<Datagram> {
        let from = self.nodes[node].address;
        let sent = std::mem::take(&mut self.nodes[node].sink);
        sent.into_iter().map(|(to, bytes)| Datagram { from, to, bytes }).collect()
    }

    /// Exchanges datagrams until the network is silent and no handshake waits for its turn, without waiting for timers.
    pub(crate) fn settle(&mut self) {
        self.transmit();
        while let Some(at) = self.network.next_arrival().or_else(|| self.next_turn()) {
            self.now = self.now.max(at);
            self.deliver();
            for node in &mut self.nodes {
                if node.tunnel.poll_timeout() == Some(self.now) {
                    node.tunnel.handle_timeout(self.now, &mut node.sink);
                }
            }
            self.transmit();
        }
    }

    /// When a node goes on that has spent its budget at this time.
    fn next_turn(&self) -> Option<Instant> {
        let next = self.now + Duration::from_micros(1);
        self.nodes.iter().any(|node| node.tunnel.poll_timeout() == Some(next)).then_some(next)
    }

    /// Time passes in which nothing happens: enough for another handshake with the same peer.
    pub(crate) fn pause(&mut self) {
        self.now += Duration::from_millis(20);
    }

    /// Runs network and timers for `duration`.
    pub(crate) fn drive(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// The next thing that happens, if it happens before `end`.
    fn step(&mut self, end: Instant) -> bool {
        self.transmit();
        let awake = self.nodes.iter().filter(|node| !node.asleep);
        let timers = awake.filter_map(|node| node.tunnel.poll_timeout());
        let Some(next) = timers.chain(self.network.next_arrival()).min().filter(|next| *next <= end) else {
            return false;
        };
        self.now = self.now.max(next);
        self.deliver();
        for node in self.nodes.iter_mut().filter(|node| !node.asleep) {
            if node.tunnel.poll_timeout().is_some_and(|at| at <= self.now) {
                node.tunnel.handle_timeout(self.now, &mut node.sink);
                let next = node.tunnel.poll_timeout();
                assert!(next.is_none_or(|at| at > self.now), "a handled deadline must lie in the future");
            }
        }
        true
    }

    fn transmit(&mut self) {
        for node in 0..self.nodes.len() {
            for mut datagram in self.intercept(node) {
                let own_address = datagram.from.ip();
                if datagram.to.local.is_some_and(|pinned| pinned != own_address) {
                    // What a socket answers with EINVAL, and what is to be done about it.
                    self.nodes[node].tunnel.forget_source(datagram.to);
                    datagram.to.local = None;
                }
                self.wire.push(datagram.clone());
                if !self.nodes[node].unplugged && !self.nodes[node].muted {
                    self.network.send(datagram, self.now);
                }
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(datagram) = self.network.arrive(self.now) {
            let at = |node: &Node<I>| node.address == datagram.to.remote && !node.unplugged && !node.asleep;
            if let Some(node) = self.nodes.iter().position(at) {
                self.arrive(node, &datagram.bytes, datagram.arrival());
            }
        }
    }
}

impl Debug for Datagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes, {} to {:?}", self.kind(), self.bytes.len(), self.from, self.to)
    }
}

impl Datagram {
    /// How it arrives if nothing happens to it.
    pub(crate) fn arrival(&self) -> Arrival {
        let source = self.to.local.unwrap_or_else(|| self.from.ip());
        let remote = SocketAddr::new(source, self.from.port());
        Arrival { remote, local: Some(self.to.remote.ip()), ecn: self.to.ecn }
    }

    /// The message type of the paper's §5.4.
    pub(crate) fn kind(&self) -> Kind {
        match (self.bytes[0], self.bytes.len()) {
            (1, _) => Kind::Initiation,
            (2, _) => Kind::Response,
            (3, _) => Kind::CookieReply,
            (4, 32) => Kind::Keepalive,
            (4, _) => Kind::Data,
            other => panic!("not a message: {other:?}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Initiation,
    Response,
    CookieReply,
    Keepalive,
    Data,
}

pub(crate) fn kinds(datagrams: &[Datagram]) -> Vec<Kind> {
    datagrams.iter().map(Datagram::kind).collect()
}

pub(crate) fn add(prefix: &str) -> AllowedIpUpdate {
    AllowedIpUpdate::Add(prefix.parse().unwrap())
}

pub(crate) fn take(prefix: &str) -> AllowedIpUpdate {
    AllowedIpUpdate::Remove(prefix.parse().unwrap())
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A small packet between two nodes of a world, told apart by `serial`.
pub(crate) fn ping(from: usize, to: usize, serial: u32) -> Vec<u8> {
    let address = |node: usize| format!("10.0.0.{}", node + 1);
    packet(&address(from), &address(to), Ecn::NotEct, &serial.to_be_bytes())
}

/// The serial of a [`ping`].
pub(crate) fn serial(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

/// An IP packet of protocol 253 (experimentation, RFC 3692) with a right header.
pub(crate) fn packet(source: &str, destination: &str, ecn: Ecn, payload: &[u8]) -> Vec<u8> {
    let addresses: (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let mut packet = Vec::new();
    match addresses {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(20 + payload.len()).unwrap();
            packet.extend([0x45, ecn as u8]);
            packet.extend(len.to_be_bytes());
            packet.extend([0, 0, 0, 0, 64, 253, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let checksum = !ones_complement_sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, (ecn as u8) << 4, 0, 0]);
            packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            packet.extend([253, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        other => panic!("two families: {other:?}"),
    }
    packet.extend(payload);
    packet
}

/// 0xffff over an IPv4 header whose checksum is right.
pub(crate) fn ones_complement_sum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
