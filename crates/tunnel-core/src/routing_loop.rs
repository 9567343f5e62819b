//! Our own datagrams, recognised when they come back through the TUN: the route to the endpoint lies inside the
//! tunnel, if only in another peer's allowed IPs. Sealed again, they would come back again, longer each time. The kernel's
//! WireGuard, too, sends nothing to an endpoint whose route leads into its own interface.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

use encrypt::{Identity, PeerIndex};

use crate::{
    Tunnel,
    handshakes::Source,
    inner::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, Inner},
};

/// The protocol numbers of UDP and of IPv6's fragment header (IANA).
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;
const UDP_HEADER_LEN: usize = 8;
const IPV6_FRAGMENT_HEADER_LEN: usize = 8;

/// By what one peer's datagrams are recognised. Others may send to the same endpoint through the tunnel, from the same
/// port, even WireGuard's messages; none of theirs has these bytes.
#[derive(Debug, Default)]
pub(crate) struct OwnDatagrams {
    /// Type and receiver index of the data messages: the endpoint gives each index to one session.
    data: Option<[u8; 8]>,
    /// The beginning of the newest handshake message: ephemeral keys are random.
    handshake: Option<[u8; 16]>,
}

/// Whose endpoint an address and port are. (Of peers that have the same one, the last to come there.)
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    peers: HashMap<(IpAddr, u16), PeerIndex>,
    /// How many peers each address has.
    addresses: HashMap<Source, u32>,
    /// What names the fragments of a datagram of ours whose first one came back.
    fragments: Option<(IpAddr, u32)>,
}

/// A UDP packet, or a fragment of one.
enum Udp<'a> {
    /// With a header. `fragments` names those that follow, if it was cut up.
    First {
        port: u16,
        payload: &'a [u8],
        fragments: Option<u32>,
    },
    Later {
        fragments: u32,
    },
}

impl OwnDatagrams {
    /// A data message was laid into its batch, header and all.
    #[inline]
    pub(crate) fn laid(&mut self, message: &[u8]) {
        self.data = message.first_chunk().copied();
    }

    /// A handshake message or a keepalive was written.
    pub(crate) fn written(&mut self, message: &[u8]) {
        self.handshake = message.first_chunk().copied();
    }

    fn contain(&self, payload: &[u8]) -> bool {
        let is_data = self.data.is_some_and(|data| payload.starts_with(&data));
        let is_handshake = self.handshake.is_some_and(|handshake| payload.starts_with(&handshake));
        is_data || is_handshake
    }
}

impl Endpoints {
    /// A peer's endpoint was `before`, and is `now`.
    pub(crate) fn moved(&mut self, peer: PeerIndex, before: Option<SocketAddr>, now: Option<SocketAddr>) {
        if before == now {
            return;
        }
        if let Some(before) = before.map(key).filter(|before| self.peers.get(before) == Some(&peer)) {
            self.peers.remove(&before);
        }
        if let Some(now) = now {
            self.peers.insert(key(now), peer);
            *self.addresses.entry(now.ip().into()).or_default() += 1;
        }
        let left = before.map(|before| Source::from(before.ip()));
        if let Some(Entry::Occupied(mut count)) = left.map(|left| self.addresses.entry(left)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether peers are at this address, or in its network of 64 bits.
    pub(crate) fn are_at(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address.into())
    }
}

/// The scope of a link-local address is not in packets.
fn key(endpoint: SocketAddr) -> (IpAddr, u16) {
    (endpoint.ip(), endpoint.port())
}

impl<I: Identity> Tunnel<I> {
    /// True for a packet from the TUN that is a datagram of ours, to whichever peer, or a fragment of one.
    #[inline]
    pub(crate) fn has_come_back(&mut self, packet: &[u8], inner: &Inner) -> bool {
        match Udp::parse(packet).filter(Udp::may_be_ours) {
            Some(udp) => self.is_ours(&udp, inner.destination),
            None => false,
        }
    }

    #[cold]
    fn is_ours(&mut self, udp: &Udp<'_>, to: IpAddr) -> bool {
        let endpoints = &mut self.shared.endpoints;
        match *udp {
            Udp::First { port, payload, fragments } => {
                let peer = endpoints.peers.get(&(to, port)).and_then(|peer| self.peers.get_mut(*peer));
                let is_ours = peer.is_some_and(|peer| peer.own_datagrams.contain(payload));
                if is_ours {
                    endpoints.fragments = fragments.map(|fragments| (to, fragments));
                }
                is_ours
            }
            Udp::Later { fragments } => endpoints.fragments == Some((to, fragments)),
        }
    }
}

impl<'a> Udp<'a> {
    /// False for all that is no WireGuard message, so that other traffic costs no lookup.
    #[inline]
    fn may_be_ours(&self) -> bool {
        match self {
            Self::First { payload, .. } => matches!(payload, [1..=4, 0, 0, 0, ..]),
            Self::Later { .. } => true,
        }
    }

    /// `None` if it is something else, or cut short.
    #[inline]
    fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            _ => Self::parse_v6(packet),
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header: &[u8; IPV4_HEADER_LEN] = packet.first_chunk()?;
        if header[9] != UDP {
            return None;
        }
        let [offset_high, offset_low] = [header[6] & 0x1f, header[7]];
        let more = header[6] & 0x20 != 0;
        let identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
        if [offset_high, offset_low] != [0, 0] {
            return Some(Self::Later { fragments: identification });
        }
        let udp = packet.get(usize::from(header[0] & 0x0f) * 4..)?;
        Self::first(udp, more.then_some(identification))
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<IPV6_HEADER_LEN>()?;
        match header[6] {
            UDP => Self::first(rest, None),
            IPV6_FRAGMENT => {
                let (fragment, rest) = rest.split_first_chunk::<IPV6_FRAGMENT_HEADER_LEN>()?;
                let [next, _, offset_high, offset_low, i0, i1, i2, i3] = *fragment;
                let (offset, more) = ([offset_high, offset_low & !0b111], offset_low & 1 != 0);
                let identification = u32::from_be_bytes([i0, i1, i2, i3]);
                match (next, offset) {
                    (UDP, [0, 0]) => Self::first(rest, more.then_some(identification)),
                    (UDP, _) => Some(Self::Later { fragments: identification }),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn first(udp: &'a [u8], fragments: Option<u32>) -> Option<Self> {
        let (header, payload) = udp.split_first_chunk::<UDP_HEADER_LEN>()?;
        Some(Self::First { port: u16::from_be_bytes([header[2], header[3]]), payload, fragments })
    }
}
