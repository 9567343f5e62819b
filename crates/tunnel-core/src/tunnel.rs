//! The tunnel: packets and `now` in, datagrams out.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use encrypt::{Identity, PresharedKey, PrivateKey, PublicKey, transport::TrainOpening};
use gso_queue::{DatagramSink, Destination, Ecn};

use crate::{
    Counters, Packets, PeerStatus, Sealing, TunnelConfig,
    allowed_ips::AllowedIps,
    control,
    handshakes::{Cost, Handshakes},
    inner::Inner,
    peer::Peer,
    peer_table::PeerTable,
    shared::Shared,
    unreachable::Answers,
};

/// How a datagram came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who sent it.
    pub remote: SocketAddr,
    /// The local address it was sent to, if the socket tells: replies leave from it.
    pub local: Option<IpAddr>,
    /// ECN bits of its outer header.
    pub ecn: Ecn,
}

impl Arrival {
    /// An arrival of which only the sender is known.
    pub const fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None, ecn: Ecn::NotEct }
    }
}

/// What became of a packet that [`Tunnel::send`] took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was sealed, or waits for a handshake, or was dropped without anybody being told.
    Taken,
    /// It was dropped: no peer is allowed to have it, or its peer's endpoint is not known. Its sender may be
    /// told: see [`Tunnel::answer_unreachable`].
    Unreachable,
}

/// The sink took nothing: flush it, then send the same packet again. Nothing was consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sink is full: flush it, then send the same packet again")]
pub struct SinkFull;

/// Who gets a packet, and what sending it takes.
struct Route<'a, I: Identity> {
    peer: &'a mut Peer<I::Session>,
    /// The packet's.
    ecn: Ecn,
    identity: &'a mut I,
    shared: &'a mut Shared,
}

/// A WireGuard tunnel over the crypto backend `I`. The crate's documentation says how to drive it.
pub struct Tunnel<I: Identity> {
    pub(crate) identity: Option<I>,
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) peers: PeerTable<Peer<I::Session>>,
    pub(crate) allowed_ips: AllowedIps,
    pub(crate) shared: Shared,
    pub(crate) handshakes: Handshakes,
    /// For [`receive_train`](Self::receive_train); kept for what it has allocated.
    pub(crate) opening: TrainOpening,
    pub(crate) max_peers: usize,
    /// The interface is; see `link`.
    pub(crate) is_up: bool,
    /// `None` if nobody is told.
    pub(crate) answers: Option<Answers>,
    /// How many peers were ever created.
    pub(crate) created: u64,
}

impl<I: Identity> Tunnel<I> {
    /// A tunnel with no key and no peers.
    pub fn new(config: TunnelConfig) -> Self {
        Self {
            identity: None,
            private_key: None,
            peers: PeerTable::new(),
            allowed_ips: AllowedIps::default(),
            shared: Shared::new(&config),
            handshakes: Handshakes::new(config.handshake_backlog),
            opening: TrainOpening::default(),
            max_peers: config.max_peers.min(PeerTable::<Peer<I::Session>>::CAPACITY),
            is_up: true,
            answers: config.icmp_unreachable.then(Answers::default),
            created: 0,
        }
    }

    /// Changes the inner MTU, bytes. Packets that wait are padded by the new one.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.shared.mtu = mtu;
    }

    /// Takes one IP packet from the TUN: sealed into `sink`, or queued for a handshake, or dropped and
    /// counted. Bytes behind the length in the packet's own header are ignored.
    ///
    /// A packet that is [`Sent::Unreachable`] may be answered, with
    /// [`answer_unreachable`](Self::answer_unreachable).
    ///
    /// # Errors
    /// Only when the sink is full: flush it and send the same packet again; nothing was consumed.
    pub fn send<S: DatagramSink<Sealing>>(
        &mut self,
        packet: &[u8],
        now: Instant,
        sink: &mut S,
    ) -> Result<Sent, SinkFull> {
        self.send_all(&mut Some(packet), now, sink)
    }

    /// As [`send`](Self::send), for packets that go the same way: what leads to their peer is looked up for all of them
    /// at once. Takes them until there are none left, or one is [`Sent::Unreachable`]: that one was dropped, but is still at
    /// hand; [advance](Packets::advance) and send the rest, if it is worth it.
    ///
    /// # Errors
    /// Only when the sink is full: flush it and send the same again. The packet at hand was not consumed.
    pub fn send_all<S: DatagramSink<Sealing>>(
        &mut self,
        packets: &mut impl Packets,
        now: Instant,
        sink: &mut S,
    ) -> Result<Sent, SinkFull> {
        while let Some(packet) = packets.packet() {
            self.flush_control(now, sink)?;
            let sent = match self.route(packet) {
                Ok(Route { peer, ecn, identity, shared }) => {
                    peer.send(packets, ecn, identity, now, shared, sink)?
                }
                Err(Sent::Taken) => {
                    packets.advance();
                    continue;
                }
                Err(sent) => sent,
            };
            if sent == Sent::Unreachable {
                return Ok(sent);
            }
        }
        Ok(Sent::Taken)
    }

    /// Runs deadlines that have passed and handshakes that wait, as far as this turn's budget goes: a turn is one value of `now`,
    /// and [`poll_timeout`](Self::poll_timeout) tells when the next may begin. Calling it early or often is harmless.
    pub fn handle_timeout<S: DatagramSink<Sealing>>(&mut self, now: Instant, sink: &mut S) {
        if !self.is_up {
            return;
        }
        self.shared.release();
        if self.flush_control(now, sink).is_err() {
            return;
        }
        self.shared.budget.at(now);
        // Half of it for one, all that is left for the other, and who is first changes: neither can hold the other up.
        let half = self.shared.budget.left() / 2;
        let timers_first = self.shared.budget.alternate();
        if !timers_first {
            self.work_off(half, now, sink);
        }
        let floor = if timers_first { half } else { 0 };
        if self.run_timers(floor, now, sink).is_err() {
            return;
        }
        self.work_off(0, now, sink);
        let _ = self.run_timers(0, now, sink); // if the sink is full, they are tried again
    }

    /// Runs deadlines that have passed, while more than `floor` of the budget is left.
    ///
    /// # Errors
    /// The sink is full.
    fn run_timers<S: DatagramSink<Sealing>>(
        &mut self,
        floor: i64,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), SinkFull> {
        while let Some(index) = self.shared.deadlines.due(now) {
            self.shared.timers_wait = self.shared.budget.left() <= floor;
            if self.shared.timers_wait {
                return Ok(());
            }
            let (Some(peer), Some(identity)) = (self.peers.get_mut(index), &mut self.identity) else {
                debug_assert!(false, "only peers that are there, and only with a key, have deadlines");
                return Ok(());
            };
            let ran = peer.handle_timeout(identity, now, &mut self.shared, sink);
            self.shared.budget.spend(Cost::TIMERS);
            ran?;
        }
        self.shared.timers_wait = false;
        Ok(())
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None` when nothing is pending. Ask
    /// again after every call that takes `now`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.is_up.then(|| self.shared.next_deadline(self.handshakes.are_waiting())).flatten()
    }

    /// The send to `destination` failed because its pinned local address is no longer ours: stop
    /// pinning it, until the peer is heard from again.
    pub fn forget_source(&mut self, destination: Destination) {
        self.forget_sources(|remote, local| remote == destination.remote && Some(local) == destination.local);
    }

    /// Stops pinning every local address of which `is_gone` says so, given the peer's endpoint and the address, until
    /// the peer is heard from again. For an owner who watches routes: the way to a peer may lead through another
    /// interface now than the one that has the address.
    pub fn forget_sources(&mut self, is_gone: impl Fn(SocketAddr, IpAddr) -> bool) {
        for peer in self.peers.values_mut() {
            if let Some(Destination { remote, local: Some(local), .. }) = peer.endpoint
                && is_gone(remote, local)
            {
                peer.forget_source();
            }
        }
    }

    /// Every endpoint whose datagrams leave from one local address, and that address.
    pub fn pinned_sources(&self) -> impl Iterator<Item = (SocketAddr, IpAddr)> + '_ {
        let endpoints = self.peers.values().filter_map(|peer| peer.endpoint);
        endpoints.filter_map(|endpoint| Some((endpoint.remote, endpoint.local?)))
    }

    /// Our public key.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(Identity::public_key)
    }

    /// Our private key.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.private_key.as_ref()
    }

    /// Every peer as it is now, in order of creation.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        self.by_age().map(|peer| PeerStatus {
            public_key: peer.public_key,
            endpoint: peer.endpoint.map(|endpoint| endpoint.remote),
            source: peer.endpoint.and_then(|endpoint| endpoint.local),
            persistent_keepalive: peer.keepalive.interval(),
            allowed_ips: self.allowed_ips.of_peer(peer.index).collect(),
            last_handshake: peer.last_handshake,
            tx_bytes: peer.tx_bytes,
            rx_bytes: peer.rx_bytes,
        })
    }

    /// The pre-shared keys of the [`peers`](Self::peers), in their order.
    pub fn preshared_keys(&self) -> impl Iterator<Item = Option<&PresharedKey>> + '_ {
        self.by_age().map(|peer| peer.preshared_key.as_ref())
    }

    fn by_age(&self) -> impl Iterator<Item = &Peer<I::Session>> + '_ {
        let mut peers: Vec<_> = self.peers.values().collect();
        peers.sort_unstable_by_key(|peer| peer.created);
        peers.into_iter()
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// What was counted since the tunnel was made.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Appends the control messages that found the sink full.
    pub(crate) fn flush_control<S: DatagramSink<Sealing>>(
        &mut self,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), SinkFull> {
        while let Some(message) = self.shared.control.front() {
            let (index, len) = (message.peer, message.as_bytes().len());
            if control::append(message.to, message.as_bytes(), sink).is_err() {
                self.shared.hold(now);
                return Err(SinkFull);
            }
            self.shared.control.pop();
            if let Some(peer) = self.peers.get_mut(index) {
                peer.count_sent_bytes(len, &mut self.shared);
            }
        }
        Ok(())
    }

    /// Who gets a packet.
    ///
    /// # Errors
    /// It was dropped and counted.
    fn route(&mut self, packet: &[u8]) -> Result<Route<'_, I>, Sent> {
        if !self.is_up {
            self.shared.counters.drops.tx_link_down += 1;
            return Err(Sent::Taken);
        }
        let Some(inner) = Inner::parse(packet) else {
            self.shared.counters.drops.tx_malformed += 1;
            return Err(Sent::Taken);
        };
        if self.has_come_back(&packet[..inner.len], &inner) {
            self.shared.counters.drops.tx_loop += 1;
            return Err(Sent::Taken);
        }
        let drops = &mut self.shared.counters.drops;
        let Some(index) = self.allowed_ips.route(inner.destination) else {
            drops.tx_no_route += 1;
            return Err(Sent::Unreachable);
        };
        let Some(identity) = &mut self.identity else {
            drops.tx_no_private_key += 1;
            return Err(Sent::Taken);
        };
        let Some(peer) = self.peers.get_mut(index) else {
            debug_assert!(false, "allowed IPs name only peers that are there");
            drops.tx_no_route += 1;
            return Err(Sent::Unreachable);
        };
        Ok(Route { peer, ecn: inner.ecn, identity, shared: &mut self.shared })
    }
}

impl<I: Identity> fmt::Debug for Tunnel<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("public_key", &self.public_key())
            .field("peers", &self.peer_count())
            .field("poll_timeout", &self.poll_timeout())
            .finish_non_exhaustive()
    }
}
