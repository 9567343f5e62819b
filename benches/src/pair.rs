//! Two tunnels that have shaken hands, without a network between them.

use std::time::Instant;

use encrypt::{Identity, PrivateKey, PublicKey};
use gso_queue::{Destination, GsoQueue, Unfinished};
use tun_device::{Coalescer, Segments};
use tunnel_core::{
    AllowedIpUpdate, Arrival, Packets, PeerUpdate, Sealing, Sent, SinkFull, Tunnel, TunnelConfig,
    TunnelUpdate,
};

use crate::{peer, tcp_packet};

/// A tunnel and the queue that it fills.
pub struct Side<I: Identity> {
    /// The tunnel.
    pub tunnel: Tunnel<I>,
    /// Its outgoing datagrams.
    pub queue: GsoQueue<Sealing>,
    /// Where the other one is.
    other: Destination,
}

/// A receive buffer: what one GRO receive gives.
#[derive(Default)]
pub struct Train {
    bytes: Vec<u8>,
    stride: usize,
}

impl Train {
    /// Holds what a batch sends, and gives its buffer back.
    pub fn receive(&mut self, batch: Unfinished<Sealing>, queue: &mut GsoQueue<Sealing>) {
        let batch = batch.finish();
        self.bytes.clear();
        self.bytes.extend_from_slice(batch.unsent());
        self.stride = batch.segment_len();
        queue.recycle(batch);
    }
}

/// Two of them, each the other's only peer. `left` has 10.1.0.0/16 behind it, `right` 10.2.0.0/16.
pub struct Pair<I: Identity> {
    /// Who began the handshake.
    pub left: Side<I>,
    /// The other.
    pub right: Side<I>,
}

/// A frame's packets.
struct Cut<'a>(Segments<'a>);

impl Packets for Cut<'_> {
    fn packet(&self) -> Option<&[u8]> {
        self.0.current()
    }

    fn advance(&mut self) {
        self.0.next();
    }
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
        let mut segments = Segments::new(&mut packet).expect("a good frame");
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

    /// Sends a frame of the TUN's, cut up, as the runtime does; the queue must have room.
    pub fn send_frame(&mut self, frame: &mut [u8], now: Instant) {
        let mut segments = Segments::new(frame).expect("a good frame");
        segments.next();
        let sent = self.tunnel.send_all(&mut Cut(segments), now, &mut self.queue);
        assert_eq!(sent, Ok(Sent::Taken));
    }

    /// Gives every queued datagram to `other`, and every packet that comes out there to `accept`.
    pub fn deliver(&mut self, other: &mut Self, now: Instant, mut accept: impl FnMut(&[u8])) {
        let mut train = Train::default();
        while let Some(batch) = self.queue.pop() {
            train.receive(batch, &mut self.queue);
            other.receive(&mut train, now, &mut accept);
        }
    }

    /// Opens a train from the other side. Gives each packet to `accept`, and their number.
    pub fn receive(&mut self, train: &mut Train, now: Instant, mut accept: impl FnMut(&[u8])) -> usize {
        let from = Arrival::from(self.other.remote);
        let mut packets = 0;
        let Train { bytes, stride } = train;
        self.tunnel.receive_train(bytes, *stride, from, now, &mut self.queue, |packet| {
            accept(packet);
            packets += 1;
        });
        packets
    }

    /// Opens a train from the other side, as the runtime does: each packet goes to the coalescer.
    pub fn receive_into(&mut self, train: &mut Train, now: Instant, coalescer: &mut Coalescer) {
        self.receive(train, now, |packet| coalescer.push(packet).expect("room for one flow"));
    }

    /// Finishes what is queued and throws it away. Gives the number of batches.
    pub fn discard(&mut self) -> usize {
        let mut batches = 0;
        while let Some(batch) = self.queue.pop() {
            self.queue.recycle(batch.finish());
            batches += 1;
        }
        batches
    }
}
