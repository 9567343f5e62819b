//! The inner IP packet: just enough of its header to route it, trim it and carry ECN (RFC 6040).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gso_queue::Ecn;

/// Length of an IPv4 header without options (RFC 791 §3.1), bytes.
pub(crate) const IPV4_HEADER_LEN: usize = 20;
/// Length of an IPv6 header (RFC 8200 §3), bytes.
pub(crate) const IPV6_HEADER_LEN: usize = 40;

/// What an IP header says, checked against the bytes that are really there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    /// Bytes of the packet by its own header: at most what was parsed, anything behind is padding.
    pub(crate) len: usize,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ecn: Ecn,
}

impl Inner {
    /// `None` unless `packet` begins with one whole IPv4 or IPv6 packet.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let len = whole_len(packet)?;
        match packet[0] >> 4 {
            4 => Self::parse_v4(packet, len),
            _ => Self::parse_v6(packet, len),
        }
    }

    fn parse_v4(packet: &[u8], len: usize) -> Option<Self> {
        let header: &[u8; IPV4_HEADER_LEN] = packet.first_chunk()?;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Some(Self {
            len,
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            ecn: Ecn::from_bits(header[1]),
        })
    }

    fn parse_v6(packet: &[u8], len: usize) -> Option<Self> {
        let header: &[u8; IPV6_HEADER_LEN] = packet.first_chunk()?;
        let (_, addresses) = header.split_last_chunk::<32>()?;
        let (source, destination) = addresses.split_at(16);
        Some(Self {
            len,
            source: Ipv6Addr::from(<[u8; 16]>::try_from(source).ok()?).into(),
            destination: Ipv6Addr::from(<[u8; 16]>::try_from(destination).ok()?).into(),
            ecn: Ecn::from_bits(header[1] >> 4),
        })
    }
}

/// Without what is behind its length by its own header. `None` unless it begins with one whole IPv4 or IPv6 packet.
pub(crate) fn trim(packet: &[u8]) -> Option<&[u8]> {
    packet.get(..whole_len(packet)?)
}

fn whole_len(packet: &[u8]) -> Option<usize> {
    let len = match packet.first()? >> 4 {
        4 => {
            let header: &[u8; IPV4_HEADER_LEN] = packet.first_chunk()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let header_fits = (IPV4_HEADER_LEN..=len).contains(&header_len);
            header_fits.then_some(len)?
        }
        6 => {
            let header: &[u8; IPV6_HEADER_LEN] = packet.first_chunk()?;
            IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]))
        }
        _ => return None,
    };
    (len <= packet.len()).then_some(len)
}

/// The outer ECN bits for an inner packet: the same (RFC 6040 §4.1, normal mode).
///
/// Linux's WireGuard writes ECT(0) for an inner CE (the older RFC 3168 §9.1.1); both decapsulate to CE.
pub(crate) const fn encapsulate_ecn(inner: Ecn) -> Ecn {
    inner
}

/// The inner ECN bits after decapsulation (RFC 6040 §4.2, figure 4), but for one of its squares: a packet
/// that is not ECN-capable stays unmarked under an outer CE, where the RFC has it dropped.
///
/// The drop would be the only congestion signal such a sender understands. But its outer header was not
/// ECN-capable either, so no router that knows ECN marks it; what does is a box that marks everything, and
/// behind one a drop cuts off all traffic without ECN. Linux's WireGuard passes it, too: it ignores what
/// `INET_ECN_decapsulate` answers (drivers/net/wireguard/receive.c).
pub(crate) const fn decapsulate_ecn(outer: Ecn, inner: Ecn) -> Ecn {
    match (inner, outer) {
        (Ecn::NotEct, _) => Ecn::NotEct,
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ecn::Ce,
        (Ecn::Ect0, Ecn::Ect1) => Ecn::Ect1,
        (inner, _) => inner,
    }
}

/// Rewrites the ECN bits of a packet that [`Inner::parse`] accepted, and with them an IPv4 header's
/// checksum (by difference, RFC 1624, so that a wrong checksum stays wrong).
pub(crate) fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    let Some((header, _)) = packet.split_first_chunk_mut::<IPV4_HEADER_LEN>() else { return };
    if header[0] >> 4 == 6 {
        header[1] = header[1] & !0x30 | (ecn as u8) << 4;
        return;
    }
    let before = u16::from_be_bytes([header[0], header[1]]);
    header[1] = header[1] & !0b11 | ecn as u8;
    let after = u16::from_be_bytes([header[0], header[1]]);
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    // RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let [high, low] = (!(folded as u16)).to_be_bytes();
    header[10] = high;
    header[11] = low;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipv4(tos: u8, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; IPV4_HEADER_LEN + payload];
        let len = u16::try_from(packet.len()).unwrap();
        packet[0] = 0x45;
        packet[1] = tos;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[8] = 64;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        let checksum = !ones_complement_sum(&packet[..IPV4_HEADER_LEN]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn ones_complement_sum(header: &[u8]) -> u16 {
        let mut sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn reads_both_families_and_trims_what_is_behind() {
        let mut packet = ipv4(0b10, 8);
        packet.extend([0; 4]);
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!(inner.len, 28);
        assert_eq!(inner.source, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(inner.destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!(inner.ecn, Ecn::Ect0);

        let mut packet = vec![0; 40 + 5 + 3];
        packet[0] = 0x60;
        packet[1] = 0b11 << 4;
        packet[5] = 5;
        packet[8..24].fill(0xaa);
        packet[24..40].fill(0xbb);
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!(inner.len, 45);
        assert_eq!(inner.source, IpAddr::from([0xaa; 16]));
        assert_eq!(inner.destination, IpAddr::from([0xbb; 16]));
        assert_eq!(inner.ecn, Ecn::Ce);
    }

    #[test]
    fn refuses_what_is_not_one_whole_packet() {
        let good = ipv4(0, 8);
        assert!(Inner::parse(&[]).is_none());
        assert!(Inner::parse(&good[..19]).is_none(), "header cut");
        assert!(Inner::parse(&good[..27]).is_none(), "payload cut");
        let mut short_header = good.clone();
        short_header[0] = 0x44;
        assert!(Inner::parse(&short_header).is_none(), "header length below 20");
        let mut long_header = good.clone();
        long_header[0] = 0x4f;
        assert!(Inner::parse(&long_header).is_none(), "header longer than the packet");
        let mut version = good;
        version[0] = 0x55;
        assert!(Inner::parse(&version).is_none(), "version 5");
        assert!(Inner::parse(&[0x60; 39]).is_none(), "IPv6 header cut");
    }

    #[test]
    fn decapsulation_follows_figure_4_but_passes_a_deaf_packet_unmarked() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let table = [
            (NotEct, [NotEct, NotEct, NotEct, NotEct]),
            (Ect0, [Ect0, Ect0, Ect1, Ce]),
            (Ect1, [Ect1, Ect1, Ect1, Ce]),
            (Ce, [Ce, Ce, Ce, Ce]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(decapsulate_ecn(outer, inner), expected, "inner {inner:?}, outer {outer:?}");
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut packet = ipv4(0b10, 0);
        packet[11] ^= 1;
        set_ecn(&mut packet, Ecn::Ce);
        assert_ne!(ones_complement_sum(&packet[..IPV4_HEADER_LEN]), 0xffff);
    }

    proptest! {
        #[test]
        fn rewriting_ecn_keeps_the_ipv4_checksum_right(tos: u8, payload in 0usize..2000, to in 0u8..4) {
            let mut packet = ipv4(tos, payload);
            set_ecn(&mut packet, Ecn::from_bits(to));
            prop_assert_eq!(ones_complement_sum(&packet[..IPV4_HEADER_LEN]), 0xffff);
            prop_assert_eq!(packet[1], tos & !0b11 | to);
        }

        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(inner) = Inner::parse(&bytes) {
                prop_assert!(inner.len <= bytes.len());
                prop_assert!(inner.len >= IPV4_HEADER_LEN);
            }
        }
    }
}
