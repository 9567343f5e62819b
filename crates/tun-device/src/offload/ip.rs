//! IP, TCP and UDP headers: where the fields are, and where the transport header starts.

use super::{Malformed, checksum::Sum};

/// Protocol numbers (IANA).
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// IPv4 without options (RFC 791 §3.1), bytes.
pub(crate) const IPV4_HEADER_LEN: usize = 20;
/// IPv6 without extension headers (RFC 8200 §3), bytes.
pub(crate) const IPV6_HEADER_LEN: usize = 40;
/// TCP without options (RFC 9293 §3.1), bytes.
pub(crate) const TCP_HEADER_LEN: usize = 20;
/// UDP (RFC 768), bytes.
pub(crate) const UDP_HEADER_LEN: usize = 8;

/// TCP flags (RFC 9293 §3.1), in byte 13 of the header.
pub(crate) mod tcp_flags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
    pub(crate) const ECE: u8 = 0x40;
    pub(crate) const CWR: u8 = 0x80;
    /// Accurate ECN's third bit (RFC 9768 §3.2), in byte 12, beside the data offset.
    pub(crate) const AE: u8 = 0x01;
}

/// The version in an IP header's first nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    V4,
    V6,
}

impl Version {
    /// Where source and destination address lie, side by side.
    pub(crate) const fn addresses(self) -> std::ops::Range<usize> {
        match self {
            Self::V4 => 12..20,
            Self::V6 => 8..40,
        }
    }
}

/// An IP packet whose lengths are consistent: `header_len ≤ total_len ≤` the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpHeader {
    pub(crate) version: Version,
    /// Of the fixed header and IPv4 options; not of IPv6 extension headers.
    pub(crate) header_len: usize,
    pub(crate) total_len: usize,
}

impl IpHeader {
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let header = match packet.first().map(|byte| byte >> 4) {
            Some(4) if packet.len() >= IPV4_HEADER_LEN => Self {
                version: Version::V4,
                header_len: usize::from(packet[0] & 0xf) * 4,
                total_len: usize::from(be16(packet, 2)),
            },
            Some(6) if packet.len() >= IPV6_HEADER_LEN => Self {
                version: Version::V6,
                header_len: IPV6_HEADER_LEN,
                total_len: IPV6_HEADER_LEN + usize::from(be16(packet, 4)),
            },
            Some(4 | 6) => return Err(Malformed::BadLength),
            _ => return Err(Malformed::NotIp),
        };
        let whole_header = header.header_len >= IPV4_HEADER_LEN && header.header_len <= header.total_len;
        let whole_packet = header.total_len <= packet.len();
        if whole_header && whole_packet { Ok(header) } else { Err(Malformed::BadLength) }
    }

    /// The transport protocol and where its header starts, past IPv6 extension headers. `None` for
    /// fragments, for source-routed packets (their checksum covers another address than the header's) and
    /// for chains cut short.
    pub(crate) fn transport(&self, packet: &[u8]) -> Option<(u8, usize)> {
        match self.version {
            Version::V4 if is_ipv4_fragment(packet) => None,
            Version::V4 => Some((packet[9], self.header_len)),
            Version::V6 => ipv6_transport(&packet[..self.total_len]),
        }
    }
}

/// MF set or an offset given (RFC 791 §3.1).
pub(crate) fn is_ipv4_fragment(packet: &[u8]) -> bool {
    be16(packet, 6) & 0x3fff != 0
}

/// Don't Fragment, and neither the reserved bit nor a fragment.
pub(crate) fn has_only_dont_fragment(packet: &[u8]) -> bool {
    be16(packet, 6) == 0x4000
}

/// Recomputes an IPv4 header's checksum.
pub(crate) fn write_ipv4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = Sum::of(header).checksum();
    header[10..12].copy_from_slice(&checksum);
}

/// Writes the IP header's length field for a packet of `total_len` bytes.
pub(crate) fn write_total_len(packet: &mut [u8], version: Version, total_len: usize) {
    match version {
        Version::V4 => put16(packet, 2, total_len as u16),
        Version::V6 => put16(packet, 4, (total_len - IPV6_HEADER_LEN) as u16),
    }
}

/// Zeroes what differs from packet to packet of a train: length, identification and checksum. Gives the identification.
pub(crate) fn take_variable_fields(header: &mut [u8], version: Version) -> u16 {
    match version {
        Version::V4 => {
            take16(header, 2);
            take16(header, 10);
            take16(header, 4)
        }
        Version::V6 => {
            take16(header, 4);
            0
        }
    }
}

/// The pseudo-header of TCP and UDP (RFC 9293 §3.1, RFC 8200 §8.1). A transport length is < 65,536 here, so
/// the two versions' layouts sum alike.
pub(crate) fn pseudo_header(packet: &[u8], version: Version, protocol: u8, transport_len: usize) -> Sum {
    Sum::of(&packet[version.addresses()])
        .plus(Sum::of_u16(u16::from(protocol)))
        .plus(Sum::of_u16(transport_len as u16))
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn be128(bytes: &[u8], at: usize) -> u128 {
    u128::from(be64(bytes, at)) << 64 | u128::from(be64(bytes, at + 8))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Reads a field and leaves zeros.
pub(crate) fn take16(bytes: &mut [u8], at: usize) -> u16 {
    let value = be16(bytes, at);
    put16(bytes, at, 0);
    value
}

pub(crate) fn take32(bytes: &mut [u8], at: usize) -> u32 {
    let value = be32(bytes, at);
    put32(bytes, at, 0);
    value
}

fn ipv6_transport(packet: &[u8]) -> Option<(u8, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION_OPTIONS: u8 = 60;

    let mut next_header = packet[6];
    let mut at = IPV6_HEADER_LEN;
    loop {
        match next_header {
            HOP_BY_HOP | DESTINATION_OPTIONS => {}
            ROUTING if *packet.get(at + 3)? == 0 => {} // no segments left: the header's address is the final one
            ROUTING | FRAGMENT => return None,
            protocol => return Some((protocol, at)),
        }
        next_header = *packet.get(at)?;
        at += (usize::from(*packet.get(at + 1)?) + 1) * 8; // RFC 8200 §4.3: in 8-byte units past the first
    }
}
