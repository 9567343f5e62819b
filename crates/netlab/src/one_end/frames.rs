//! The packets that loads carry: full ones, IPv4, and as right as any kernel's.

use std::net::Ipv4Addr;

use tun_device::{GsoType, VNET_HEADER_LEN, VnetHeader};

use crate::wire::{fold, pseudo_header, sum};

/// Every inner packet, bytes: the usual MTU of a tunnel, so none is padded.
pub const PACKET_LEN: usize = 1_420;
/// What is inside, for whoever looks: the tunnel does not.
const FILL: u8 = 0x5a;
/// RFC 863's port: what comes to it is thrown away.
const DISCARD: [u8; 2] = 9_u16.to_be_bytes();
const SOURCE: [u8; 2] = 40_000_u16.to_be_bytes();

/// What inner packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InnerProtocol {
    /// TCP segments of one stream, which a receiver can join.
    Tcp,
    /// UDP datagrams of one flow.
    Udp,
}

impl InnerProtocol {
    /// Bytes before the payload: IPv4, then TCP without options, or UDP.
    pub(super) const fn header_len(self) -> usize {
        match self {
            Self::Tcp => 20 + 20,
            Self::Udp => 20 + 8,
        }
    }

    /// Payload of a full packet, bytes.
    pub(super) const fn payload_len(self) -> usize {
        PACKET_LEN - self.header_len()
    }

    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// One full packet after the other of one flow, checksums and all.
pub(super) struct Packets {
    protocol: InnerProtocol,
    /// The first packet, with no checksum of TCP.
    template: Vec<u8>,
    /// What that checksum sums up but for the sequence number.
    constant_sum: u64,
    sequence: u32,
}

impl Packets {
    pub(super) fn new(protocol: InnerProtocol, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let mut template = packet(protocol, from, to, protocol.payload_len());
        let (header, segment) = template.split_at_mut(20);
        let constant_sum = pseudo_header(protocol.number(), &header[12..20], segment) + sum(segment);
        if protocol == InnerProtocol::Udp {
            segment[6..8].copy_from_slice(&checksum(constant_sum));
        }
        Self { protocol, template, constant_sum, sequence: 0 }
    }

    /// Writes the next one to `out`, which is as long as a packet.
    pub(super) fn write_next(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.template);
        if self.protocol == InnerProtocol::Udp {
            return; // each is like the other
        }
        let sequence = self.sequence.to_be_bytes();
        out[24..28].copy_from_slice(&sequence);
        out[36..38].copy_from_slice(&checksum(self.constant_sum + sum(&sequence)));
        self.sequence = self.sequence.wrapping_add(self.protocol.payload_len() as u32);
    }
}

/// A frame for a TUN device: its header, then a TCP super-packet of `segments` full packets whose checksum is still
/// to be completed, as a kernel with TSO sends it. One segment is a plain packet.
pub fn super_packet(from: Ipv4Addr, to: Ipv4Addr, segments: usize) -> Vec<u8> {
    let protocol = InnerProtocol::Tcp;
    let (headers, payload) = (protocol.header_len(), protocol.payload_len());
    let mut packet = packet(protocol, from, to, segments * payload);
    let (header, segment) = packet.split_at_mut(20);
    // The pseudo-header's sum alone: whoever cuts the packet up finishes it.
    let [high, low] = (fold(pseudo_header(protocol.number(), &header[12..20], segment)) as u16).to_be_bytes();
    segment[16..18].copy_from_slice(&[high, low]);
    let is_super = segments > 1;
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: if is_super { GsoType::TcpV4 } else { GsoType::None },
        ecn: false,
        hdr_len: headers as u16,
        gso_size: if is_super { payload as u16 } else { 0 },
        csum_start: 20,
        csum_offset: 16,
    };
    let mut virtio = [0; VNET_HEADER_LEN];
    header.write_to(&mut virtio);
    [&virtio[..], &packet].concat()
}

/// A packet without the checksum of its TCP or UDP.
fn packet(protocol: InnerProtocol, from: Ipv4Addr, to: Ipv4Addr, payload_len: usize) -> Vec<u8> {
    let headers = protocol.header_len();
    let mut packet = vec![FILL; headers + payload_len];
    let length = |from: usize| ((headers + payload_len - from) as u16).to_be_bytes();
    let [high, low] = length(0);
    // Version and header length, DSCP, length; no identification, do not fragment; TTL.
    packet[..12].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol.number(), 0, 0]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let ip_checksum = checksum(sum(&packet[..20]));
    packet[10..12].copy_from_slice(&ip_checksum);
    packet[20..22].copy_from_slice(&SOURCE);
    packet[22..24].copy_from_slice(&DISCARD);
    match protocol {
        // Sequence, acknowledgement; 20 bytes of header, ACK; window, no checksum, no urgent data.
        InnerProtocol::Tcp => {
            packet[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        }
        InnerProtocol::Udp => {
            packet[24..26].copy_from_slice(&length(20));
            packet[26..28].fill(0);
        }
    }
    packet
}

/// As it is written: complemented. Zero would mean none, and is the same number as its complement.
fn checksum(sum: u64) -> [u8; 2] {
    let checksum = !(fold(sum) as u16);
    (if checksum == 0 { 0xffff } else { checksum }).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use tun_device::Segments;

    use super::*;
    use crate::wire::{WireKind, check_packet};

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
    const TO: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    #[test]
    fn each_packet_is_right_and_follows_the_one_before() {
        for (protocol, kind) in [(InnerProtocol::Tcp, WireKind::TcpV4), (InnerProtocol::Udp, WireKind::UdpV4)]
        {
            let mut packets = Packets::new(protocol, FROM, TO);
            let mut packet = vec![0; PACKET_LEN];
            for number in 0..100_u32 {
                packets.write_next(&mut packet);
                assert_eq!(check_packet(&packet), (kind, Ok(())), "{number}");
                if protocol == InnerProtocol::Tcp {
                    assert_eq!(packet[24..28], (number * 1_380).to_be_bytes());
                }
            }
        }
    }

    #[test]
    fn a_super_packet_is_cut_into_full_packets_that_are_right() {
        for segments in [1, 2, 45] {
            let mut frame = super_packet(FROM, TO, segments);
            let mut cut = Segments::new(&mut frame).unwrap();
            let mut seen = 0;
            while let Some(packet) = cut.next() {
                assert_eq!(packet.len(), PACKET_LEN);
                assert_eq!(check_packet(packet), (WireKind::TcpV4, Ok(())));
                seen += 1;
            }
            assert_eq!(seen, segments);
        }
    }
}
