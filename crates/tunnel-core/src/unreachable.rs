//! ICMP errors for packets that cannot go: what the kernel's WireGuard tells an application then, so that a
//! `connect` fails at once and does not hang.
//!
//! The answer's source is the packet's own destination. The kernel's driver can choose an address of the
//! host's, but what comes out of a TUN with one of those as its source is a martian, and dropped; the
//! destination is routed over this interface, so as a source it passes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use encrypt::Identity;

use crate::{
    Tunnel,
    inner::{IPV4_HEADER_LEN, IPV6_HEADER_LEN, Inner},
};

/// The longest ICMP error, bytes: IPv6's smallest MTU (RFC 4443 §2.4(c)).
pub const MAX_ICMP_ERROR_LEN: usize = 1280;
/// The longest over IPv4, bytes: what every host can reassemble (RFC 1812 §4.3.2.3).
const MAX_ICMPV4_ERROR_LEN: usize = 576;

/// Type, code, checksum and four unused bytes (RFC 792; RFC 4443 §3.1).
const ICMP_HEADER_LEN: usize = 8;

/// Protocol numbers (IANA).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// "Destination unreachable: host unreachable" (RFC 792).
const HOST_UNREACHABLE: [u8; 2] = [3, 1];
/// "Destination unreachable: address unreachable" (RFC 4443 §3.1).
const ADDRESS_UNREACHABLE: [u8; 2] = [1, 3];

/// What Linux sends with: of the precedence "internetwork control" (RFC 1812 §4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
const TTL: u8 = 64;

/// One answer a millisecond in the long run, and this many at once: Linux's own bounds over all destinations
/// (sysctl icmp_msgs_per_sec and icmp_msgs_burst).
const INTERVAL: Duration = Duration::from_millis(1);
const BURST: u32 = 50;

impl<I: Identity> Tunnel<I> {
    /// Writes the ICMP error, for the TUN, that tells the sender of `packet` that it cannot go: "host
    /// unreachable", or over IPv6 "address unreachable", from the packet's own destination. `None` where none
    /// may be sent (RFC 1122 §3.2.2, RFC 4443 §2.4), or not so many; that is counted. Always `None`, and not
    /// counted, without [`TunnelConfig::icmp_unreachable`](crate::TunnelConfig::icmp_unreachable).
    ///
    /// Once is enough for packets that came as one super-packet: they have one sender, and one destination.
    pub fn answer_unreachable(
        &mut self,
        packet: &[u8],
        out: &mut [u8; MAX_ICMP_ERROR_LEN],
        now: Instant,
    ) -> Option<usize> {
        let answers = self.answers.as_mut()?;
        let traffic = &mut self.shared.counters.traffic;
        match answers.answer(packet, &Inner::parse(packet)?, out, now) {
            Ok(len) => {
                traffic.icmp_unreachable_sent += 1;
                Some(len)
            }
            Err(silence) => {
                traffic.count_silence(silence);
                None
            }
        }
    }
}

/// Why a packet is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It is an ICMP error itself, or an ICMP message of a kind that may be one.
    IcmpError,
    /// It is for more than one host.
    Multicast,
    /// It is a fragment, and not the first.
    Fragment,
    /// Its source is not one host's, or its destination cannot be the answer's source.
    Address,
    /// Its headers end before they tell what it is.
    CutShort,
    /// Too many were answered just now.
    RateLimit,
}

/// Answers packets, at a bounded rate.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// When all that was answered is paid for, at one answer an [`INTERVAL`].
    paid_until: Option<Instant>,
}

impl Answers {
    /// Writes the ICMP error for `packet`, of which `inner` is the header, and gives its length.
    ///
    /// # Errors
    /// When there is to be none (RFC 1122 §3.2.2, RFC 4443 §2.4).
    pub(crate) fn answer(
        &mut self,
        packet: &[u8],
        inner: &Inner,
        out: &mut [u8; MAX_ICMP_ERROR_LEN],
        now: Instant,
    ) -> Result<usize, Silence> {
        let packet = packet.get(..inner.len).ok_or(Silence::CutShort)?;
        match (inner.source, inner.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                may_answer_v4(packet, source, destination)?;
                self.take(now)?;
                Ok(write_v4(packet, source, destination, out))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                may_answer_v6(packet, source, destination)?;
                self.take(now)?;
                Ok(write_v6(packet, source, destination, out))
            }
            _ => Err(Silence::Address),
        }
    }

    /// A token bucket that holds [`BURST`], kept as the time at which it will be full.
    fn take(&mut self, now: Instant) -> Result<(), Silence> {
        let paid_until = self.paid_until.map_or(now, |until| until.max(now)) + INTERVAL;
        if paid_until.duration_since(now) > BURST * INTERVAL {
            return Err(Silence::RateLimit);
        }
        self.paid_until = Some(paid_until);
        Ok(())
    }
}

fn may_answer_v4(packet: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Result<(), Silence> {
    if destination.is_multicast() || destination.is_broadcast() {
        return Err(Silence::Multicast);
    }
    // Of another network's broadcast address only its hosts know. If it is this host's, the kernel drops the
    // answer, for no packet comes from there.
    if !(is_one_host_v4(source) && is_one_host_v4(destination)) {
        return Err(Silence::Address);
    }
    let header: &[u8; IPV4_HEADER_LEN] = packet.first_chunk().ok_or(Silence::CutShort)?;
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return Err(Silence::Fragment);
    }
    if header[9] != ICMP {
        return Ok(());
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    match packet.get(header_len).ok_or(Silence::CutShort)? {
        // Echo, router discovery, timestamps, information, address masks (RFC 792, RFC 950, RFC 1256).
        0 | 8..=10 | 13..=18 => Ok(()),
        _ => Err(Silence::IcmpError),
    }
}

fn may_answer_v6(packet: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), Silence> {
    if destination.is_multicast() {
        return Err(Silence::Multicast);
    }
    let is_one_host =
        |address: Ipv6Addr| !(address.is_unspecified() || address.is_loopback() || address.is_multicast());
    if !(is_one_host(source) && is_one_host(destination)) {
        return Err(Silence::Address);
    }
    let (protocol, at) = upper_layer_v6(packet)?;
    if protocol != ICMPV6 {
        return Ok(());
    }
    match packet.get(at).ok_or(Silence::CutShort)? {
        // Errors, and redirects (RFC 4443 §2.1 and §2.4(e)).
        0..=127 | 137 => Err(Silence::IcmpError),
        _ => Ok(()),
    }
}

/// A source that RFC 1122 §3.2.2 lets us answer: not the zero network, loopback, multicast, broadcast or class E.
fn is_one_host_v4(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

/// The protocol behind the extension headers, and where its header starts (RFC 8200 §4).
fn upper_layer_v6(packet: &[u8]) -> Result<(u8, usize), Silence> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION_OPTIONS: u8 = 60;

    let byte = |at: usize| packet.get(at).copied().ok_or(Silence::CutShort);
    let (mut next, mut at) = (byte(6)?, IPV6_HEADER_LEN);
    loop {
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(byte(at + 1)?) + 1) * 8,
            AUTHENTICATION => (usize::from(byte(at + 1)?) + 2) * 4, // RFC 4302 §2.2
            FRAGMENT if u16::from_be_bytes([byte(at + 2)?, byte(at + 3)?]) >> 3 != 0 => {
                return Err(Silence::Fragment);
            }
            FRAGMENT => 8,
            protocol => return Ok((protocol, at)),
        };
        next = byte(at)?;
        at += len;
    }
}

fn write_v4(
    packet: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    out: &mut [u8; MAX_ICMP_ERROR_LEN],
) -> usize {
    let quote_len = packet.len().min(MAX_ICMPV4_ERROR_LEN - IPV4_HEADER_LEN - ICMP_HEADER_LEN);
    let (header, rest) = out.split_at_mut(IPV4_HEADER_LEN);
    let message = &mut rest[..ICMP_HEADER_LEN + quote_len];
    let total_len = IPV4_HEADER_LEN + message.len();

    header[..2].copy_from_slice(&[0x45, INTERNETWORK_CONTROL]);
    header[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
    // Never fragmented, so it needs no identification (RFC 6864 §4.1).
    header[4..12].copy_from_slice(&[0, 0, 0x40, 0, TTL, ICMP, 0, 0]);
    header[12..16].copy_from_slice(&destination.octets());
    header[16..20].copy_from_slice(&source.octets());
    let checksum = checksum(sum(header));
    header[10..12].copy_from_slice(&checksum);

    write_message(HOST_UNREACHABLE, packet, message, 0);
    total_len
}

fn write_v6(
    packet: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    out: &mut [u8; MAX_ICMP_ERROR_LEN],
) -> usize {
    let quote_len = packet.len().min(MAX_ICMP_ERROR_LEN - IPV6_HEADER_LEN - ICMP_HEADER_LEN);
    let (header, rest) = out.split_at_mut(IPV6_HEADER_LEN);
    let message = &mut rest[..ICMP_HEADER_LEN + quote_len];

    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[ICMPV6, TTL]);
    header[8..24].copy_from_slice(&destination.octets());
    header[24..40].copy_from_slice(&source.octets());
    let pseudo_header = sum(&header[8..40]) + message.len() as u32 + u32::from(ICMPV6); // RFC 8200 §8.1

    write_message(ADDRESS_UNREACHABLE, packet, message, pseudo_header);
    IPV6_HEADER_LEN + message.len()
}

/// The ICMP header, and as much of the packet as `message` has room for.
fn write_message(kind: [u8; 2], packet: &[u8], message: &mut [u8], pseudo_header: u32) {
    let (header, quote) = message.split_at_mut(ICMP_HEADER_LEN);
    header.fill(0);
    header[..2].copy_from_slice(&kind);
    quote.copy_from_slice(&packet[..quote.len()]);
    let checksum = checksum(pseudo_header + sum(message));
    message[2..4].copy_from_slice(&checksum);
}

/// The sum of 16-bit words of at most [`MAX_ICMP_ERROR_LEN`] bytes, not folded yet (RFC 1071).
fn sum(bytes: &[u8]) -> u32 {
    let (words, odd) = bytes.as_chunks::<2>();
    let words: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    words + odd.first().map_or(0, |byte| u32::from(*byte) << 8)
}

fn checksum(mut sum: u32) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests;
