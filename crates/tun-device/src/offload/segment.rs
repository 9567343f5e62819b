//! Splitting a frame from the TUN into plain packets, in place.

use std::ops::Range;

use super::{
    GsoType, Malformed, VnetHeader,
    checksum::Sum,
    ip::{self, IpHeader, TCP, TCP_HEADER_LEN, UDP, UDP_HEADER_LEN, Version, tcp_flags},
};
use crate::VNET_HEADER_LEN;

/// The plain packets of one frame, one after the other, each complete with its headers and checksums.
///
/// Nothing is copied but headers: packet i+1's headers are written over the tail of packet i's payload, so
/// each packet lives until the next one is asked for. The frame is used up by this.
///
/// Sequence numbers, IPv4 identifications (one more per packet), lengths and checksums are each packet's
/// own; CWR stays on the first packet only, FIN and PSH on the last (RFC 3168 §6.1.2; what
/// Linux's own segmentation does).
#[derive(Debug)]
pub struct Segments<'a> {
    frame: &'a mut [u8],
    segmenter: Segmenter,
    current: Option<Range<usize>>,
}

impl<'a> Segments<'a> {
    /// Reads the headers of a frame: a virtio-net header and an IP packet.
    ///
    /// # Errors
    /// [`Malformed`] if the frame cannot be taken apart; drop it and count.
    pub fn new(frame: &'a mut [u8]) -> Result<Self, Malformed> {
        let segmenter = Segmenter::new(frame)?;
        Ok(Self { frame, segmenter, current: None })
    }

    /// The next packet, or `None` after the last.
    #[expect(clippy::should_implement_trait, reason = "it lends the packet, which Iterator cannot say")]
    pub fn next(&mut self) -> Option<&mut [u8]> {
        self.current = self.segmenter.next(self.frame);
        Some(&mut self.frame[self.current.clone()?])
    }

    /// The packet that [`next`](Self::next) gave last; `None` before the first, and when it gave none.
    pub fn current(&self) -> Option<&[u8]> {
        Some(&self.frame[self.current.clone()?])
    }

    /// How many packets are still to come.
    pub fn remaining(&self) -> usize {
        self.segmenter.remaining()
    }
}

/// The state of a split, without the frame, so that the coalescer can keep it across calls.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per frame, on the stack; boxing would allocate per frame")]
pub(super) enum Segmenter {
    /// One packet; its checksum is complete.
    Single { len: usize },
    /// A super-packet.
    Train(Train),
    /// Nothing left.
    Done,
}

#[derive(Debug)]
pub(super) struct Train {
    version: Version,
    protocol: u8,
    /// Where the transport header starts in each packet.
    transport: usize,
    /// The first packet's headers. What differs from packet to packet is zero: lengths, IPv4's identification, TCP's
    /// sequence number and flags, and the checksums.
    headers: [u8; MAX_HEADERS],
    header_len: usize,
    /// Sums of what is the same in all of them: each packet's checksums need only its own fields and its payload.
    ip_sum: Sum,
    transport_sum: Sum,
    id: u16,
    sequence: u32,
    /// TCP's data offset and flags.
    flags: u16,
    /// Payload bytes of every packet but the last.
    segment_len: usize,
    /// Payload bytes of all.
    payload_len: usize,
    /// Payload bytes handed out; also where the next packet starts, counted from the first packet's start.
    done: usize,
    /// Packets handed out.
    index: usize,
}

/// The longest headers of a super-packet: 60 bytes of TCP behind 196 of IP. IPv4 has at most 60; more than
/// this of IPv6 extension headers is refused.
const MAX_HEADERS: usize = 256;

impl Segmenter {
    /// Checks the frame. A single packet's unfinished checksum is completed here.
    pub(super) fn new(frame: &mut [u8]) -> Result<Self, Malformed> {
        let virtio = VnetHeader::parse(frame)?;
        let packet = &mut frame[VNET_HEADER_LEN..];
        if packet.is_empty() {
            return Err(Malformed::ShortFrame);
        }
        let header = IpHeader::parse(packet)?;
        let packet = &mut packet[..header.total_len];
        if virtio.gso_type != GsoType::None {
            return Train::new(&virtio, &header, packet).map(Self::Train);
        }
        if virtio.needs_checksum {
            complete_checksum(packet, usize::from(virtio.csum_start), usize::from(virtio.csum_offset))?;
        }
        Ok(Self::Single { len: packet.len() })
    }

    /// Writes the next packet into its place and gives its range in `frame`, the same as given to `new`.
    pub(super) fn next(&mut self, frame: &mut [u8]) -> Option<Range<usize>> {
        match self {
            Self::Done => None,
            Self::Single { len } => {
                let range = VNET_HEADER_LEN..VNET_HEADER_LEN + *len;
                *self = Self::Done;
                Some(range)
            }
            Self::Train(train) => {
                let start = VNET_HEADER_LEN + train.done;
                let len = train.write_next(&mut frame[start..]);
                if train.done == train.payload_len {
                    *self = Self::Done;
                }
                Some(start..start + len)
            }
        }
    }

    fn remaining(&self) -> usize {
        match self {
            Self::Done => 0,
            Self::Single { .. } => 1,
            Self::Train(train) => (train.payload_len - train.done).div_ceil(train.segment_len).max(1),
        }
    }
}

impl Train {
    fn new(virtio: &VnetHeader, ip: &IpHeader, packet: &[u8]) -> Result<Self, Malformed> {
        let (protocol, transport) = ip.transport(packet).ok_or(Malformed::BadTransport)?;
        let fits_type = match virtio.gso_type {
            GsoType::TcpV4 => (ip.version, protocol) == (Version::V4, TCP),
            GsoType::TcpV6 => (ip.version, protocol) == (Version::V6, TCP),
            GsoType::UdpL4 => protocol == UDP,
            GsoType::None => false,
        };
        if !fits_type {
            return Err(Malformed::BadTransport);
        }
        if virtio.gso_size == 0 {
            return Err(Malformed::ZeroGsoSize);
        }
        let header_len = transport + transport_header_len(packet, protocol, transport)?;
        let whole = header_len <= packet.len() && header_len <= MAX_HEADERS;
        if !whole {
            return Err(Malformed::BadTransport);
        }
        let mut headers = [0; MAX_HEADERS];
        let template = &mut headers[..header_len];
        template.copy_from_slice(&packet[..header_len]);
        let id = ip::take_variable_fields(template, ip.version);
        let (ip_header, transport_header) = template.split_at_mut(transport);
        transport_header[checksum_offset(protocol)..][..2].fill(0);
        let (sequence, flags) = match protocol {
            TCP => (ip::take32(transport_header, 4), ip::take16(transport_header, TCP_FLAGS)),
            _ => (0, 0),
        };
        if protocol == UDP {
            ip::take16(transport_header, UDP_LEN);
        }
        let pseudo = ip::pseudo_header(ip_header, ip.version, protocol, 0);
        Ok(Self {
            version: ip.version,
            protocol,
            transport,
            ip_sum: Sum::of(ip_header),
            transport_sum: pseudo.plus(Sum::of(transport_header)),
            headers,
            header_len,
            id,
            sequence,
            flags,
            segment_len: usize::from(virtio.gso_size),
            payload_len: packet.len() - header_len,
            done: 0,
            index: 0,
        })
    }

    /// Writes the next packet's headers at the start of `out`, in front of its payload, which is there.
    fn write_next(&mut self, out: &mut [u8]) -> usize {
        let payload_len = self.segment_len.min(self.payload_len - self.done);
        let packet = &mut out[..self.header_len + payload_len];
        packet[..self.header_len].copy_from_slice(&self.headers[..self.header_len]);

        let total_len = packet.len();
        ip::write_total_len(packet, self.version, total_len);
        if self.version == Version::V4 {
            let id = self.id.wrapping_add(self.index as u16);
            ip::put16(packet, 4, id);
            let sum = self.ip_sum.plus(Sum::of_u16(total_len as u16)).plus(Sum::of_u16(id));
            packet[10..12].copy_from_slice(&sum.checksum());
        }
        let (headers, payload) = packet.split_at_mut(self.header_len);
        let transport = &mut headers[self.transport..];
        let transport_len = (total_len - self.transport) as u16;
        let fields = if self.protocol == TCP {
            let sequence = self.sequence.wrapping_add(self.done as u32);
            let flags = self.flags_of(payload_len);
            ip::put32(transport, 4, sequence);
            ip::put16(transport, TCP_FLAGS, flags);
            Sum::of_u32(sequence).plus(Sum::of_u16(flags))
        } else {
            ip::put16(transport, UDP_LEN, transport_len);
            Sum::of_u16(transport_len)
        };
        let sum = self.transport_sum.plus(Sum::of_u16(transport_len)).plus(fields).plus(Sum::of(payload));
        let offset = checksum_offset(self.protocol);
        transport[offset..][..2].copy_from_slice(&never_zero_for_udp(sum.checksum(), offset));

        self.done += payload_len;
        self.index += 1;
        total_len
    }

    /// The TCP flags of the next packet, which has so many bytes of payload.
    fn flags_of(&self, payload_len: usize) -> u16 {
        let is_first = self.done == 0;
        let is_last = self.done + payload_len == self.payload_len;
        let on_first_only = if is_first { 0 } else { tcp_flags::CWR };
        let on_last_only = if is_last { 0 } else { tcp_flags::FIN | tcp_flags::PSH };
        self.flags & !u16::from(on_first_only | on_last_only)
    }
}

/// Where TCP and UDP keep their checksum, from the start of their header.
pub(super) const fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { UDP_CHECKSUM_OFFSET }
}

const UDP_CHECKSUM_OFFSET: usize = 6;
/// Where UDP keeps its length, and TCP its data offset and flags, from the start of their header.
const UDP_LEN: usize = 4;
const TCP_FLAGS: usize = 12;

fn transport_header_len(packet: &[u8], protocol: u8, transport: usize) -> Result<usize, Malformed> {
    if protocol == UDP {
        return Ok(UDP_HEADER_LEN);
    }
    let offset = packet.get(transport + 12).ok_or(Malformed::BadTransport)?;
    let len = usize::from(offset >> 4) * 4;
    if len >= TCP_HEADER_LEN { Ok(len) } else { Err(Malformed::BadTransport) }
}

/// Finishes a checksum whose field holds the pseudo-header's sum (virtio 1.2 §5.1.6.2).
fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) -> Result<(), Malformed> {
    let at = start + offset;
    if at + 2 > packet.len() {
        return Err(Malformed::BadChecksumRange);
    }
    let checksum = Sum::of(&packet[start..]).checksum();
    packet[at..at + 2].copy_from_slice(&never_zero_for_udp(checksum, offset));
    Ok(())
}

/// In UDP a checksum of zero says "none" (RFC 768): its other ones' complement form goes on the wire.
fn never_zero_for_udp(checksum: [u8; 2], offset: usize) -> [u8; 2] {
    if checksum == [0, 0] && offset == UDP_CHECKSUM_OFFSET { [0xff, 0xff] } else { checksum }
}
