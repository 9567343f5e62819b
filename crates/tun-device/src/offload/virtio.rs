//! `struct virtio_net_hdr` (linux/virtio_net.h): 10 bytes in native byte order in front of every frame.

use super::Malformed;
use crate::VNET_HEADER_LEN;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const FLAG_NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`: a bit on top of the TCP types.
const GSO_ECN: u8 = 0x80;

/// How a frame is to be split (`VIRTIO_NET_HDR_GSO_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GsoType {
    /// A single packet.
    #[default]
    None = 0,
    /// TCP over IPv4.
    TcpV4 = 1,
    /// TCP over IPv6.
    TcpV6 = 4,
    /// UDP datagrams over either (Linux ≥ 6.2).
    UdpL4 = 5,
}

/// What stands in front of a packet: which checksum is unfinished, and how to split it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VnetHeader {
    /// The checksum at `csum_start + csum_offset` holds only the pseudo-header's sum: complete it.
    pub needs_checksum: bool,
    /// How to split the packet.
    pub gso_type: GsoType,
    /// A TCP super-packet whose CWR flag belongs on its first segment only.
    pub ecn: bool,
    /// Length of all headers, bytes. A hint: [`Segments`](super::Segments) finds it out for itself.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksummed range starts, from the start of the packet; it runs to the end.
    pub csum_start: u16,
    /// Where the checksum is stored, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// A plain packet: ten zeros.
    pub const PLAIN: Self = Self {
        needs_checksum: false,
        gso_type: GsoType::None,
        ecn: false,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
    };

    /// Reads the header of a frame.
    ///
    /// # Errors
    /// `ShortFrame`, or `UnknownGsoType` for what we never negotiate (UFO, tunnels). Unknown flags are
    /// ignored, as virtio asks.
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let Some((header, _)) = frame.split_first_chunk::<VNET_HEADER_LEN>() else {
            return Err(Malformed::ShortFrame);
        };
        let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let gso_type = match header[1] & !GSO_ECN {
            0 => GsoType::None,
            1 => GsoType::TcpV4,
            4 => GsoType::TcpV6,
            5 => GsoType::UdpL4,
            _ => return Err(Malformed::UnknownGsoType),
        };
        Ok(Self {
            needs_checksum: header[0] & FLAG_NEEDS_CSUM != 0,
            gso_type,
            ecn: header[1] & GSO_ECN != 0,
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        })
    }

    /// Writes the header.
    pub fn write_to(&self, out: &mut [u8; VNET_HEADER_LEN]) {
        out[0] = if self.needs_checksum { FLAG_NEEDS_CSUM } else { 0 };
        out[1] = self.gso_type as u8 | if self.ecn { GSO_ECN } else { 0 };
        let fields = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset];
        for (bytes, field) in out[2..].chunks_exact_mut(2).zip(fields) {
            bytes.copy_from_slice(&field.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_plain_header_is_ten_zeros() {
        let mut bytes = [0xaa; VNET_HEADER_LEN];
        VnetHeader::PLAIN.write_to(&mut bytes);
        assert_eq!(bytes, [0; VNET_HEADER_LEN]);
    }

    #[test]
    fn ufo_and_short_frames_are_refused() {
        assert_eq!(VnetHeader::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::UnknownGsoType));
        assert_eq!(VnetHeader::parse(&[0; 9]), Err(Malformed::ShortFrame));
    }

    proptest! {
        #[test]
        fn what_parses_survives_a_round_trip(bytes in any::<[u8; VNET_HEADER_LEN]>()) {
            if let Ok(header) = VnetHeader::parse(&bytes) {
                let mut out = [0; VNET_HEADER_LEN];
                header.write_to(&mut out);
                prop_assert_eq!(VnetHeader::parse(&out), Ok(header));
                prop_assert_eq!(&out[1..], &bytes[1..]);
            }
        }
    }
}
