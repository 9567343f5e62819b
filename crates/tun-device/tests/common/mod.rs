//! Packets for tests, and a checker that shares no code with the crate.
#![allow(dead_code, reason = "every test file uses its own part")]

pub(crate) mod namespace;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const FIN: u16 = 0x01;
pub(crate) const PSH: u16 = 0x08;
pub(crate) const ACK: u16 = 0x10;
pub(crate) const ECE: u16 = 0x40;
pub(crate) const CWR: u16 = 0x80;
/// Accurate ECN's third bit, below the data offset.
pub(crate) const AE: u16 = 0x100;

/// Describes a TCP or UDP packet; `build` makes it with right lengths and checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) host: u8,
    pub(crate) port: u16,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) flags: u16,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) ip_options: Vec<u8>,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) flags_and_offset: u16,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn tcp() -> Self {
        Self {
            v6: false,
            tcp: true,
            host: 1,
            port: 5001,
            sequence: 1000,
            ack: 77,
            window: 512,
            flags: ACK,
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], // NOP NOP timestamps
            ip_options: Vec::new(),
            tos: 0,
            ttl: 64,
            id: 100,
            flags_and_offset: 0x4000,
            payload: Vec::new(),
        }
    }

    pub(crate) fn udp() -> Self {
        Self { tcp: false, ..Self::tcp() }
    }

    pub(crate) fn payload(mut self, seed: usize, len: usize) -> Self {
        self.payload = bytes(seed, len);
        self
    }

    /// The segment that follows this one in its flow, with a payload of its own.
    pub(crate) fn next(&self, len: usize) -> Self {
        let mut next = self.clone();
        next.sequence = self.sequence.wrapping_add(self.payload.len() as u32);
        next.id = self.id.wrapping_add(1);
        next.payload(self.sequence as usize + 1, len)
    }

    pub(crate) fn ip_header_len(&self) -> usize {
        if self.v6 { 40 } else { 20 + self.ip_options.len() }
    }

    pub(crate) fn header_len(&self) -> usize {
        self.ip_header_len() + if self.tcp { 20 + self.tcp_options.len() } else { 8 }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        let protocol = if self.tcp { 6 } else { 17 };
        transport.extend(self.port.to_be_bytes());
        transport.extend(443u16.to_be_bytes());
        if self.tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.ack.to_be_bytes());
            let data_offset = (20 + self.tcp_options.len()) as u16 / 4;
            transport.extend((data_offset << 12 | self.flags).to_be_bytes());
            transport.extend(self.window.to_be_bytes());
            transport.extend([0, 0, 0, 0]);
            transport.extend(&self.tcp_options);
        } else {
            transport.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let (source, destination) = self.addresses();
        let checksum = transport_checksum(source, destination, protocol, &transport);
        let at = if self.tcp { 16 } else { 6 };
        let checksum = if !self.tcp && checksum == 0 { 0xffff } else { checksum };
        transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let mut packet = self.ip_header(protocol, transport.len());
        packet.extend(transport);
        packet
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        if self.v6 {
            (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.host.into()).into(), Ipv6Addr::LOCALHOST.into())
        } else {
            (Ipv4Addr::new(10, 0, 0, self.host).into(), Ipv4Addr::new(10, 9, 9, 9).into())
        }
    }

    fn ip_header(&self, protocol: u8, transport_len: usize) -> Vec<u8> {
        let mut header = Vec::new();
        match self.addresses() {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header_len = 20 + self.ip_options.len();
                header.extend([0x40 | (header_len / 4) as u8, self.tos]);
                header.extend(((header_len + transport_len) as u16).to_be_bytes());
                header.extend(self.id.to_be_bytes());
                header.extend(self.flags_and_offset.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.ip_options);
                let checksum = !ones_complement(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.extend([0x60, self.tos, 0, 0]);
                header.extend((transport_len as u16).to_be_bytes());
                header.extend([protocol, self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
            }
            _ => unreachable!("both addresses are of one family"),
        }
        header
    }
}

/// Bytes that differ by seed and position.
pub(crate) fn bytes(seed: usize, len: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// RFC 1071, one 16-bit word at a time.
pub(crate) fn ones_complement(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

pub(crate) fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let mut all = Vec::new();
    match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            all.extend(a.octets());
            all.extend(b.octets());
            all.extend([0, protocol]);
            all.extend((transport.len() as u16).to_be_bytes());
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            all.extend(a.octets());
            all.extend(b.octets());
            all.extend((transport.len() as u32).to_be_bytes());
            all.extend([0, 0, 0, protocol]);
        }
        _ => panic!("mixed families"),
    }
    all.extend(transport);
    !ones_complement(&all)
}

/// Fails unless `packet` is a whole, plain TCP or UDP packet: lengths agree and every checksum holds.
pub(crate) fn assert_valid(packet: &[u8]) {
    let (protocol, transport_at) = match packet[0] >> 4 {
        4 => {
            let header_len = usize::from(packet[0] & 15) * 4;
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len(), "total length");
            assert_eq!(ones_complement(&packet[..header_len]), 0xffff, "IPv4 header checksum");
            (packet[9], header_len)
        }
        6 => {
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
                packet.len(),
                "payload length"
            );
            let (mut next, mut at) = (packet[6], 40);
            while next == 0 || next == 43 || next == 60 {
                next = packet[at];
                at += (usize::from(packet[at + 1]) + 1) * 8;
            }
            (next, at)
        }
        other => panic!("IP version {other}"),
    };
    let transport = &packet[transport_at..];
    let (source, destination) = addresses(packet);
    // A region that holds its own checksum sums to all ones.
    assert_eq!(!transport_checksum(source, destination, protocol, transport), 0xffff, "transport checksum");
    if protocol == 17 {
        assert_eq!(
            usize::from(u16::from_be_bytes([transport[4], transport[5]])),
            transport.len(),
            "UDP length"
        );
        assert_ne!(transport[6..8], [0, 0], "UDP without a checksum");
    }
}

pub(crate) fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at = |i: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[i..i + 4]).unwrap());
        (at(12).into(), at(16).into())
    } else {
        let at = |i: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[i..i + 16]).unwrap());
        (at(8).into(), at(24).into())
    }
}

/// A packet as it compares when IPv4 identifications mean nothing (DF set, RFC 6864): without them, and
/// without the header checksum if it holds.
pub(crate) fn without_atomic_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let is_plain = packet.len() >= 20 && packet[0] == 0x45 && ones_complement(&packet[..20]) == 0xffff;
    if is_plain && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
