use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "one base instant, to which the tests add offsets")]
fn start() -> Instant {
    Instant::now()
}

fn answer(packet: &[u8]) -> Result<Vec<u8>, Silence> {
    let inner = Inner::parse(packet).expect("one whole packet");
    let mut out = [0xee; MAX_ICMP_ERROR_LEN];
    let len = Answers::default().answer(packet, &inner, &mut out, start())?;
    Ok(out[..len].to_vec())
}

fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

fn ipv6(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    for address in [source, destination] {
        packet.extend(address.parse::<Ipv6Addr>().unwrap().octets());
    }
    packet.extend(payload);
    packet
}

const OURS: [u8; 4] = [10, 0, 0, 1];
const THEIRS: [u8; 4] = [10, 9, 8, 7];

fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4(OURS, THEIRS, protocol, payload)
}

fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv6("fd00::1", "fd00::9", protocol, payload)
}

/// RFC 1071 over parts, byte by byte: zero where the checksum is right. Every part but the last is even.
fn verify(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for (at, byte) in parts.concat().iter().enumerate() {
        sum += u64::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What RFC 792 and RFC 4443 want of an answer to `packet`.
fn check(packet: &[u8], answer: &[u8]) {
    let (inner, outer) = (Inner::parse(packet).unwrap(), Inner::parse(answer).unwrap());
    assert_eq!(outer.len, answer.len());
    assert_eq!((outer.source, outer.destination), (inner.destination, inner.source));
    let (message, limit, kind) = match inner.source {
        IpAddr::V4(_) => {
            assert_eq!((answer[0], answer[8], answer[9]), (0x45, 64, 1));
            assert_eq!(verify(&[&answer[..20]]), 0, "IPv4 header");
            assert_eq!(verify(&[&answer[20..]]), 0, "ICMP");
            (&answer[20..], 576, [3, 1])
        }
        IpAddr::V6(_) => {
            assert_eq!((answer[0], answer[6], answer[7]), (0x60, 58, 64));
            let len = (answer.len() as u32 - 40).to_be_bytes();
            assert_eq!(verify(&[&answer[8..40], &len, &[0, 0, 0, 58], &answer[40..]]), 0, "ICMPv6");
            (&answer[40..], 1280, [1, 3])
        }
    };
    assert_eq!((&message[..2], &message[4..8]), (&kind[..], &[0; 4][..]));
    let quote = &message[8..];
    assert!(answer.len() <= limit, "{}", answer.len());
    assert_eq!(quote, &packet[..quote.len()]);
    assert!(quote.len() == inner.len || answer.len() == limit, "as much as there is room for");
}

#[test]
fn what_is_behind_the_packet_is_not_quoted() {
    let mut packet = v4(17, &[1; 12]);
    packet.extend([9; 4]);
    assert_eq!(answer(&packet).unwrap().len(), 20 + 8 + 32);
}

#[test]
fn icmp_errors_are_never_answered_and_queries_are() {
    for kind in 0..=255 {
        let is_v4_query = [0, 8, 9, 10, 13, 14, 15, 16, 17, 18].contains(&kind);
        let is_v6_query = kind >= 128 && kind != 137;
        for (packet, is_query) in [
            (v4(1, &[kind, 0, 0, 0, 0, 0, 0, 0]), is_v4_query),
            (v6(58, &[kind, 0, 0, 0, 0, 0, 0, 0]), is_v6_query),
            // Behind destination options, and in a first fragment.
            (v6(60, &[58, 0, 0, 0, 0, 0, 0, 0, kind, 0]), is_v6_query),
            (v6(44, &[58, 0, 0, 1, 0, 0, 0, 0, kind, 0]), is_v6_query),
        ] {
            match answer(&packet) {
                Ok(answer) => {
                    assert!(is_query, "{kind} in {packet:?}");
                    check(&packet, &answer);
                }
                Err(silence) => assert_eq!((silence, is_query), (Silence::IcmpError, false), "{kind}"),
            }
        }
    }
}

#[test]
fn an_answer_is_not_answered() {
    for packet in [v4(17, &[0; 8]), v6(17, &[0; 8])] {
        assert_eq!(answer(&answer(&packet).unwrap()), Err(Silence::IcmpError));
    }
}

#[test]
fn only_one_hosts_packets_to_one_host_are_answered() {
    for destination in [[224, 0, 0, 251], [239, 1, 2, 3], [255; 4]] {
        assert_eq!(answer(&ipv4(OURS, destination, 17, &[0; 8])), Err(Silence::Multicast), "{destination:?}");
    }
    for unfit in [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1], [240, 0, 0, 1]] {
        assert_eq!(answer(&ipv4(unfit, THEIRS, 17, &[0; 8])), Err(Silence::Address), "from {unfit:?}");
        assert_eq!(answer(&ipv4(OURS, unfit, 17, &[0; 8])), Err(Silence::Address), "to {unfit:?}");
    }
    for unfit in [[224, 0, 0, 1], [255; 4]] {
        assert_eq!(answer(&ipv4(unfit, THEIRS, 17, &[0; 8])), Err(Silence::Address), "from {unfit:?}");
    }
    assert_eq!(answer(&ipv6("fd00::1", "ff02::2", 58, &[133, 0])), Err(Silence::Multicast));
    for unfit in ["::", "::1", "ff02::1"] {
        assert_eq!(answer(&ipv6(unfit, "fd00::9", 17, &[0; 8])), Err(Silence::Address), "from {unfit}");
    }
    for unfit in ["::", "::1"] {
        assert_eq!(answer(&ipv6("fd00::1", unfit, 17, &[0; 8])), Err(Silence::Address), "to {unfit}");
    }
}

#[test]
fn a_first_fragment_is_answered_and_a_later_one_is_not() {
    let mut packet = v4(17, &[0; 16]);
    packet[6] = 0x20; // more fragments
    check(&packet, &answer(&packet).unwrap());
    packet[7] = 2;
    assert_eq!(answer(&packet), Err(Silence::Fragment));

    let packet = v6(44, &[17, 0, 0, 1, 0, 0, 0, 7, 1, 2, 3, 4]);
    check(&packet, &answer(&packet).unwrap());
    assert_eq!(answer(&v6(44, &[17, 0, 0, 9, 0, 0, 0, 7, 1, 2])), Err(Silence::Fragment));
}

#[test]
fn what_may_be_an_icmp_error_is_not_answered() {
    assert_eq!(answer(&v4(1, &[])), Err(Silence::CutShort));
    assert_eq!(answer(&v6(58, &[])), Err(Silence::CutShort));
    assert_eq!(answer(&v6(60, &[58])), Err(Silence::CutShort));
    assert_eq!(answer(&v6(0, &[58, 9, 0, 0])), Err(Silence::CutShort));
}

#[test]
fn answers_are_bounded_in_rate() {
    let packet = v4(17, &[0; 8]);
    let inner = Inner::parse(&packet).unwrap();
    let mut answers = Answers::default();
    let mut out = [0; MAX_ICMP_ERROR_LEN];
    let mut count =
        |now| (0..1_000).filter(|_| answers.answer(&packet, &inner, &mut out, now).is_ok()).count();
    let now = start();
    assert_eq!(count(now), 50);
    assert_eq!(count(now + Duration::from_millis(7)), 7);
    assert_eq!(count(now + Duration::from_secs(3_600)), 50, "no more than a burst is saved up");
}

#[test]
fn what_is_not_answered_costs_nothing_of_the_rate() {
    let (error, good) = (v4(1, &[3, 1]), v4(17, &[0; 8]));
    let mut answers = Answers::default();
    let mut out = [0; MAX_ICMP_ERROR_LEN];
    let mut ask = |packet: &[u8], now| answers.answer(packet, &Inner::parse(packet).unwrap(), &mut out, now);
    let now = start();
    for _ in 0..100 {
        assert_eq!(ask(&error, now), Err(Silence::IcmpError));
    }
    ask(&good, now).unwrap();
}

proptest! {
    #[test]
    fn answers_are_right_for_any_packet_of_either_family(
        is_v6: bool,
        protocol in prop_oneof![Just(1), Just(6), Just(17), Just(44), Just(58), Just(60), any::<u8>()],
        payload in proptest::collection::vec(any::<u8>(), 0..1_500),
    ) {
        let packet = if is_v6 { v6(protocol, &payload) } else { v4(protocol, &payload) };
        if let Ok(answer) = answer(&packet) {
            check(&packet, &answer);
        }
    }

    #[test]
    fn any_bytes_are_answered_right_or_not_at_all(mut bytes in proptest::collection::vec(any::<u8>(), 20..200), is_v6: bool) {
        bytes[0] = if is_v6 { 0x60 } else { 0x40 | bytes[0] & 0x0f };
        let len = bytes.len() as u16;
        if is_v6 {
            bytes[4..6].copy_from_slice(&len.saturating_sub(40).to_be_bytes());
        } else {
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
        }
        if Inner::parse(&bytes).is_some() && let Ok(answer) = answer(&bytes) {
            check(&bytes, &answer);
        }
    }
}
