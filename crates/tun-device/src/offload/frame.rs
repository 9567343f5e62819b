//! A frame on its way to the TUN: one packet, or a run of segments growing into a super-packet.

use super::{
    GsoType, VnetHeader,
    flow::{self, Protocol, Segment},
    ip::{self, IPV4_HEADER_LEN, Version, tcp_flags},
    segment::checksum_offset,
};
use crate::VNET_HEADER_LEN;

/// A queued frame. Its bytes lie in the coalescer's buffer: a virtio-net header, then the packet.
#[derive(Debug)]
pub(super) struct Frame {
    /// Which buffer.
    pub(super) buffer: usize,
    /// Bytes of IP packet.
    pub(super) len: usize,
    /// How it grows; `None` for a packet that travels alone.
    pub(super) run: Option<Run>,
}

/// Consecutive segments of one flow.
#[derive(Debug)]
pub(super) struct Run {
    /// The first one; its headers are the super-packet's.
    first: Segment,
    /// How many.
    pub(super) segments: usize,
    /// The sequence number that may follow (TCP).
    next_sequence: u32,
    /// The last one was pushed or short: nothing may follow.
    complete: bool,
    pushed: bool,
}

/// The longest packet that a frame holds (IPv4's total length is 16 bits).
pub(super) const MAX_PACKET_LEN: usize = 65_535;

impl Frame {
    pub(super) fn is_super(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.segments > 1)
    }

    pub(super) fn protocol(&self) -> Option<Protocol> {
        self.run.as_ref().map(|run| run.first.key.protocol())
    }

    /// Makes the buffer's bytes a frame that the kernel takes. May be done again after more was appended.
    pub(super) fn finish(&self, bytes: &mut [u8]) {
        let Some((header, packet)) = bytes.split_first_chunk_mut::<VNET_HEADER_LEN>() else { return };
        match &self.run {
            Some(run) if run.segments > 1 => run.finish(&mut packet[..self.len]).write_to(header),
            _ => VnetHeader::PLAIN.write_to(header),
        }
    }
}

impl Run {
    pub(super) fn new(first: Segment) -> Self {
        Self {
            segments: 1,
            next_sequence: first.sequence.wrapping_add(first.payload_len as u32),
            complete: first.push,
            pushed: first.push,
            first,
        }
    }

    /// Appends a segment's payload to the packet of `len` bytes at the start of `frame`, if the rules allow,
    /// and gives the packet's new length. `packet` is the whole segment.
    pub(super) fn try_append(
        &mut self,
        segment: &Segment,
        packet: &[u8],
        frame: &mut [u8],
        len: usize,
        max_segments: usize,
    ) -> Option<usize> {
        let new_len = len + segment.payload_len;
        let open = !self.complete && self.segments < max_segments;
        let same_layout = segment.header_len == self.first.header_len;
        let fits = segment.payload_len <= self.first.payload_len && new_len <= MAX_PACKET_LEN;
        let follows = match segment.key.protocol() {
            Protocol::Tcp => segment.sequence == self.next_sequence,
            Protocol::Udp => true,
        };
        let allowed = open && same_layout && fits && follows && self.identification_follows(segment, frame);
        if !allowed || !flow::same_headers(frame, packet, segment) {
            return None;
        }
        let payload = packet.get(segment.header_len..)?;
        frame.get_mut(len..new_len)?.copy_from_slice(payload);
        self.segments += 1;
        self.next_sequence = self.next_sequence.wrapping_add(segment.payload_len as u32);
        self.pushed |= segment.push;
        self.complete = segment.push || segment.payload_len < self.first.payload_len;
        Some(new_len)
    }

    /// Splitting numbers IPv4 packets consecutively. That changes nothing for packets that were numbered so,
    /// nor for packets that must not be fragmented: nobody reads their identification (RFC 6864 §4.1).
    fn identification_follows(&self, segment: &Segment, frame: &[u8]) -> bool {
        match segment.key.version() {
            Version::V4 => {
                let next = self.first.id.wrapping_add(self.segments as u16);
                segment.id == next || ip::has_only_dont_fragment(frame)
            }
            Version::V6 => true,
        }
    }

    /// Writes the super-packet's lengths, flags and partial checksum.
    fn finish(&self, packet: &mut [u8]) -> VnetHeader {
        let Segment { key, transport, header_len, payload_len, .. } = &self.first;
        let (protocol, version) = (key.protocol(), key.version());
        let total_len = packet.len();
        let transport_len = total_len - transport;
        ip::write_total_len(packet, version, total_len);
        if version == Version::V4 {
            ip::write_ipv4_checksum(&mut packet[..IPV4_HEADER_LEN]);
        }
        match protocol {
            Protocol::Tcp if self.pushed => packet[transport + 13] |= tcp_flags::PSH,
            Protocol::Tcp => {}
            Protocol::Udp => ip::put16(packet, transport + 4, transport_len as u16),
        }
        let csum_offset = checksum_offset(protocol.number());
        let partial = ip::pseudo_header(packet, version, protocol.number(), transport_len).partial();
        packet[transport + csum_offset..][..2].copy_from_slice(&partial);
        VnetHeader {
            needs_checksum: true,
            gso_type: match (protocol, version) {
                (Protocol::Tcp, Version::V4) => GsoType::TcpV4,
                (Protocol::Tcp, Version::V6) => GsoType::TcpV6,
                (Protocol::Udp, _) => GsoType::UdpL4,
            },
            ecn: false,
            hdr_len: *header_len as u16,
            gso_size: *payload_len as u16,
            csum_start: *transport as u16,
            csum_offset: csum_offset as u16,
        }
    }
}
