//! The one outgoing path: every datagram, data and handshake alike, is appended to a [`DatagramSink`].

use std::net::{IpAddr, SocketAddr};

use crate::{Slot, Work};

/// The longest UDP payload over IPv4, bytes: 65,535 less 20 of IP header and 8 of UDP (RFC 791, RFC 768).
pub const MAX_PAYLOAD_V4: usize = 65_535 - 20 - 8;

/// The longest payload that we send over IPv6, bytes. UDP and Linux take 40 more, but then the train with
/// its IPv6 header is longer than 65,535 bytes, more than a device has to take (`GSO_LEGACY_MAX_SIZE`,
/// linux/netdevice.h).
pub const MAX_PAYLOAD_V6: usize = 65_535 - 40 - 8;

/// The two ECN bits of an IP header (RFC 3168 §5), in their wire values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct = 0b00,
    /// ECN-capable, codepoint 1.
    Ect1 = 0b01,
    /// ECN-capable, codepoint 0.
    Ect0 = 0b10,
    /// Congestion experienced.
    Ce = 0b11,
}

impl Ecn {
    /// The codepoint in the low two bits of a TOS or traffic-class byte.
    pub const fn from_bits(tos: u8) -> Self {
        match tos & 0b11 {
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            0b11 => Self::Ce,
            _ => Self::NotEct,
        }
    }

    /// True for every codepoint but `NotEct`: of a packet that a router may mark instead of dropping it.
    pub const fn is_capable(self) -> bool {
        !matches!(self, Self::NotEct)
    }
}

/// Where a datagram goes, and everything about its outer header that must agree before two datagrams
/// may share one GSO send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The peer's endpoint.
    pub remote: SocketAddr,
    /// The local source address to send from, when the path is pinned to one ("sticky" source).
    pub local: Option<IpAddr>,
    /// ECN bits of the outer header.
    pub ecn: Ecn,
}

impl Destination {
    /// A destination with no pinned source and no ECN.
    pub const fn new(remote: SocketAddr) -> Self {
        Self { remote, local: None, ecn: Ecn::NotEct }
    }

    /// Must datagrams to these two leave in the order they were appended? Yes if they go to the same remote
    /// address and both, or neither, are ECN-capable.
    ///
    /// So a router's congestion mark on one packet of a flow cannot make it overtake the others, though it
    /// needs a send of its own. ECN-capable traffic and the rest are told apart, since otherwise flows of
    /// both kinds, packet by packet in turn, would leave nothing to batch; what a TCP connection mixes of
    /// them (acknowledgements and retransmissions are not capable, RFC 3168 §6.1) may change places with its
    /// data unharmed.
    pub fn is_ordered_with(&self, other: &Self) -> bool {
        self.remote == other.remote && self.ecn.is_capable() == other.ecn.is_capable()
    }

    /// The most bytes that one send may carry there: [`MAX_PAYLOAD_V4`] or [`MAX_PAYLOAD_V6`].
    pub const fn max_payload(&self) -> usize {
        match self.remote {
            SocketAddr::V4(_) => MAX_PAYLOAD_V4,
            SocketAddr::V6(_) => MAX_PAYLOAD_V6,
        }
    }
}

/// Why [`DatagramSink::append`] appended nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError<E> {
    /// The sink is at its memory bound: flush it, then append again. `fill` was not called.
    #[error("the sink is full: flush it first")]
    Full,
    /// No UDP datagram is this long on this address family, or no buffer of the sink. `fill` was not called.
    #[error("a datagram of {0} bytes is longer than UDP allows")]
    TooLong(usize),
    /// `len` was 0: WireGuard has no empty datagrams, and a train of them has no end. `fill` was not called.
    #[error("a datagram has at least one byte")]
    Empty,
    /// `fill` failed; the sink is as it was before the call.
    #[error("the datagram could not be written")]
    Fill(#[source] E),
}

/// Takes outgoing datagrams, in order.
///
/// Order is sacred per destination, and among destinations that [are ordered](Destination::is_ordered_with)
/// with each other; it is free across others.
///
/// `W` is what may be left to do to a datagram after it was written: see [`Work`].
pub trait DatagramSink<W = ()> {
    /// Appends one datagram of exactly `len` bytes (≥ 1), written in place by `fill`. A `fill` that fails must leave
    /// [`Slot::work`] as it was.
    ///
    /// # Errors
    /// On any error nothing was appended.
    fn append<E>(
        &mut self,
        to: Destination,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), AppendError<E>>;
}

/// The plainest sink, for tests and for transports that want owned datagrams. Leaves nothing for later.
impl<W: Work> DatagramSink<W> for Vec<(Destination, Vec<u8>)> {
    fn append<E>(
        &mut self,
        to: Destination,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        if len == 0 {
            return Err(AppendError::Empty);
        }
        if len > to.max_payload() {
            return Err(AppendError::TooLong(len));
        }
        let mut datagram = vec![0; len];
        let mut work = W::default();
        fill(Slot { bytes: &mut datagram, segment: 0, work: &mut work }).map_err(AppendError::Fill)?;
        work.finish(&mut datagram, len);
        self.push((to, datagram));
        Ok(())
    }
}
