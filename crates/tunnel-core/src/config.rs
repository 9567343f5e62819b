//! What a tunnel can be told: the whole of WireGuard's configuration, as one validated update.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;

/// The tunnel's own bounds. None of them is part of WireGuard's configuration.
#[derive(Clone, Copy, Debug)]
pub struct TunnelConfig {
    /// Inner MTU, bytes: packets are padded to 16 bytes, but never beyond it (paper §5.4.6).
    pub mtu: usize,
    /// Most peers the tunnel accepts.
    pub max_peers: usize,
    /// Most packets that wait for one peer's handshake.
    pub waiting_packets: usize,
    /// Most bytes that wait for one peer's handshake.
    pub waiting_bytes: usize,
    /// Most bytes that wait for all peers' handshakes together.
    pub waiting_bytes_total: usize,
    /// Make ICMP errors for packets that cannot go.
    pub icmp_unreachable: bool,
    /// Most handshake messages that wait for their turn. While a quarter of so many do, and for a second after, we are "under
    /// load" (paper §5.3).
    pub handshake_backlog: usize,
}

impl Default for TunnelConfig {
    fn default() -> Self {
        Self {
            // What wg-quick sets when the route says nothing: 1500 − 40 (IPv6) − 8 (UDP) − 32.
            mtu: 1420,
            // The kernel's bound (drivers/net/wireguard/messages.h, MAX_PEERS_PER_DEVICE).
            max_peers: 1 << 20,
            // The kernel's bound (messages.h, MAX_STAGED_PACKETS).
            waiting_packets: 128,
            // 128 packets of an Ethernet MTU.
            waiting_bytes: 128 * 1500,
            // Some twenty dead peers at their bound; a tenth of the memory the daemon may use.
            waiting_bytes_total: 4 << 20,
            icmp_unreachable: true,
            // The kernel's bound (messages.h, MAX_QUEUED_INCOMING_HANDSHAKES): some 900 KiB, given back when nothing waits.
            handshake_backlog: 4096,
        }
    }
}

/// A change to a tunnel, applied whole or not at all. Fields left `None` stay as they are.
#[derive(Clone, Debug, Default)]
pub struct TunnelUpdate {
    /// `Some(None)` clears the private key.
    pub private_key: Option<Option<PrivateKey>>,
    /// Remove every peer before `peers` is applied, those named there included: they are made anew.
    pub replace_peers: bool,
    /// Changes to peers, applied in order.
    pub peers: Vec<PeerUpdate>,
}

/// A change to one peer; creates it unless `update_only` or `remove`.
#[derive(Clone, Debug)]
pub struct PeerUpdate {
    /// Which peer.
    pub public_key: PublicKey,
    /// Remove it.
    pub remove: bool,
    /// Ignore this update if there is no such peer.
    pub update_only: bool,
    /// `Some(None)` clears the pre-shared key.
    pub preshared_key: Option<Option<PresharedKey>>,
    /// Where to send to, until the peer roams.
    pub endpoint: Option<SocketAddr>,
    /// Seconds; 0 is off. Turning it on sends one at once.
    pub persistent_keepalive: Option<u16>,
    /// Drop the peer's allowed IPs before `allowed_ips` is applied.
    pub replace_allowed_ips: bool,
    /// Changes to the peer's allowed IPs, in order. A prefix given to one peer leaves its old one.
    pub allowed_ips: Vec<AllowedIpUpdate>,
}

impl PeerUpdate {
    /// An update of this peer that changes nothing yet.
    pub const fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One change to a peer's allowed IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedIpUpdate {
    /// Give the prefix to this peer.
    Add(IpNet),
    /// Take the prefix from this peer, if it has it.
    Remove(IpNet),
}

/// A peer as it is now, without its secret: see [`Tunnel::preshared_keys`](crate::Tunnel::preshared_keys).
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Static public key.
    pub public_key: PublicKey,
    /// Where it was last heard from, or was configured to be.
    pub endpoint: Option<SocketAddr>,
    /// The local address that datagrams to it leave from: the one it last sent to. `None` leaves it to the route.
    pub source: Option<IpAddr>,
    /// Seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// Sorted.
    pub allowed_ips: Vec<IpNet>,
    /// When the newest session was confirmed: for its initiator the response came, for its responder the first
    /// message under its keys.
    pub last_handshake: Option<Instant>,
    /// Bytes of UDP payload sent to it, handshakes included.
    pub tx_bytes: u64,
    /// Bytes of authenticated UDP payload received from it.
    pub rx_bytes: u64,
}
