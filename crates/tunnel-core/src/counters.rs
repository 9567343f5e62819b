//! Plain counters. Everything dropped has a reason, and every reason has a name.

use encrypt::Reject;

use crate::unreachable::Silence;

/// Declares a struct of `u64`s and the table of its names.
macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Every counter's name and value, in a fixed order.
            fn table(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// What was sent and received; see [`Counters`] for the whole.
    Traffic {
        /// Inner packets sealed and handed to the sink.
        tx_packets,
        /// Bytes of UDP payload handed to the sink: data, keepalives and handshakes.
        tx_bytes,
        /// Inner packets handed to the caller.
        rx_packets,
        /// Bytes of authenticated UDP payload.
        rx_bytes,
        /// Keepalives sent, passive and persistent.
        keepalives_sent,
        /// Keepalives received.
        keepalives_received,
        /// Handshake initiations sent, retries included.
        initiations_sent,
        /// Handshake initiations that authenticated.
        initiations_received,
        /// Handshake responses sent.
        responses_sent,
        /// Handshake responses that authenticated.
        responses_received,
        /// Cookie replies sent, because we were under load.
        cookies_sent,
        /// Cookie replies taken from a peer under load.
        cookies_received,
        /// Times a peer's endpoint moved to where an authenticated datagram came from.
        endpoints_learned,
        /// Inner packets that are not ECN-capable and whose outer header said "congestion experienced". They
        /// are passed unmarked; many of them mean that something on the path marks everything.
        rx_ce_not_ect,
        /// ICMP errors made for packets that cannot go.
        icmp_unreachable_sent,
        /// Packets that cannot go and were not answered: ICMP errors, which never are.
        icmp_silent_error,
        /// Not answered: for more than one host.
        icmp_silent_multicast,
        /// Not answered: fragments but the first.
        icmp_silent_fragment,
        /// Not answered: from an address that is not one host's, or to one that cannot answer.
        icmp_silent_address,
        /// Not answered: headers that end before they tell whether it is an ICMP error.
        icmp_silent_cut_short,
        /// Not answered: more than 50 at once, or 1,000 a second.
        icmp_silent_rate,
    }
}

counters! {
    /// What was dropped, by reason. `tx` reasons are about packets from the TUN, `rx` about datagrams.
    Drops {
        /// tx: not a whole IPv4 or IPv6 packet.
        tx_malformed,
        /// tx: no peer's allowed IPs hold the destination.
        tx_no_route,
        /// tx: the peer's endpoint is not known.
        tx_no_endpoint,
        /// tx: the tunnel has no private key.
        tx_no_private_key,
        /// tx: a datagram of our own that came back through the TUN: the route to the endpoint lies inside the tunnel.
        tx_loop,
        /// tx: longer than one UDP datagram can carry.
        tx_too_big,
        /// tx: pushed out of, or refused by, the queue of packets waiting for a session.
        tx_waiting_full,
        /// tx: waited for a handshake that was never answered.
        tx_handshake_expired,
        /// tx: waited for a peer that was removed, or whose key or endpoint went away.
        tx_peer_gone,
        /// tx: the interface was set down, or is down.
        tx_link_down,
        /// tx: a handshake message or keepalive that found the sink and the control queue full.
        tx_control_full,
        /// rx: not a WireGuard message.
        rx_malformed,
        /// rx: mac1 does not verify.
        rx_bad_mac,
        /// rx: a handshake that does not authenticate.
        rx_bad_handshake,
        /// rx: a handshake from a public key that is no peer's.
        rx_unknown_peer,
        /// rx: no session has this receiver index.
        rx_no_session,
        /// rx: the AEAD tag does not verify.
        rx_bad_tag,
        /// rx: a counter seen already, or too old.
        rx_replay,
        /// rx: a handshake seen already.
        rx_replayed_handshake,
        /// rx: a handshake within 20 ms of the peer's last one.
        rx_handshake_too_soon,
        /// rx: a handshake of a sender without a cookie while we are under load: it was given one.
        rx_under_load,
        /// rx: a handshake past what its address, though proven, may have computed in a second under load.
        rx_handshake_rate,
        /// rx: a handshake that found the backlog full, or made room in it for another.
        rx_handshake_backlog_full,
        /// rx: authenticated content that is no IP packet.
        rx_not_ip,
        /// rx: an inner source address that is not in the peer's allowed IPs.
        rx_bad_source,
        /// rx: the tunnel has no private key.
        rx_no_private_key,
        /// rx: the interface is down.
        rx_link_down,
        /// rx: refused for a reason that this version does not know.
        rx_other,
    }
}

impl Traffic {
    /// Counts a packet that cannot go and is not answered.
    pub(crate) fn count_silence(&mut self, silence: Silence) {
        *match silence {
            Silence::IcmpError => &mut self.icmp_silent_error,
            Silence::Multicast => &mut self.icmp_silent_multicast,
            Silence::Fragment => &mut self.icmp_silent_fragment,
            Silence::Address => &mut self.icmp_silent_address,
            Silence::CutShort => &mut self.icmp_silent_cut_short,
            Silence::RateLimit => &mut self.icmp_silent_rate,
        } += 1;
    }
}

impl Drops {
    /// Counts a datagram that the backend refused.
    pub(crate) fn count(&mut self, reject: Reject) {
        *match reject {
            Reject::Malformed => &mut self.rx_malformed,
            Reject::BadMac => &mut self.rx_bad_mac,
            Reject::BadHandshake => &mut self.rx_bad_handshake,
            Reject::NoSession => &mut self.rx_no_session,
            Reject::BadTag => &mut self.rx_bad_tag,
            Reject::Replay => &mut self.rx_replay,
            Reject::ReplayedHandshake => &mut self.rx_replayed_handshake,
            Reject::TooSoon => &mut self.rx_handshake_too_soon,
            Reject::UnknownPeer => &mut self.rx_unknown_peer,
            Reject::NotIp => &mut self.rx_not_ip,
            Reject::UnderLoad => &mut self.rx_under_load,
            _ => &mut self.rx_other,
        } += 1;
    }
}

/// Everything a tunnel counts since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent and received.
    pub traffic: Traffic,
    /// Dropped, by reason.
    pub drops: Drops,
}

impl Counters {
    /// Names and values of what was sent and received, in a fixed order.
    pub fn traffic(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        self.traffic.table()
    }

    /// Names and values of every drop reason, in a fixed order.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        self.drops.table()
    }
}
