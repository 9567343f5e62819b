//! The length an IP packet claims for itself: what remains once WireGuard's padding is cut off.

/// The shortest IPv4 header, bytes (RFC 791 §3.1).
const IPV4_HEADER: usize = 20;
/// The IPv6 header, bytes (RFC 8200 §3).
const IPV6_HEADER: usize = 40;

/// Length of the IP packet at the start of `padded` by its own header, or `None` if that is no IP
/// packet: unknown version, header cut short, or a length that the bytes do not hold.
#[inline]
pub(crate) fn packet_len(padded: &[u8]) -> Option<usize> {
    match padded.first()? >> 4 {
        4 => {
            let header: &[u8; IPV4_HEADER] = padded.first_chunk()?;
            let header_len = usize::from(header[0] & 0x0f) * 4;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let whole_header = header_len >= IPV4_HEADER && len >= header_len;
            (whole_header && len <= padded.len()).then_some(len)
        }
        6 => {
            let header: &[u8; IPV6_HEADER] = padded.first_chunk()?;
            let len = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
            (len <= padded.len()).then_some(len)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(len: u16, size: usize) -> Vec<u8> {
        let mut packet = vec![0; size];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    #[test]
    fn padding_is_cut_off_by_the_header() {
        assert_eq!(packet_len(&v4(30, 32)), Some(30));
        let mut v6 = vec![0; 64];
        v6[0] = 0x60;
        v6[5] = 20;
        assert_eq!(packet_len(&v6), Some(60));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        assert_eq!(packet_len(&v4(33, 32)), None, "longer than the bytes");
        assert_eq!(packet_len(&v4(19, 32)), None, "shorter than its header");
        assert_eq!(packet_len(&v4(0, 32)), None);
        let mut options = v4(20, 32);
        options[0] = 0x46;
        assert_eq!(packet_len(&options), None, "shorter than its header with options");
        options[0] = 0x44;
        assert_eq!(packet_len(&options), None, "a header of 16 bytes");
        assert_eq!(packet_len(&v4(20, 20)[..19]), None);
        assert_eq!(packet_len(&[0x60; 39]), None);
        assert_eq!(packet_len(&[0x50; 64]), None);
        assert_eq!(packet_len(&[]), None);
    }
}
