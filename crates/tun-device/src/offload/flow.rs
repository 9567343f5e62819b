//! Telling which plain packets may share a super-packet.

use super::{
    checksum::Sum,
    ip::{self, IPV4_HEADER_LEN, IpHeader, TCP, TCP_HEADER_LEN, UDP, UDP_HEADER_LEN, Version, tcp_flags},
};

/// What a packet means to the coalescer.
#[derive(Debug)]
pub(super) enum Packet {
    /// A verified segment that may be merged.
    Segment(Segment),
    /// Of this flow, but must travel alone, in its place among the flow's packets.
    Alone(FlowKey),
    /// Of a flow we cannot tell: a fragment, or hidden behind options. Any flow of these hosts may be meant.
    Hosts(Hosts),
    /// Neither TCP nor UDP: no flow's order depends on it.
    Other,
}

/// Source and destination address: as integers, which are compared in registers. Bytes would be put together in memory
/// and read back at once as wider words, for which the processor waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hosts {
    version: Version,
    source: u128,
    destination: u128,
}

/// A transport flow in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowKey {
    ports: u32,
    protocol: Protocol,
    pub(super) hosts: Hosts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A packet whose form and checksums allow merging.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) key: FlowKey,
    /// Where the transport header starts.
    pub(super) transport: usize,
    /// Length of all headers.
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// TCP's sequence number; 0 for UDP.
    pub(super) sequence: u32,
    /// TCP's PSH: nothing may follow in the same super-packet.
    pub(super) push: bool,
    /// IPv4's identification; 0 for IPv6.
    pub(super) id: u16,
}

impl FlowKey {
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn version(&self) -> Version {
        self.hosts.version
    }
}

impl Protocol {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// Looks at a packet. `merges` says whether super-packets of a protocol are wanted at all; checksums are
/// summed only then.
pub(super) fn classify(packet: &[u8], merges: impl FnOnce(Protocol) -> bool) -> Packet {
    let Ok(header) = IpHeader::parse(packet) else { return Packet::Other };
    let hosts = Hosts::of(packet, header.version);
    let Some((protocol, transport)) = header.transport(packet) else { return Packet::Hosts(hosts) };
    let protocol = match protocol {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return Packet::Other,
    };
    let packet = &packet[..header.total_len];
    let Some(ports) = packet.get(transport..).and_then(|rest| rest.first_chunk::<4>()) else {
        return Packet::Hosts(hosts);
    };
    let key = FlowKey { ports: u32::from_ne_bytes(*ports), protocol, hosts };
    if !merges(protocol) || !has_plain_ip_header(packet, &header, transport) {
        return Packet::Alone(key);
    }
    let segment = match protocol {
        Protocol::Tcp => tcp_segment(packet, key, transport),
        Protocol::Udp => udp_segment(packet, key, transport),
    };
    match segment {
        Some(segment) if checksums_verify(packet, &segment) => Packet::Segment(segment),
        _ => Packet::Alone(key),
    }
}

/// Whether two segments' headers agree in everything that splitting will not restore. Both start at the IP
/// header; `segment` tells the layout of both, since the flow and the lengths are equal.
pub(super) fn same_headers(a: &[u8], b: &[u8], segment: &Segment) -> bool {
    let (ip_a, transport_a) = a[..segment.header_len].split_at(segment.transport);
    let (ip_b, transport_b) = b[..segment.header_len].split_at(segment.transport);
    let same_ip = match segment.key.version() {
        // All but length, identification and checksum (RFC 791 §3.1); the key holds the addresses.
        Version::V4 => ip_a[..2] == ip_b[..2] && ip_a[6..10] == ip_b[6..10],
        // All but the length (RFC 8200 §3).
        Version::V6 => ip_a[..4] == ip_b[..4] && ip_a[6..8] == ip_b[6..8],
    };
    let same_transport = match segment.key.protocol {
        // All but sequence number, PSH and checksum: acknowledgement, flags, window, urgent pointer and options
        // must agree (RFC 9293 §3.1).
        Protocol::Tcp => {
            transport_a[8..13] == transport_b[8..13]
                && (transport_a[13] ^ transport_b[13]) & !tcp_flags::PSH == 0
                && transport_a[14..16] == transport_b[14..16]
                && transport_a[18..] == transport_b[18..]
        }
        Protocol::Udp => true,
    };
    same_ip && same_transport
}

impl Hosts {
    fn of(packet: &[u8], version: Version) -> Self {
        let (source, destination) = match version {
            Version::V4 => (ip::be32(packet, 12).into(), ip::be32(packet, 16).into()),
            Version::V6 => (ip::be128(packet, 8), ip::be128(packet, 24)),
        };
        Self { version, source, destination }
    }
}

/// No options, no extension headers, the reserved bit clear, and an IPv4 checksum that splitting would
/// write just so.
fn has_plain_ip_header(packet: &[u8], header: &IpHeader, transport: usize) -> bool {
    match header.version {
        Version::V4 => {
            let no_options = header.header_len == IPV4_HEADER_LEN;
            let flags_are_usual = ip::be16(packet, 6) & 0x8000 == 0;
            let checksum = &packet[10..12];
            no_options
                && flags_are_usual
                && checksum != [0xff; 2]
                && Sum::of(&packet[..IPV4_HEADER_LEN]).verifies()
        }
        Version::V6 => transport == header.header_len,
    }
}

fn tcp_segment(packet: &[u8], key: FlowKey, transport: usize) -> Option<Segment> {
    let tcp = packet.get(transport..).filter(|tcp| tcp.len() > TCP_HEADER_LEN)?;
    let header_len = transport + usize::from(tcp[12] >> 4) * 4;
    let whole_header = header_len >= transport + TCP_HEADER_LEN && header_len < packet.len();
    let flags_are_usual = has_usual_flags(tcp[12], tcp[13]);
    let checksum_is_canonical = tcp[16..18] != [0xff; 2]; // splitting writes 0 for this
    (whole_header && flags_are_usual && checksum_is_canonical).then(|| Segment {
        key,
        transport,
        header_len,
        payload_len: packet.len() - header_len,
        sequence: ip::be32(tcp, 4),
        push: tcp[13] & tcp_flags::PSH != 0,
        id: identification(packet, key),
    })
}

/// ACK, perhaps with PSH, and ECN's feedback: ECE and AE say the same on every packet until there is news (RFC 3168
/// §6.1.3, RFC 9768 §3.2.2), and splitting repeats them.
///
/// Not CWR, which splitting leaves to the first packet alone, as RFC 3168 §6.1.2 has it. For Accurate ECN it is a
/// bit of a counter, the same on many packets; Linux keeps it on all of them in a super-packet of type
/// `SKB_GSO_TCP_ACCECN` (include/linux/skbuff.h), which a virtio-net header cannot say.
fn has_usual_flags(offset_and_ae: u8, flags: u8) -> bool {
    let reserved = offset_and_ae & 0x0f & !tcp_flags::AE;
    let may_be_set = tcp_flags::PSH | tcp_flags::ECE;
    reserved == 0 && flags & !may_be_set == tcp_flags::ACK
}

fn udp_segment(packet: &[u8], key: FlowKey, transport: usize) -> Option<Segment> {
    let udp = packet.get(transport..).filter(|udp| udp.len() > UDP_HEADER_LEN)?;
    let whole = usize::from(ip::be16(udp, 4)) == udp.len();
    let has_checksum = udp[6..8] != [0; 2];
    (whole && has_checksum).then(|| Segment {
        key,
        transport,
        header_len: transport + UDP_HEADER_LEN,
        payload_len: udp.len() - UDP_HEADER_LEN,
        sequence: 0,
        push: false,
        id: identification(packet, key),
    })
}

fn identification(packet: &[u8], key: FlowKey) -> u16 {
    match key.version() {
        Version::V4 => ip::be16(packet, 4),
        Version::V6 => 0,
    }
}

/// A corrupted segment must stay corrupted: merged, it would leave with a fresh, valid checksum.
fn checksums_verify(packet: &[u8], segment: &Segment) -> bool {
    let transport = &packet[segment.transport..];
    ip::pseudo_header(packet, segment.key.version(), segment.key.protocol.number(), transport.len())
        .plus(Sum::of(transport))
        .verifies()
}
