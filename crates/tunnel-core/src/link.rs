//! The interface that the tunnel stands behind, set down and up.

use std::time::Instant;

use encrypt::{Identity, Session};
use gso_queue::DatagramSink;

use crate::{Sealing, Tunnel, peer::Peer, shared::Shared};

impl<I: Identity> Tunnel<I> {
    /// The interface was set down: sessions, handshakes and timers end, packets that wait are dropped, and until
    /// [`link_up`](Self::link_up) nothing is sent, opened or due. Peers, endpoints, keys and counters stay, and so does
    /// what may be changed by [`update`](Self::update). As in the kernel. A new tunnel is up.
    pub fn link_down(&mut self, now: Instant) {
        self.is_up = false;
        self.shared.counters.drops.rx_link_down += self.handshakes.clear();
        for peer in self.peers.values_mut() {
            self.shared.control.forget(peer.index);
            peer.link_down(self.identity.as_mut(), now, &mut self.shared);
        }
    }

    /// The interface was set up: peers with a persistent keepalive are sent one, which starts a handshake. Nothing
    /// happens if it is up already.
    pub fn link_up<S: DatagramSink<Sealing>>(&mut self, now: Instant, sink: &mut S) {
        if self.is_up {
            return;
        }
        self.is_up = true;
        for peer in self.peers.values_mut().filter(|_| self.identity.is_some()) {
            peer.keepalive.hurry(now);
            peer.look_at(now, &mut self.shared);
        }
        self.handle_timeout(now, sink);
    }
}

impl<S: Session> Peer<S> {
    /// The session stays, without keys: it knows which initiations are to be refused.
    fn link_down(&mut self, identity: Option<&mut S::Identity>, now: Instant, shared: &mut Shared) {
        if let (Some(session), Some(identity)) = (&mut self.session, identity) {
            session.end(identity, now);
        }
        shared.counters.drops.tx_link_down += self.waiting.clear(&mut shared.waiting);
        self.stand_still(shared);
    }
}
