//! Two tunnels that have shaken hands, without a network between them.

use std::time::Instant;

use encrypt::{Identity, PrivateKey, PublicKey};
use gso_queue::{Batch, Destination, GsoQueue};
use tun_device::Coalescer;
use tunnel_core::{AllowedIpUpdate, Arrival, PeerUpdate, SinkFull, Tunnel, TunnelConfig, TunnelUpdate};

use crate::{peer, tcp_packet};

/// A tunnel and the queue that it fills.
pub struct Side<I: Identity> {
    /// The tunnel.
    pub tunnel: Tunnel<I>,
    /// Its outgoing datagrams.
    pub queue: GsoQueue,
    /// Where the other one is.
    other: Destination,
}

/// Two of them, each the other's only peer. `left` has 10.1.0.0/16 behind it, `right` 10.2.0.0/16.
pub struct Pair<I: Identity> {
    /// Who began the handshake.
    pub left: Side<I>,
    /// The other.
    pub right: Side<I>,
}

impl<I: Identity> Pair<I> {
    /// Two tunnels with a live session, and nothing under way.
    pub fn connected(now: Instant) -> Self {
        let [left_key, right_key] = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
        let (left_peer, right_peer) = (left_key.public_key(), right_key.public_key());
        let mut pair = Self {
            left: Side::new(0, left_key, right_peer, "10.2.0.0/16", now),
            right: Side::new(1, right_key, left_peer, "10.1.0.0/16", now),
        };
        let mut packet = tcp_packet(100);
        let mut segments = tun_device::Segments::new(&mut packet).expect("a good frame");
        pair.left.send(segments.next().expect("one packet"), now);
        let mut arrived = 0;
        while !(pair.left.queue.is_empty() && pair.right.queue.is_empty()) {
            pair.left.deliver(&mut pair.right, now, |_| arrived += 1);
            pair.right.deliver(&mut pair.left, now, |_| panic!("nobody answers"));
        }
        assert_eq!(arrived, 1, "the packet that waited for the handshake arrives");
        pair
    }
}

impl<I: Identity> Side<I> {
    fn new(i: usize, key: PrivateKey, other: PublicKey, behind_it: &str, now: Instant) -> Self {
        let mut side = Self {
            tunnel: Tunnel::new(TunnelConfig::default()),
            queue: GsoQueue::default(),
            other: peer(1 - i),
        };
        let peer_update = PeerUpdate {
            endpoint: Some(side.other.remote),
            allowed_ips: vec![AllowedIpUpdate::Add(behind_it.parse().expect("a prefix"))],
            ..PeerUpdate::new(other)
        };
        let update = TunnelUpdate {
            private_key: Some(Some(key)),
            peers: vec![peer_update],
            ..TunnelUpdate::default()
        };
        side.tunnel.update(update, now, &mut side.queue).expect("a good configuration");
        side
    }

    /// Sends one IP packet; the queue must have room.
    pub fn send(&mut self, packet: &[u8], now: Instant) {
        let Ok(()) = self.try_send(packet, now) else { panic!("the queue is full") };
    }

    /// Sends one IP packet, if the queue has room.
    ///
    /// # Errors
    /// If not.
    pub fn try_send(&mut self, packet: &[u8], now: Instant) -> Result<(), SinkFull> {
        self.tunnel.send(packet, now, &mut self.queue).map(drop)
    }

    /// Gives every queued datagram to `other`, and every packet that comes out there to `accept`.
    pub fn deliver(&mut self, other: &mut Self, now: Instant, mut accept: impl FnMut(&[u8])) {
        while let Some(batch) = self.queue.pop() {
            let batch = batch.finish();
            other.receive(&batch, now, &mut accept);
            self.queue.recycle(batch);
        }
    }

    /// Opens a batch from the other side. Gives each packet to `accept`, and their number.
    pub fn receive(&mut self, batch: &Batch, now: Instant, mut accept: impl FnMut(&[u8])) -> usize {
        let mut out = [0; 2048];
        let from = Arrival::from(self.other.remote);
        let mut packets = 0;
        for datagram in batch.datagrams() {
            if let Some(len) = self.tunnel.receive(datagram, from, &mut out, now, &mut self.queue) {
                accept(&out[..len]);
                packets += 1;
            }
        }
        packets
    }

    /// Opens a batch from the other side, as the runtime does: straight into the coalescer's slots.
    pub fn receive_into(&mut self, batch: &Batch, now: Instant, coalescer: &mut Coalescer) {
        let from = Arrival::from(self.other.remote);
        for datagram in batch.datagrams() {
            let opened = self.tunnel.receive(datagram, from, coalescer.slot(), now, &mut self.queue);
            if let Some(len) = opened {
                coalescer.commit(len).expect("room for one flow");
            }
        }
    }

    /// Throws away what is queued. Gives the number of batches.
    pub fn discard(&mut self) -> usize {
        let mut batches = 0;
        while let Some(batch) = self.queue.pop() {
            self.queue.recycle(batch);
            batches += 1;
        }
        batches
    }
}
