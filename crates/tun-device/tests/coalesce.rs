//! Merging packets: `split(coalesce(x)) == x`, flow by flow, whatever x is.

mod common;

use std::{collections::HashMap, io};

use common::{ACK, AE, CWR, ECE, FIN, PSH, Spec, assert_valid, bytes, without_atomic_id};
use proptest::prelude::*;
use tun_device::{CoalesceConfig, Coalescer, Full, GsoType, Segments, VNET_HEADER_LEN, VnetHeader};

/// A kernel that takes everything.
#[derive(Default)]
struct Sink {
    frames: Vec<Vec<u8>>,
}

impl Sink {
    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        self.frames.push(frame.to_vec());
        Ok(())
    }

    fn split(&self) -> Vec<Vec<u8>> {
        self.frames.iter().flat_map(|frame| split(frame)).collect()
    }
}

fn split(frame: &[u8]) -> Vec<Vec<u8>> {
    let header = VnetHeader::parse(frame).unwrap();
    if header == VnetHeader::PLAIN {
        return vec![frame[VNET_HEADER_LEN..].to_vec()];
    }
    assert_acceptable(&header, &frame[VNET_HEADER_LEN..]);
    let mut frame = frame.to_vec();
    let mut segments = Segments::new(&mut frame).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// What `virtio_net_hdr_to_skb` (linux/virtio_net.h) asks of a super-packet.
fn assert_acceptable(header: &VnetHeader, packet: &[u8]) {
    let (transport, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    assert!(header.needs_checksum);
    assert!(packet.len() <= 65_535);
    assert!(usize::from(header.hdr_len) < packet.len());
    assert!(transport + offset + 2 <= usize::from(header.hdr_len));
    assert_eq!(offset, if header.gso_type == GsoType::UdpL4 { 6 } else { 16 });
    assert!(packet.len() > usize::from(header.hdr_len + header.gso_size), "not really a super-packet");
    if header.gso_type == GsoType::UdpL4 {
        assert!(packet.len() - transport - 8 <= 64 * usize::from(header.gso_size));
    }
    // The field holds the pseudo-header's sum, so completing it must give a valid packet.
    let mut whole = packet.to_vec();
    let checksum = match !common::ones_complement(&whole[transport..]) {
        0 if header.gso_type == GsoType::UdpL4 => 0xffff,
        checksum => checksum,
    };
    whole[transport + offset..][..2].copy_from_slice(&checksum.to_be_bytes());
    assert_valid(&whole);
}

/// Coalesces with a flush whenever the coalescer asks for one, and at the end.
fn coalesce(config: CoalesceConfig, packets: &[Vec<u8>]) -> Sink {
    let mut coalescer = Coalescer::new(config);
    let mut sink = Sink::default();
    for packet in packets {
        if coalescer.push(packet).is_err() {
            assert!(coalescer.is_full());
            coalescer.flush(|frame| sink.write(frame)).unwrap();
            coalescer.push(packet).unwrap();
        }
    }
    coalescer.flush(|frame| sink.write(frame)).unwrap();
    assert!(coalescer.is_empty());
    assert_eq!(coalescer.counters().packets, packets.len() as u64);
    assert_eq!(coalescer.counters().frames, sink.frames.len() as u64);
    sink
}

fn one_flush(packets: &[Spec]) -> Sink {
    coalesce(CoalesceConfig::default(), &packets.iter().map(Spec::build).collect::<Vec<_>>())
}

/// How many packets each frame holds.
fn shape(packets: &[Spec]) -> Vec<usize> {
    one_flush(packets).frames.iter().map(|frame| split(frame).len()).collect()
}

/// The test's own notion of a flow: addresses, protocol, ports, read at fixed places.
fn flow(packet: &[u8]) -> Vec<u8> {
    match packet[0] >> 4 {
        4 => {
            let header_len = usize::from(packet[0] & 15) * 4;
            [&packet[9..10], &packet[12..20], &packet[header_len..header_len + 4]].concat()
        }
        _ => [&packet[6..7], &packet[8..44]].concat(),
    }
}

fn by_flow(packets: &[Vec<u8>]) -> HashMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        flows.entry(flow(packet)).or_default().push(without_atomic_id(packet));
    }
    flows
}

/// What happens to a flow at one step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Full,
    Short,
    Pushed,
    PureAck,
    Gap,
    Finished,
    BadTransportChecksum,
    BadHeaderChecksum,
    OtherWindow,
    OtherTos,
    OtherTtl,
    OtherId,
    SameId,
    Options,
    Fragment,
    Urgent,
    OtherEcn(u16),
    Flip(usize, u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => Just(Step::Full),
        4 => Just(Step::Short),
        4 => Just(Step::Pushed),
        2 => Just(Step::PureAck),
        2 => Just(Step::Gap),
        1 => Just(Step::Finished),
        2 => Just(Step::BadTransportChecksum),
        1 => Just(Step::BadHeaderChecksum),
        1 => Just(Step::OtherWindow),
        1 => Just(Step::OtherTos),
        1 => Just(Step::OtherTtl),
        2 => Just(Step::OtherId),
        4 => Just(Step::SameId),
        1 => Just(Step::Options),
        1 => Just(Step::Fragment),
        1 => Just(Step::Urgent),
        2 => ecn_bits().prop_map(Step::OtherEcn),
        2 => (0usize..120, any::<u8>()).prop_map(|(at, bit)| Step::Flip(at, bit)),
    ]
}

/// Of classic or Accurate ECN.
fn ecn_bits() -> impl Strategy<Value = u16> {
    proptest::sample::subsequence(vec![ECE, CWR, AE], 0..=3).prop_map(|bits| bits.into_iter().sum())
}

fn run(flows: &mut [Spec], steps: &[(usize, Step)], segment_len: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (index, (flow, step)) in steps.iter().enumerate() {
        let flow_count = flows.len();
        let spec = &mut flows[flow % flow_count];
        let mut now = spec.clone().payload(index, segment_len);
        match step {
            Step::Short => now.payload.truncate(segment_len / 2),
            Step::Pushed => now.flags |= PSH,
            Step::OtherEcn(bits) => now.flags ^= bits,
            Step::PureAck => now.payload.clear(),
            Step::Gap => now.sequence = now.sequence.wrapping_add(segment_len as u32),
            Step::Finished => now.flags |= FIN,
            Step::OtherWindow => now.window ^= 1,
            Step::OtherTos => now.tos = 0x10,
            Step::OtherTtl => now.ttl = 9,
            Step::OtherId => now.id = now.id.wrapping_add(300),
            Step::SameId => now.id = now.id.wrapping_sub(1),
            Step::Options if !now.v6 => now.ip_options = vec![1; 4],
            Step::Fragment if !now.v6 => now.flags_and_offset = 0x2000,
            _ => {}
        }
        let mut packet = now.build();
        let transport = now.ip_header_len();
        match step {
            Step::BadTransportChecksum => packet[transport + 8] ^= 0x40,
            Step::BadHeaderChecksum if !now.v6 => packet[10] ^= 1,
            Step::Urgent if now.tcp => packet[transport + 18] = 1,
            // Anywhere but in what makes the flow.
            Step::Flip(at, bits) if *at < packet.len() && *at >= transport + 4 => packet[*at] ^= bits,
            _ => {}
        }
        packets.push(packet);
        let usual = spec.clone();
        let next = now.next(0);
        *spec = Spec { sequence: next.sequence, id: next.id, ..usual };
    }
    packets
}

proptest! {
    #[test]
    fn split_undoes_coalesce_and_keeps_every_flow_in_order(
        kinds in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<u32>(), any::<u16>(), ecn_bits()), 1..5),
        steps in proptest::collection::vec((0usize..5, any_step()), 1..120),
        segment_len in prop_oneof![2usize..100, Just(1380usize)],
        max_flows in 0usize..6, max_frames in 1usize..40,
        (tso, uso) in prop_oneof![8 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true)), 1 => Just((false, false))],
    ) {
        let mut flows: Vec<Spec> = kinds.iter().enumerate().map(|(i, &(v6, tcp, df, sequence, id, ecn))| Spec {
            v6, tcp, sequence, id,
            host: (i / 2) as u8,
            port: 5000 + i as u16,
            flags_and_offset: if df { 0x4000 } else { 0 },
            flags: ACK | ecn,
            ..Spec::tcp()
        }).collect();
        let packets = run(&mut flows, &steps, segment_len);
        let config = CoalesceConfig { tso, uso, max_flows, max_frames, ..CoalesceConfig::default() };
        let sink = coalesce(config, &packets);
        prop_assert_eq!(by_flow(&sink.split()), by_flow(&packets));
    }

    #[test]
    fn arbitrary_bytes_leave_as_they_came(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..60),
        version in prop_oneof![Just(0x45u8), Just(0x60), Just(0x4f), Just(0x00)],
    ) {
        let packets: Vec<_> = packets.into_iter().map(|mut packet| {
            if let Some(first) = packet.first_mut() { *first = version; }
            packet
        }).collect();
        let mut coalescer = Coalescer::new(CoalesceConfig { max_frames: 60, ..CoalesceConfig::default() });
        let mut sink = Sink::default();
        for packet in &packets {
            coalescer.push(packet).unwrap();
        }
        coalescer.flush(|frame| sink.write(frame)).unwrap();
        let plain: Vec<_> = sink.frames.iter().map(|frame| frame[VNET_HEADER_LEN..].to_vec()).collect();
        prop_assert_eq!(plain, packets);
    }

    #[test]
    fn damage_anywhere_neither_panics_nor_changes_what_leaves(
        steps in proptest::collection::vec((0usize..3, any_step()), 1..40),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..70, any::<u8>()), 1..10),
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..120), 0..3),
    ) {
        let mut flows: Vec<Spec> = (0..3).map(|i| Spec { tcp: i != 1, v6: i == 2, port: 5000 + i, ..Spec::tcp() }).collect();
        let mut packets = run(&mut flows, &steps, 50);
        for (which, at, value) in damage {
            if let Some(byte) = which.get_mut(&mut packets).get_mut(at) { *byte = value; }
        }
        for (which, len) in cuts {
            which.get_mut(&mut packets).truncate(len);
        }
        let sink = coalesce(CoalesceConfig::default(), &packets);
        // Damage may move a packet to another flow, so only the set of packets is sure.
        let sorted = |packets: &[Vec<u8>]| {
            let mut packets: Vec<_> = packets.iter().map(|packet| without_atomic_id(packet)).collect();
            packets.sort();
            packets
        };
        prop_assert_eq!(sorted(&sink.split()), sorted(&packets));
    }

    #[test]
    fn a_kernel_that_blocks_fails_or_refuses_loses_and_repeats_nothing(
        steps in proptest::collection::vec((0usize..3, any_step()), 1..80),
        answers in proptest::collection::vec(0u8..10, 1..300),
        refuses_tcp in any::<bool>(), refuses_udp in any::<bool>(),
    ) {
        let mut flows: Vec<Spec> = (0..3).map(|i| Spec { tcp: i != 1, v6: i == 2, port: 5000 + i, ..Spec::tcp() }).collect();
        let packets = run(&mut flows, &steps, 50);
        let mut coalescer = Coalescer::new(CoalesceConfig { max_frames: 8, ..CoalesceConfig::default() });
        let mut sink = Sink::default();
        let mut answers = answers.iter().cycle();
        let mut write = |frame: &[u8]| {
            let gso_type = VnetHeader::parse(frame).unwrap().gso_type;
            let refused = match gso_type {
                GsoType::None => false,
                GsoType::UdpL4 => refuses_udp,
                _ => refuses_tcp,
            };
            match answers.next() {
                Some(0..4) => Err(io::ErrorKind::WouldBlock.into()),
                _ if refused => Err(io::ErrorKind::InvalidInput.into()),
                _ => sink.write(frame),
            }
        };
        for packet in &packets {
            let mut tries = 0;
            while coalescer.push(packet).is_err() {
                let _ = coalescer.flush(&mut write);
                tries += 1;
                prop_assume!(tries < 1000); // all answers may be WouldBlock
            }
        }
        for _ in 0..2000 {
            if coalescer.flush(&mut write).is_ok() { break; }
        }
        prop_assume!(coalescer.is_empty());
        prop_assert_eq!(by_flow(&sink.split()), by_flow(&packets));
        if coalescer.counters().replayed > 0 {
            let config = coalescer.config();
            prop_assert!((refuses_tcp && !config.tso) || (refuses_udp && !config.uso));
        }
    }
}

#[test]
fn a_run_of_full_segments_becomes_one_frame_up_to_64_kib() {
    for v6 in [false, true] {
        let mut run = vec![Spec { v6, ..Spec::tcp() }.payload(0, 1380)];
        for _ in 0..59 {
            run.push(run.last().unwrap().next(1380));
        }
        let sink = one_flush(&run);
        let room = (65_535 - run[0].header_len()) / 1380;
        assert_eq!(shape(&run), [room, 60 - room]);
        let header = VnetHeader::parse(&sink.frames[0]).unwrap();
        assert_eq!(header.gso_size, 1380);
        assert_eq!(usize::from(header.hdr_len), run[0].header_len());
        assert_eq!(header.gso_type, if v6 { GsoType::TcpV6 } else { GsoType::TcpV4 });
    }
}

#[test]
fn equal_datagrams_become_one_frame_of_at_most_64() {
    let mut run = vec![Spec::udp().payload(0, 100)];
    for _ in 0..69 {
        run.push(run.last().unwrap().next(100));
    }
    assert_eq!(shape(&run), [64, 6]);
}

#[test]
fn nothing_follows_a_push_or_a_short_segment() {
    let a = Spec { flags: ACK | PSH, ..Spec::tcp() }.payload(0, 500);
    let b = Spec { flags: ACK, ..a.next(500) };
    let short = b.next(100);
    let after = short.next(500);
    assert_eq!(shape(&[a, b, short, after]), [1, 2, 1]);
}

#[test]
fn a_longer_datagram_starts_a_new_run() {
    let a = Spec::udp().payload(0, 100);
    let b = a.next(200);
    let c = b.next(200);
    assert_eq!(shape(&[a, b, c]), [1, 2]);
}

#[test]
fn interleaved_flows_grow_side_by_side() {
    let mut flows: Vec<Spec> =
        (0..8).map(|i| Spec { port: 1000 + i, ..Spec::tcp() }.payload(i.into(), 300)).collect();
    let mut packets = Vec::new();
    for _ in 0..10 {
        for flow in &mut flows {
            packets.push(flow.clone());
            *flow = flow.next(300);
        }
    }
    assert_eq!(shape(&packets), [10; 8]);
}

#[test]
fn a_pure_ack_keeps_its_place_in_its_flow() {
    let a = Spec::tcp().payload(0, 300);
    let b = a.next(300);
    let ack = Spec { ack: 999, ..b.next(0) };
    let c = Spec { ack: 77, id: ack.id.wrapping_add(1), ..ack.next(300) };
    assert_eq!(shape(&[a, b, ack, c]), [2, 1, 1]);
}

#[test]
fn differing_headers_are_not_merged() {
    let a = Spec::tcp().payload(0, 300);
    let next = a.next(300);
    let differing = [
        Spec { ack: 78, ..next.clone() },
        Spec { window: 1, ..next.clone() },
        Spec { tos: 2, ..next.clone() },
        Spec { ttl: 3, ..next.clone() },
        Spec { flags: ACK | FIN, ..next.clone() },
        Spec { flags: ACK | ECE, ..next.clone() },
        Spec { flags: ACK | AE, ..next.clone() },
        Spec { flags_and_offset: 0, ..next.clone() },
        Spec { tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 2], ..next.clone() },
        Spec { tcp_options: Vec::new(), ..next.clone() },
        Spec { sequence: next.sequence.wrapping_add(1), ..next.clone() },
    ];
    for b in differing {
        assert_eq!(shape(&[a.clone(), b.clone()]), [1, 1], "{b:?}");
    }
    assert_eq!(shape(&[a, next]), [2]);
}

#[test]
fn segments_with_the_same_ecn_feedback_are_merged_unless_it_says_cwr() {
    for feedback in [0, ECE, AE, AE | ECE] {
        let a = Spec { flags: ACK | feedback, ..Spec::tcp() }.payload(0, 300);
        let run = [a.clone(), a.next(300), Spec { flags: ACK | PSH | feedback, ..a.next(300).next(300) }];
        assert_eq!(shape(&run), [3], "{feedback:#x}");
        assert_eq!(one_flush(&run).split(), run.each_ref().map(Spec::build));

        // Splitting would leave it to the first one.
        let with_cwr = run.map(|spec| Spec { flags: spec.flags | CWR, ..spec });
        assert_eq!(shape(&with_cwr), [1, 1, 1], "{feedback:#x} and CWR");
    }
}

#[test]
fn news_in_ecn_feedback_starts_a_new_run() {
    let a = Spec { flags: ACK | AE | ECE, ..Spec::tcp() }.payload(0, 300);
    let b = a.next(300);
    let c = Spec { flags: ACK | AE | CWR, ..b.next(300) };
    let d = Spec { flags: ACK, ..c.next(300) };
    let e = d.next(300);
    assert_eq!(shape(&[a, b, c, d, e]), [2, 1, 2]);
}

#[test]
fn identifications_must_run_on_unless_nobody_reads_them() {
    let with_df = Spec { id: 7, ..Spec::udp() }.payload(0, 300);
    let without = Spec { flags_and_offset: 0, ..with_df.clone() };
    let repeat = |first: &Spec| {
        vec![first.clone(), Spec { id: 7, ..first.next(300) }, Spec { id: 7, ..first.next(300) }]
    };
    let run_on = |first: &Spec| vec![first.clone(), first.next(300), first.next(300).next(300)];
    assert_eq!(shape(&repeat(&with_df)), [3]);
    assert_eq!(shape(&run_on(&with_df)), [3]);
    assert_eq!(shape(&repeat(&without)), [1, 1, 1]);
    assert_eq!(shape(&run_on(&without)), [3]);
}

#[test]
fn a_corrupted_packet_stays_corrupted_and_alone() {
    let run = [Spec::tcp().payload(0, 300)];
    let mut packets: Vec<_> = (0..5)
        .scan(run[0].clone(), |spec, _| {
            let packet = spec.build();
            *spec = spec.next(300);
            Some(packet)
        })
        .collect();
    packets[0][100] ^= 1;
    packets[3][200] ^= 1;
    let sink = coalesce(CoalesceConfig::default(), &packets);
    assert_eq!(sink.split(), packets);
    assert_eq!(sink.frames.len(), 4);
}

/// A checksum of zero has a second form, all ones, which verifies just as well but which no splitting would
/// write (RFC 1071 §2; UDP has only this one).
#[test]
fn a_checksum_in_its_unusual_form_is_kept() {
    let base = Spec { id: 0, ack: 0, flags_and_offset: 0, ..Spec::tcp() }.payload(0, 300);
    let checksum_at =
        |spec: &Spec, at: usize| u16::from_be_bytes(spec.build()[at..at + 2].try_into().unwrap());
    // Adding the checksum to the summed words makes it zero.
    let zero_header = Spec { id: checksum_at(&base, 10), ..base.clone() };
    let zero_tcp = Spec { ack: checksum_at(&base, 36).into(), ..base.clone() };
    for (spec, at) in [(zero_header, 10), (zero_tcp, 36)] {
        assert_eq!(checksum_at(&spec, at), 0);
        let mut packets = vec![spec.build(), spec.next(300).build()];
        assert_eq!(coalesce(CoalesceConfig::default(), &packets).frames.len(), 1);
        packets[0][at..at + 2].fill(0xff);
        assert_valid(&packets[0]);
        assert_eq!(coalesce(CoalesceConfig::default(), &packets).split(), packets);
    }
}

#[test]
fn datagrams_without_a_checksum_travel_alone() {
    let a = Spec::udp().payload(0, 100);
    let packets: Vec<_> = [a.clone(), a.next(100)]
        .iter()
        .map(|spec| {
            let mut packet = spec.build();
            packet[26..28].fill(0);
            packet
        })
        .collect();
    let sink = coalesce(CoalesceConfig::default(), &packets);
    assert_eq!(sink.frames.len(), 2);
    assert_eq!(sink.split(), packets);
}

#[test]
fn a_fragment_stays_behind_what_its_hosts_sent_before() {
    let a = Spec::udp().payload(0, 100);
    let fragment = Spec { flags_and_offset: 0x2000, ..a.next(100) };
    let c = Spec { flags_and_offset: 0x4000, ..a.next(100) };
    assert_eq!(shape(&[a, fragment, c]), [1, 1, 1]);
}

#[test]
fn an_ipv6_fragment_stays_behind_what_its_hosts_sent_before() {
    let a = Spec { v6: true, ..Spec::udp() }.payload(0, 100);
    let mut fragment = a.next(100).build();
    fragment[6] = 44; // the UDP header's bytes now read as a fragment header
    let packets = [a.build(), fragment, a.next(100).build()];
    let sink = coalesce(CoalesceConfig::default(), &packets);
    assert_eq!(sink.split(), packets);
}

#[test]
fn pings_between_the_same_hosts_do_not_end_a_run() {
    for v6 in [false, true] {
        let a = Spec { v6, ..Spec::udp() }.payload(0, 100);
        let mut ping = a.build();
        ping[if v6 { 6 } else { 9 }] = if v6 { 58 } else { 1 }; // ICMPv6, ICMP
        let packets = [a.build(), ping, a.next(100).build()];
        let sink = coalesce(CoalesceConfig::default(), &packets);
        assert_eq!(sink.frames.len(), 2);
    }
}

#[test]
fn when_full_nothing_of_the_packet_is_taken() {
    let mut coalescer = Coalescer::new(CoalesceConfig { max_frames: 2, ..CoalesceConfig::default() });
    let packets: Vec<_> =
        (0..3).map(|port| Spec { port, ..Spec::tcp() }.payload(port.into(), 50).build()).collect();
    coalescer.push(&packets[0]).unwrap();
    coalescer.push(&packets[1]).unwrap();
    assert!(coalescer.is_full());
    assert_eq!(coalescer.push(&packets[2]), Err(Full));
    let mut sink = Sink::default();
    coalescer.flush(|frame| sink.write(frame)).unwrap();
    coalescer.push(&packets[2]).unwrap();
    coalescer.flush(|frame| sink.write(frame)).unwrap();
    assert_eq!(sink.split(), packets);
}

#[test]
fn a_refused_super_packet_is_replayed_and_its_offload_is_off_until_the_caller_tries_again() {
    let tcp = [Spec::tcp().payload(0, 300), Spec::tcp().payload(0, 300).next(300)];
    let udp = [Spec::udp().payload(0, 300), Spec::udp().payload(0, 300).next(300)];
    let packets: Vec<_> = tcp.iter().chain(&udp).map(Spec::build).collect();
    let mut coalescer = Coalescer::new(CoalesceConfig::default());
    let mut sink = Sink::default();
    let mut offered = Vec::new();
    let mut round = |coalescer: &mut Coalescer, refuses: bool| {
        for packet in &packets {
            coalescer.push(packet).unwrap();
        }
        let write = |frame: &[u8]| {
            let gso_type = VnetHeader::parse(frame).unwrap().gso_type;
            offered.push(gso_type);
            match gso_type {
                GsoType::TcpV4 if refuses => Err(io::ErrorKind::InvalidInput.into()),
                _ => sink.write(frame),
            }
        };
        coalescer.flush(write).unwrap();
    };
    round(&mut coalescer, true);
    round(&mut coalescer, true);
    assert!(!coalescer.config().tso);
    assert!(coalescer.config().uso);
    let refused = *coalescer.counters();
    assert_eq!((refused.replayed, refused.tcp.refused, refused.tcp.written), (1, 1, 0));
    assert_eq!((refused.udp.refused, refused.udp.written), (0, 2));

    coalescer.set_merging(true, true);
    round(&mut coalescer, false);
    assert_eq!(coalescer.counters().tcp.written, 1);
    assert_eq!(sink.split(), [packets.as_slice(), &packets, &packets].concat());
    let (plain, tcp, udp) = (GsoType::None, GsoType::TcpV4, GsoType::UdpL4);
    assert_eq!(offered, [tcp, plain, plain, udp, plain, plain, udp, tcp, udp]);
}

#[test]
fn a_failed_write_costs_only_its_own_frame() {
    let packets: Vec<_> = (0..4).map(|port| Spec { port, ..Spec::tcp() }.payload(1, 50).build()).collect();
    let mut coalescer = Coalescer::new(CoalesceConfig::default());
    packets.iter().for_each(|packet| coalescer.push(packet).unwrap());
    let mut sink = Sink::default();
    let mut call = 0;
    coalescer
        .flush(|frame| {
            call += 1;
            match call {
                1 => Err(io::ErrorKind::NetworkDown.into()),
                3 => Err(io::ErrorKind::InvalidInput.into()), // a plain packet: no offload is to blame
                _ => sink.write(frame),
            }
        })
        .unwrap();
    assert_eq!(sink.split(), [packets[1].clone(), packets[3].clone()]);
    let counters = coalescer.counters();
    assert_eq!((counters.dropped_down, counters.dropped_error), (1, 1));
    assert!(coalescer.config().tso);
}

#[test]
fn the_longest_packet_fits() {
    let packet = Spec::udp().payload(1, 65_535 - 28).build();
    assert_eq!(packet.len(), 65_535);
    let garbage = bytes(4, 65_535);
    let sink = coalesce(CoalesceConfig::default(), &[packet.clone(), garbage.clone()]);
    assert_eq!(sink.split(), [packet, garbage]);
}
