//! Splitting super-packets: every packet must be one that a strict receiver takes.

mod common;

use common::{ACK, CWR, FIN, PSH, Spec, assert_valid};
use proptest::prelude::*;
use tun_device::{GsoType, Malformed, Segments, VNET_HEADER_LEN, VnetHeader};

/// A super-packet frame as the kernel would hand it to us: one big packet with a partial checksum.
fn super_frame(spec: &Spec, gso_size: u16) -> Vec<u8> {
    let packet = spec.build();
    let gso_type = match (spec.tcp, spec.v6) {
        (true, false) => GsoType::TcpV4,
        (true, true) => GsoType::TcpV6,
        (false, _) => GsoType::UdpL4,
    };
    let header = VnetHeader {
        needs_checksum: true,
        gso_type,
        ecn: false,
        hdr_len: 9999, // must not be believed
        gso_size,
        csum_start: spec.ip_header_len() as u16,
        csum_offset: if spec.tcp { 16 } else { 6 },
    };
    frame(header, &packet)
}

fn frame(header: VnetHeader, packet: &[u8]) -> Vec<u8> {
    let mut bytes = [0; VNET_HEADER_LEN];
    header.write_to(&mut bytes);
    [&bytes, packet].concat()
}

fn split(mut frame: Vec<u8>) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut segments = Segments::new(&mut frame)?;
    let mut packets = Vec::new();
    let mut expected = segments.remaining();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
        expected -= 1;
        assert_eq!(segments.remaining(), expected);
    }
    assert_eq!(expected, 0);
    Ok(packets)
}

/// What a sender without offloads would have sent.
fn reference(spec: &Spec, gso_size: usize) -> Vec<Vec<u8>> {
    let count = spec.payload.len().div_ceil(gso_size).max(1);
    let mut pieces = spec.payload.chunks(gso_size);
    (0..count)
        .map(|i| {
            let mut piece = spec.clone();
            piece.payload = pieces.next().unwrap_or(&[]).to_vec();
            piece.sequence = spec.sequence.wrapping_add((i * gso_size) as u32);
            piece.id = spec.id.wrapping_add(i as u16);
            if i > 0 {
                piece.flags &= !CWR;
            }
            if i + 1 < count {
                piece.flags &= !(FIN | PSH);
            }
            piece.build()
        })
        .collect()
}

prop_compose! {
    fn any_spec()(
        v6 in any::<bool>(), tcp in any::<bool>(), sequence in any::<u32>(), id in any::<u16>(),
        flags in 0u16..0x200, tos in any::<u8>(), tcp_options in 0usize..=10, ip_options in 0usize..=10,
        df in any::<bool>(), len in 0usize..6000, seed in any::<usize>(),
    ) -> Spec {
        Spec {
            v6, tcp, sequence, id, flags, tos,
            tcp_options: vec![1; tcp_options * 4],
            ip_options: if v6 { Vec::new() } else { vec![1; ip_options * 4] },
            flags_and_offset: if df { 0x4000 } else { 0 },
            ..Spec::tcp()
        }.payload(seed, len)
    }
}

proptest! {
    #[test]
    fn segments_are_what_a_sender_without_offloads_sends(spec in any_spec(), gso_size in 1u16..3000) {
        // Keep the number of packets sane for a debug build.
        let gso_size = gso_size.max((spec.payload.len() / 200) as u16).max(1);
        let packets = split(super_frame(&spec, gso_size)).unwrap();
        packets.iter().for_each(|packet| assert_valid(packet));
        prop_assert_eq!(packets, reference(&spec, gso_size.into()));
    }

    #[test]
    fn a_partial_checksum_is_completed(spec in any_spec()) {
        let whole = spec.build();
        let mut partial = whole.clone();
        let start = spec.ip_header_len();
        let offset = if spec.tcp { 16 } else { 6 };
        // The field holds the pseudo-header's sum: what the checksum field of an empty transport would be,
        // complemented. Recover it from the finished checksum and the transport's sum.
        partial[start + offset..][..2].fill(0);
        let (source, destination) = common::addresses(&whole);
        let protocol = if spec.tcp { 6 } else { 17 };
        let all = !common::transport_checksum(source, destination, protocol, &partial[start..]);
        let transport = common::ones_complement(&partial[start..]);
        let pseudo = (u32::from(all) + 0xffff - u32::from(transport)) % 0xffff;
        partial[start + offset..][..2].copy_from_slice(&(pseudo as u16).to_be_bytes());
        let header = VnetHeader {
            needs_checksum: true, csum_start: start as u16, csum_offset: offset as u16, ..VnetHeader::PLAIN
        };
        let packets = split(frame(header, &partial)).unwrap();
        prop_assert_eq!(packets.len(), 1);
        assert_valid(&packets[0]);
        prop_assert_eq!(&packets[0], &whole);
    }

    #[test]
    fn a_plain_frame_passes_untouched_and_loses_trailing_bytes(spec in any_spec(), extra in 0usize..20) {
        let packet = spec.build();
        let padded = [packet.as_slice(), &vec![0xee; extra]].concat();
        prop_assert_eq!(split(frame(VnetHeader::PLAIN, &padded)).unwrap(), vec![packet]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = split(bytes);
    }

    #[test]
    fn a_damaged_super_packet_never_panics(
        spec in any_spec(), gso_size in any::<u16>(), damage in proptest::collection::vec((0usize..90, any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut spec = spec;
        spec.payload.truncate(300);
        let mut frame = super_frame(&spec, gso_size);
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut.index(frame.len() + 1));
        let _ = split(frame);
    }
}

#[test]
fn a_64_kib_train_splits_whole() {
    let spec = Spec { flags: ACK | PSH | CWR | FIN, ..Spec::tcp() }.payload(1, 65_535 - 52);
    let packets = split(super_frame(&spec, 1380)).unwrap();
    assert_eq!(packets.len(), (65_535usize - 52).div_ceil(1380));
    assert_eq!(packets, reference(&spec, 1380));
}

#[test]
fn ipv6_extension_headers_are_repeated_in_every_segment() {
    let inner = Spec { v6: true, ..Spec::tcp() }.payload(3, 3000);
    let packet = inner.build();
    // Destination options (60) of 8 bytes, filled by a PadN option, between IPv6 and TCP.
    let mut with_options = packet[..40].to_vec();
    with_options[6] = 60;
    with_options[4..6].copy_from_slice(&((packet.len() - 40 + 8) as u16).to_be_bytes());
    with_options.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    with_options.extend(&packet[40..]);
    let header = VnetHeader {
        needs_checksum: true,
        gso_type: GsoType::TcpV6,
        gso_size: 1000,
        csum_start: 48,
        csum_offset: 16,
        ..VnetHeader::PLAIN
    };
    let packets = split(frame(header, &with_options)).unwrap();
    assert_eq!(packets.len(), 3);
    for packet in &packets {
        assert_valid(packet);
        assert_eq!(packet[6], 60);
    }
}

#[test]
fn what_cannot_be_split_says_why() {
    let spec = Spec::tcp().payload(1, 3000);
    let good = VnetHeader { gso_type: GsoType::TcpV4, gso_size: 1000, ..VnetHeader::PLAIN };
    let packet = spec.build();
    let fragment = Spec { flags_and_offset: 0x2000, ..spec.clone() }.build();
    let cases: [(Vec<u8>, Malformed); 8] = [
        (vec![0; 9], Malformed::ShortFrame),
        (vec![0; 10], Malformed::ShortFrame),
        (frame(VnetHeader::PLAIN, &[0x50; 40]), Malformed::NotIp),
        (frame(good, &packet[..2000]), Malformed::BadLength),
        (frame(VnetHeader { gso_size: 0, ..good }, &packet), Malformed::ZeroGsoSize),
        (frame(VnetHeader { gso_type: GsoType::TcpV6, ..good }, &packet), Malformed::BadTransport),
        (frame(good, &fragment), Malformed::BadTransport),
        (
            frame(
                VnetHeader { needs_checksum: true, csum_start: 3040, csum_offset: 16, ..VnetHeader::PLAIN },
                &packet,
            ),
            Malformed::BadChecksumRange,
        ),
    ];
    for (frame, expected) in cases {
        assert_eq!(split(frame), Err(expected));
    }
}
