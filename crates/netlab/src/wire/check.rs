//! Is this packet as its sender meant it? Slow, plain and on purpose not the code it judges: `tun-device` completes
//! and verifies checksums its way, this adds up bytes.

/// What a packet carries, and over which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over IPv4.
    UdpV4,
    /// UDP over IPv6.
    UdpV6,
    /// Pings, neighbour discovery, and whatever is no packet at all.
    Other,
}

impl WireKind {
    /// Every kind, in the order of tables.
    pub const ALL: [Self; 5] = [Self::TcpV4, Self::TcpV6, Self::UdpV4, Self::UdpV6, Self::Other];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpV4 => "TCP, IPv4",
            Self::TcpV6 => "TCP, IPv6",
            Self::UdpV4 => "UDP, IPv4",
            Self::UdpV6 => "UDP, IPv6",
            Self::Other => "other",
        }
    }
}

/// What is wrong with a packet.
pub(crate) type Fault = &'static str;

// Assigned protocol numbers (IANA).
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Looks at one IP packet, the whole of it and nothing more. What the lab's traffic never contains (fragments,
/// extension headers, other protocols) is a fault too: it could only come from a mangled packet.
pub(crate) fn check(packet: &[u8]) -> (WireKind, Result<(), Fault>) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => check_v4(packet),
        Some(6) => check_v6(packet),
        _ => (WireKind::Other, Err("neither IPv4 nor IPv6")),
    }
}

/// RFC 791, section 3.1.
fn check_v4(packet: &[u8]) -> (WireKind, Result<(), Fault>) {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let Some((header, payload)) = packet.split_at_checked(header_len).filter(|_| header_len >= 20) else {
        return (WireKind::Other, Err("an IPv4 header of impossible length"));
    };
    let protocol = header[9];
    let kind = match protocol {
        TCP => WireKind::TcpV4,
        UDP => WireKind::UdpV4,
        _ => WireKind::Other,
    };
    let more_fragments_or_offset = u16_at(header, 6) & 0x3fff;
    let outcome = if usize::from(u16_at(header, 2)) != packet.len() {
        Err("the IPv4 total length is not the packet's")
    } else if fold(sum(header)) != 0xffff {
        Err("a wrong IPv4 header checksum")
    } else if more_fragments_or_offset != 0 {
        Err("a fragment")
    } else {
        match protocol {
            ICMP => check_sum(0, payload, "a wrong ICMP checksum"),
            TCP | UDP => check_transport(protocol, &header[12..20], payload),
            _ => Err("an IPv4 protocol that nobody sent"),
        }
    };
    (kind, outcome)
}

/// RFC 8200, sections 3 and 8.1.
fn check_v6(packet: &[u8]) -> (WireKind, Result<(), Fault>) {
    let Some((header, payload)) = packet.split_at_checked(40) else {
        return (WireKind::Other, Err("half an IPv6 header"));
    };
    let protocol = header[6];
    let kind = match protocol {
        TCP => WireKind::TcpV6,
        UDP => WireKind::UdpV6,
        _ => WireKind::Other,
    };
    let addresses = &header[8..40];
    let outcome = if usize::from(u16_at(header, 4)) != payload.len() {
        Err("the IPv6 payload length is not the packet's")
    } else {
        match protocol {
            ICMPV6 => {
                let pseudo_header = pseudo_header(protocol, addresses, payload);
                check_sum(pseudo_header, payload, "a wrong ICMPv6 checksum")
            }
            TCP | UDP => check_transport(protocol, addresses, payload),
            _ => Err("an IPv6 next header that nobody sent"),
        }
    };
    (kind, outcome)
}

/// RFC 9293, section 3.1, and RFC 768.
fn check_transport(protocol: u8, addresses: &[u8], segment: &[u8]) -> Result<(), Fault> {
    let pseudo_header = pseudo_header(protocol, addresses, segment);
    if protocol == TCP {
        let header_len = segment.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
        if header_len < 20 || header_len > segment.len() {
            return Err("a TCP header of impossible length");
        }
        return check_sum(pseudo_header, segment, "a wrong TCP checksum");
    }
    if segment.len() < 8 || usize::from(u16_at(segment, 4)) != segment.len() {
        return Err("the UDP length is not the packet's");
    }
    // Over IPv4 that is allowed, but Linux always computes one: somebody has lost it.
    if u16_at(segment, 6) == 0 {
        return Err("no UDP checksum");
    }
    check_sum(pseudo_header, segment, "a wrong UDP checksum")
}

/// The same sum for both families: the fields are the same but for zeros.
pub(crate) fn pseudo_header(protocol: u8, addresses: &[u8], segment: &[u8]) -> u64 {
    sum(addresses) + u64::from(protocol) + segment.len() as u64
}

fn check_sum(pseudo_header: u64, bytes: &[u8], fault: Fault) -> Result<(), Fault> {
    if fold(pseudo_header + sum(bytes)) == 0xffff { Ok(()) } else { Err(fault) }
}

/// The big-endian 16-bit words of `bytes` added up, an odd last byte being the high half of a word (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    for (at, byte) in bytes.iter().enumerate() {
        sum += if at % 2 == 0 { u64::from(*byte) << 8 } else { u64::from(*byte) };
    }
    sum
}

/// To 16 bits, with the end-around carry.
pub(crate) fn fold(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) << 8 | u16::from(bytes[at + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One packet of each kind with an odd payload; an independent script computed the checksums.
    const GOOD: [(WireKind, &str); 4] = [
        (
            WireKind::TcpV4,
            "4500002f12344000400613f90a4d00010a4d000201bbc35001020304deadbeef501801f5c92f0000766f6c6c657921",
        ),
        (WireKind::UdpV4, "4500002312344000401113fa0a4d00010a4d000200359c40000fe568766f6c6c657921"),
        (
            WireKind::TcpV6,
            "60000000001b0640fd770000000000000000000000000001fd77000000000000000000000000000201bbc350\
             01020304deadbeef501801f5e2d90000766f6c6c657921",
        ),
        (
            WireKind::UdpV6,
            "60000000000f1140fd770000000000000000000000000001fd77000000000000000000000000000200359c40\
             000fff12766f6c6c657921",
        ),
    ];

    fn good() -> impl Iterator<Item = (WireKind, Vec<u8>)> {
        GOOD.iter().map(|(kind, hex)| {
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (*kind, (0..hex.len()).step_by(2).map(byte).collect())
        })
    }

    #[test]
    fn good_packets_pass() {
        for (kind, packet) in good() {
            assert_eq!(check(&packet), (kind, Ok(())));
        }
    }

    #[test]
    fn no_flipped_bit_passes() {
        for (kind, packet) in good() {
            for bit in 0..packet.len() * 8 {
                // Traffic class, flow label and hop limit of IPv6 are under no checksum.
                let unprotected = packet[0] >> 4 == 6 && ((4..32).contains(&bit) || (56..64).contains(&bit));
                let mut packet = packet.clone();
                packet[bit / 8] ^= 0x80 >> (bit % 8);
                assert_eq!(check(&packet).1.is_ok(), unprotected, "{kind:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn nothing_missing_and_nothing_extra_passes() {
        for (kind, mut packet) in good() {
            for len in 0..packet.len() {
                assert!(check(&packet[..len]).1.is_err(), "{kind:?} cut to {len}");
            }
            packet.push(0);
            assert!(check(&packet).1.is_err(), "{kind:?} and a zero");
        }
    }

    #[test]
    fn an_unfinished_checksum_is_a_wrong_one() {
        // What a packet carries while its checksum is still to be completed: the pseudo-header's sum.
        for (kind, mut packet) in good() {
            let header_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
            let (addresses, at) = if header_len == 20 { (12..20, 9) } else { (8..40, 6) };
            let partial = fold(pseudo_header(packet[at], &packet[addresses], &packet[header_len..]));
            let checksum = header_len + if packet[at] == TCP { 16 } else { 6 };
            packet[checksum..checksum + 2].copy_from_slice(&(partial as u16).to_be_bytes());
            assert!(check(&packet).1.is_err(), "{kind:?}");
        }
    }

    #[test]
    fn udp_without_a_checksum_fails() {
        for (kind, mut packet) in good().filter(|(kind, _)| matches!(kind, WireKind::UdpV4 | WireKind::UdpV6))
        {
            let at = packet.len() - 7 - 2;
            packet[at..at + 2].fill(0);
            assert_eq!(check(&packet), (kind, Err("no UDP checksum")));
        }
    }
}
