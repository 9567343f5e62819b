//! Datagrams in, packets out: one by one, or a train at a time in steps of which one may be any thread's.

use std::{sync::Arc, time::Instant};

use encrypt::{
    DATA_HEADER_LEN, Identity, Message, Opened, PeerIndex, Reject, Session,
    transport::{Arrived, TrainOpening},
};
use gso_queue::{DatagramSink, Ecn};

use crate::{
    Arrival, Counters, Sealing, Tunnel,
    inner::{self, Inner},
};

impl<I: Identity> Tunnel<I> {
    /// Takes one UDP datagram, and opens it in place. What is left of its bytes otherwise is worth nothing.
    ///
    /// `Some` is an IP packet for the TUN: authenticated, its source checked against the peer's allowed IPs,
    /// congestion marks folded in. Replies, and packets that waited for the
    /// session, go into `sink`; what does not fit there is kept for later, within bounds.
    pub fn receive<'d, S: DatagramSink<Sealing>>(
        &mut self,
        datagram: &'d mut [u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Option<&'d mut [u8]> {
        self.begin_to_receive(now, sink)?;
        match Message::parse(datagram) {
            Ok(Message::Data { receiver, .. }) => {
                let index = self.identity.as_ref().and_then(|identity| identity.peer_of(receiver));
                let open = |session: &mut I::Session, identity: &mut I, datagram: &mut [u8]| {
                    session.open(identity, datagram, now)
                };
                self.receive_data(index, open, datagram, from, now, sink)
            }
            Ok(message) => {
                self.receive_handshake(message, datagram, from, now, sink);
                None
            }
            Err(reject) => {
                self.shared.counters.drops.count(reject);
                None
            }
        }
    }

    /// Takes a train of datagrams of `stride` bytes, of which the last may be shorter, as `UDP_GRO` gives it; a stride of 0 stands
    /// for one datagram. Does what [`receive`](Self::receive) does for each in order, and gives each packet to `deliver`; but what
    /// is of the same session is opened in one go.
    pub fn receive_train<S: DatagramSink<Sealing>>(
        &mut self,
        train: &mut [u8],
        stride: usize,
        from: Arrival,
        now: Instant,
        sink: &mut S,
        mut deliver: impl FnMut(&mut [u8]),
    ) {
        let mut opening = std::mem::take(&mut self.opening);
        self.prepare(train, stride, now, &mut opening);
        opening.run(train);
        while !opening.is_done() {
            if let Some(packet) = self.commit(train, &mut opening, from, now, sink) {
                deliver(packet);
            }
        }
        self.opening = opening;
    }

    /// The first step of [`receive_train`](Self::receive_train), for who has another thread for the second,
    /// [`TrainOpening::run`]: looks up which keys each datagram is for. Changes nothing.
    pub fn prepare(&self, train: &[u8], stride: usize, now: Instant, opening: &mut TrainOpening) {
        let identity = self.identity.as_ref().filter(|_| self.is_up);
        opening.prepare(train, stride, |receiver| {
            let index = identity?.peer_of(receiver)?;
            let session = self.peers.get(index)?.session.as_ref()?;
            Some((index, Arc::clone(session.opener(receiver, now)?)))
        });
    }

    /// The third step: takes the next datagram of the train, as [`receive`](Self::receive) does, once it has been opened. To be
    /// called until [`TrainOpening::is_done`]. Whatever has become of peers and sessions since is respected, and nothing is
    /// learned from a datagram before its turn.
    pub fn commit<'t, S: DatagramSink<Sealing>>(
        &mut self,
        train: &'t mut [u8],
        opening: &mut TrainOpening,
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Option<&'t mut [u8]> {
        let Arrived { place, opened } = opening.take_next()?;
        let datagram = train.get_mut(place)?;
        let Some((index, opened)) = opened else { return self.receive(datagram, from, now, sink) };
        self.begin_to_receive(now, sink)?;
        let commit = |session: &mut I::Session, identity: &mut I, datagram: &mut [u8]| {
            session.commit(identity, datagram, opened?, now)
        };
        self.receive_data(Some(index), commit, datagram, from, now, sink)
    }

    /// `None` if nothing is received now; that was counted.
    fn begin_to_receive<S: DatagramSink<Sealing>>(&mut self, now: Instant, sink: &mut S) -> Option<()> {
        if !self.is_up {
            self.shared.counters.drops.rx_link_down += 1;
            return None;
        }
        let _ = self.flush_control(now, sink); // if the sink is full, what this datagram causes is kept too
        if self.identity.is_none() {
            self.shared.counters.drops.rx_no_private_key += 1;
            return None;
        }
        Some(())
    }

    /// A data message of this peer's, whose session `open`s it.
    fn receive_data<'d, S: DatagramSink<Sealing>>(
        &mut self,
        index: Option<PeerIndex>,
        open: impl FnOnce(&mut I::Session, &mut I, &mut [u8]) -> Result<Opened, Reject>,
        datagram: &'d mut [u8],
        from: Arrival,
        now: Instant,
        sink: &mut S,
    ) -> Option<&'d mut [u8]> {
        let Self { identity: Some(identity), peers, shared, .. } = self else { return None };
        let found = index.and_then(|index| Some((index, peers.get_mut(index)?)));
        let Some((index, peer)) = found else {
            shared.counters.drops.rx_no_session += 1;
            return None;
        };
        let opened = match &mut peer.session {
            Some(session) => open(session, identity, datagram),
            None => Err(Reject::NoSession),
        };
        let received = datagram.len();
        shared.budget.carried(1, received);
        let (packet, confirms) = match opened {
            Ok(Opened::Packet { len, confirms }) => {
                (datagram.get_mut(DATA_HEADER_LEN..)?.get_mut(..len), confirms)
            }
            Ok(Opened::Keepalive { confirms }) => (None, confirms),
            Ok(_) => {
                shared.counters.drops.rx_other += 1;
                return None;
            }
            Err(reject) => {
                shared.counters.drops.count(reject);
                return None;
            }
        };
        peer.heard(received, from, confirms, now, shared);
        shared.counters.traffic.keepalives_received += u64::from(packet.is_none());
        peer.after_receiving(identity, now, shared, sink);
        self.accept(index, from.ecn, packet?)
    }

    /// Checks a decrypted packet and folds the outer congestion mark into it. `None`: dropped and counted.
    fn accept<'p>(&mut self, from: PeerIndex, outer: Ecn, packet: &'p mut [u8]) -> Option<&'p mut [u8]> {
        let Counters { drops, traffic } = &mut self.shared.counters;
        let Some(inner) = Inner::parse(packet) else {
            drops.rx_not_ip += 1;
            return None;
        };
        if !self.allowed_ips.permits(from, inner.source) {
            drops.rx_bad_source += 1;
            return None;
        }
        traffic.rx_ce_not_ect += u64::from(outer == Ecn::Ce && inner.ecn == Ecn::NotEct);
        let ecn = inner::decapsulate_ecn(outer, inner.ecn);
        if ecn != inner.ecn {
            inner::set_ecn(packet, ecn);
        }
        traffic.rx_packets += 1;
        packet.get_mut(..inner.len)
    }
}
