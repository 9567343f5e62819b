//! The tunnel: packets and `now` in, datagrams out.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use encrypt::{Identity, PrivateKey, PublicKey};
use gso_queue::{DatagramSink, Destination, Ecn};

use crate::{Counters, PeerStatus, TunnelConfig};

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

/// The sink took nothing: flush it, then send the same packet again. Nothing was consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sink is full: flush it, then send the same packet again")]
pub struct SinkFull;

/// A WireGuard tunnel over the crypto backend `I`.
pub struct Tunnel<I: Identity> {
    identity: Option<I>,
    config: TunnelConfig,
    counters: Counters,
}

impl<I: Identity> Tunnel<I> {
    /// A tunnel with no key and no peers.
    pub fn new(config: TunnelConfig) -> Self {
        Self { identity: None, config, counters: Counters::default() }
    }

    /// Changes the inner MTU, bytes.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.config.mtu = mtu;
    }

    /// Takes one IP packet from the TUN: sealed into `sink`, or queued for a handshake, or dropped and
    /// counted.
    ///
    /// # Errors
    /// Only when the sink is full: flush it and send the same packet again; nothing was consumed.
    pub fn send<S: DatagramSink>(
        &mut self,
        packet: &[u8],
        now: Instant,
        sink: &mut S,
    ) -> Result<(), SinkFull> {
        let _ = (packet, now, sink);
        Ok(())
    }

    /// Takes one UDP datagram. `out` must be at least as long as the datagram, and at least
    /// [`encrypt::MAX_CONTROL_LEN`] bytes.
    ///
    /// `Some(len)` means that `out[..len]` is an IP packet for the TUN. Replies, and packets that waited
    /// for the session, go into `sink`.
    pub fn receive<S: DatagramSink>(
        &mut self,
        datagram: &[u8],
        from: Arrival,
        out: &mut [u8],
        now: Instant,
        sink: &mut S,
    ) -> Option<usize> {
        let _ = (datagram, from, out, now, sink);
        None
    }

    /// Runs every deadline that has passed.
    pub fn handle_timeout<S: DatagramSink>(&mut self, now: Instant, sink: &mut S) {
        let _ = (now, sink);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `None` when nothing is pending. Ask
    /// again after every call that takes `now`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The send to `destination` failed because its pinned local address is no longer ours: stop
    /// pinning it, until the peer is heard from again.
    pub fn forget_source(&mut self, destination: Destination) {
        let _ = destination;
    }

    /// Our public key.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(Identity::public_key)
    }

    /// Our private key.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        None
    }

    /// Every peer as it is now, in order of creation.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        std::iter::empty()
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        0
    }

    /// What was counted since the tunnel was made.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
