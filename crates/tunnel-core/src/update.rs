//! Applying an update: all of it or nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use encrypt::{Identity, PeerIndex, PresharedKey, PrivateKey, PublicKey};
use gso_queue::{DatagramSink, Destination};

use crate::{AllowedIpUpdate, PeerUpdate, Sealing, Tunnel, TunnelUpdate, peer::Peer};

/// Why an update changed nothing. Each is the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// More peers than [`TunnelConfig::max_peers`](crate::TunnelConfig::max_peers).
    #[error("more than {0} peers: remove some, or raise `TunnelConfig::max_peers`")]
    TooManyPeers(usize),
}

impl<I: Identity> Tunnel<I> {
    /// Validates all, then applies all. May send into `sink`: turning a persistent keepalive on sends one at
    /// once, or starts the handshake for it. Nothing else here starts a handshake.
    ///
    /// As in the kernel, a peer with our own public key is ignored silently, and removed if our key becomes
    /// its key; `replace_peers` makes each peer anew, without the session, endpoint and counters of one of that key
    /// before it; and a private key is kept as X25519 uses it, clamped.
    ///
    /// An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is the IPv4 address: our IPv6 sockets carry
    /// no IPv4.
    ///
    /// A changed private key ends every session; packets that wait stay. A changed pre-shared key ends none: the
    /// peer's next handshake uses it. Setting what is already set changes nothing.
    ///
    /// # Errors
    /// Nothing was changed then.
    pub fn update<S: DatagramSink<Sealing>>(
        &mut self,
        update: TunnelUpdate,
        now: Instant,
        sink: &mut S,
    ) -> Result<(), UpdateError> {
        let new_identity = self.identity_after(&update, now);
        let own_key = match &new_identity {
            Some(changed) => changed.as_ref().map(|(identity, _)| identity.public_key()),
            None => self.public_key(),
        };
        self.check_peer_count(&update, own_key)?;

        if update.replace_peers {
            self.remove_all_peers(now);
        }
        if let Some(identity) = new_identity {
            self.change_identity(identity, now);
        }
        for peer in update.peers.into_iter().filter(|peer| Some(peer.public_key) != own_key) {
            self.update_peer(peer, now);
        }
        self.handle_timeout(now, sink);
        Ok(())
    }

    /// The new identity with its key, if `update` changes it; `Some(None)` if it clears it.
    fn identity_after(&self, update: &TunnelUpdate, now: Instant) -> Option<Option<(I, PrivateKey)>> {
        let key = update.private_key.clone()?.map(PrivateKey::clamped);
        if key == self.private_key {
            return None;
        }
        Some(key.map(|key| (I::new(&key, now), key)))
    }

    /// Refuses an update during which there would be too many peers.
    fn check_peer_count(&self, update: &TunnelUpdate, own_key: Option<PublicKey>) -> Result<(), UpdateError> {
        let is_peer = |key: &PublicKey| !update.replace_peers && self.peers.find(key).is_some();
        let mut count = if update.replace_peers { 0 } else { self.peers.len() };
        let mut changed: HashMap<PublicKey, bool> = HashMap::new();
        if let Some(key) = own_key
            && is_peer(&key)
        {
            count -= 1;
        }
        for peer in update.peers.iter().filter(|peer| Some(peer.public_key) != own_key) {
            let exists = changed.entry(peer.public_key).or_insert_with(|| is_peer(&peer.public_key));
            if peer.remove {
                count -= usize::from(*exists);
                *exists = false;
            } else if !(*exists || peer.update_only) {
                count += 1;
                *exists = true;
            }
            if count > self.max_peers {
                return Err(UpdateError::TooManyPeers(self.max_peers));
            }
        }
        Ok(())
    }

    fn remove_all_peers(&mut self, now: Instant) {
        let all: Vec<PublicKey> = self.peers.values().map(|peer| peer.public_key).collect();
        for key in all {
            self.remove_peer(&key, now);
        }
    }

    /// Sessions belong to the identity: all end. Their timestamps stay with the peer, so that should this key come back, no
    /// initiation that was recorded meanwhile is of use (paper §5.1); but boringtun cannot tell them. A peer that turns out to be
    /// ourselves is removed.
    fn change_identity(&mut self, identity: Option<(I, PrivateKey)>, now: Instant) {
        let (identity, private_key) = identity.unzip();
        let has_key = identity.is_some();
        if let Some(own_key) = identity.as_ref().map(Identity::public_key) {
            self.remove_peer(&own_key, now);
        }
        for peer in self.peers.values_mut() {
            self.shared.control.forget(peer.index);
            if has_key {
                peer.end_session(self.identity.as_mut(), now);
                peer.look_at(now, &mut self.shared);
            } else {
                peer.shut_down(self.identity.as_mut(), now, &mut self.shared);
            }
        }
        // They are for the old key.
        self.shared.counters.drops.rx_bad_mac += self.handshakes.clear();
        self.identity = identity;
        self.private_key = private_key;
    }

    fn update_peer(&mut self, update: PeerUpdate, now: Instant) {
        if update.remove {
            self.remove_peer(&update.public_key, now);
            return;
        }
        let found = self.peers.find(&update.public_key);
        if found.is_none() && update.update_only {
            return;
        }
        let Some(index) = found.or_else(|| self.create_peer(update.public_key)) else {
            debug_assert!(false, "the number of peers was checked");
            return;
        };
        if update.replace_allowed_ips {
            self.allowed_ips.remove_all(index);
        }
        for change in &update.allowed_ips {
            match *change {
                AllowedIpUpdate::Add(prefix) => self.allowed_ips.insert(index, prefix),
                AllowedIpUpdate::Remove(prefix) => self.allowed_ips.remove(index, prefix),
            }
        }
        let has_key = self.identity.is_some();
        let Some(peer) = self.peers.get_mut(index) else { return };
        if let Some(preshared_key) = update.preshared_key
            && !same_key(peer.preshared_key.as_ref(), preshared_key.as_ref())
        {
            peer.set_preshared_key(self.identity.as_mut(), preshared_key, now);
        }
        if let Some(remote) = update.endpoint {
            let was_known = peer.endpoint.is_some();
            // Its source is forgotten, even if it is where it was: whoever sets it wants a fresh start.
            peer.set_endpoint(Destination::new(unmapped(remote)), &mut self.shared);
            if !was_known {
                peer.keepalive.hurry(now);
            }
        }
        if let Some(interval) = update.persistent_keepalive {
            peer.keepalive.set(interval, now);
        }
        if has_key {
            peer.look_at(now, &mut self.shared);
        }
    }

    fn create_peer(&mut self, key: PublicKey) -> Option<PeerIndex> {
        let created = self.created;
        self.created += 1;
        self.peers.insert(key, |index| Peer::new(index, key, created))
    }

    fn remove_peer(&mut self, key: &PublicKey, now: Instant) {
        let Some(mut peer) = self.peers.remove(key) else { return };
        peer.shut_down(self.identity.as_mut(), now, &mut self.shared);
        self.shared.endpoints.moved(peer.index, peer.endpoint.map(|endpoint| endpoint.remote), None);
        self.shared.control.forget(peer.index);
        self.allowed_ips.remove_all(peer.index);
    }
}

/// An IPv4 address as such, however it is written; any other as it is.
fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        IpAddr::V6(_) => address,
    }
}

fn same_key(a: Option<&PresharedKey>, b: Option<&PresharedKey>) -> bool {
    a.map(PresharedKey::as_bytes) == b.map(PresharedKey::as_bytes)
}
