//! A kernel that refuses super-packets, in simulated time.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tun_device::{
    Call, Fault, Faulty, GsoType, MAX_FRAME_LEN, MemoryHost, MemoryTun, Offloads, Segments, VnetHeader,
};

use super::*;
use crate::{
    RuntimeConfig,
    alarm::Alarm,
    clock,
    rest::{FIRST_PAUSE, LONGEST_PAUSE},
};

const SEGMENTS: usize = 5;
const SEGMENT: usize = 100;
/// A round's packets: a run of each protocol.
const ROUND: usize = 2 * SEGMENTS;

/// A device whose kernel refuses UDP super-packets while it is told to, and what it was offered.
struct Kernel {
    host: MemoryHost,
    refuses: Arc<AtomicBool>,
    offered: Arc<Mutex<Vec<GsoType>>>,
}

fn device() -> (Arc<Faulty<MemoryTun>>, Kernel) {
    let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
    let kernel = Kernel { host, refuses: Arc::default(), offered: Arc::default() };
    let (refuses, offered) = (Arc::clone(&kernel.refuses), Arc::clone(&kernel.offered));
    let device = Faulty::new(device, move |call| {
        let Call::Send(frame) = call else { return None };
        let gso_type = VnetHeader::parse(frame).unwrap().gso_type;
        offered.lock().unwrap().push(gso_type);
        let is_refused = gso_type == GsoType::UdpL4 && refuses.load(Relaxed);
        is_refused.then_some(Fault::Refused)
    });
    (Arc::new(device), kernel)
}

impl Kernel {
    /// Hands a round's packets to the port and flushes it. Gives what the device was offered, once every
    /// packet has come out as it went in.
    fn round(&self, port: &mut impl TunPort, now: Instant, counters: &mut IoCounters) -> Vec<GsoType> {
        let packets = [run(GsoType::TcpV4), run(GsoType::UdpL4)].concat();
        assert_eq!(packets.len(), ROUND);
        for packet in &packets {
            let coalescer = port.output(now, counters).unwrap().expect("there is room");
            coalescer.push(packet).unwrap();
        }
        port.flush(now, counters).unwrap();
        let mut arrived = Vec::new();
        let mut frame = vec![0; MAX_FRAME_LEN];
        while arrived.len() < ROUND {
            match self.host.recv(&mut frame) {
                Ok(len) => arrived.extend(split(&mut frame[..len])),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    std::thread::yield_now();
                }
            }
        }
        assert!(arrived == packets, "lost, repeated or changed");
        std::mem::take(&mut *self.offered.lock().unwrap())
    }
}

fn split(frame: &mut [u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(frame).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// Packets that are merged into one super-packet of this kind.
fn run(gso_type: GsoType) -> Vec<Vec<u8>> {
    let (protocol, transport_len, csum_offset) = match gso_type {
        GsoType::TcpV4 => (6, 20, 16),
        _ => (17, 8, 6),
    };
    let header = VnetHeader {
        needs_checksum: true,
        gso_type,
        gso_size: SEGMENT as u16,
        csum_start: 20,
        csum_offset,
        ..VnetHeader::PLAIN
    };
    let mut frame = vec![0; VNET_HEADER_LEN + 20 + transport_len + SEGMENTS * SEGMENT];
    header.write_to(frame.first_chunk_mut().unwrap());
    let packet = &mut frame[VNET_HEADER_LEN..];
    let len = packet.len() as u16;
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[6] = 0x40; // don't fragment
    packet[9] = protocol;
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[20..24].copy_from_slice(&[0, 9, 0, 9]);
    if protocol == 6 {
        packet[32..34].copy_from_slice(&[5 << 4, 0x10]); // no options, ACK
    }
    split(&mut frame)
}

const MERGED: [GsoType; 2] = [GsoType::TcpV4, GsoType::UdpL4];

/// TCP as one, UDP one by one; after a refusal, or without trying.
fn udp_alone(refused: bool) -> Vec<GsoType> {
    let mut offered = vec![GsoType::TcpV4];
    offered.extend(refused.then_some(GsoType::UdpL4));
    offered.extend([GsoType::None; SEGMENTS]);
    offered
}

#[test]
fn a_refused_protocol_rests_alone_and_is_merged_again_after_the_pause() {
    let (device, kernel) = device();
    let mut port = Inline::new(device, CoalesceConfig::default());
    let (start, mut counters) = (clock::now(), IoCounters::default());
    assert_eq!(kernel.round(&mut port, start, &mut counters), MERGED);

    kernel.refuses.store(true, Relaxed);
    assert_eq!(kernel.round(&mut port, start, &mut counters), udp_alone(true));
    assert_eq!(port.resting(), (false, true));
    kernel.refuses.store(false, Relaxed);
    let almost = start + FIRST_PAUSE - Duration::from_millis(1);
    assert_eq!(kernel.round(&mut port, almost, &mut counters), udp_alone(false));
    assert_eq!(port.resting(), (false, true));
    for after in [FIRST_PAUSE, 2 * FIRST_PAUSE] {
        assert_eq!(kernel.round(&mut port, start + after, &mut counters), MERGED);
        assert_eq!(port.resting(), (false, false));
    }
    assert_eq!(counters.drops.total(), 0);
    assert_eq!(counters.traffic.tun_frames_replayed, 1);
}

#[test]
fn a_kernel_that_goes_on_refusing_is_asked_ever_less() {
    let (device, kernel) = device();
    let mut port = Inline::new(device, CoalesceConfig::default());
    let (mut now, mut counters) = (clock::now(), IoCounters::default());
    kernel.refuses.store(true, Relaxed);
    let mut pause = FIRST_PAUSE;
    for _ in 0..12 {
        assert_eq!(kernel.round(&mut port, now, &mut counters), udp_alone(true));
        now += pause - Duration::from_millis(1);
        assert_eq!(kernel.round(&mut port, now, &mut counters), udp_alone(false));
        now += Duration::from_millis(1);
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    assert_eq!(counters.traffic.tun_frames_replayed, 12);
    assert_eq!(counters.drops.total(), 0);
}

#[test]
fn a_thread_that_writes_tells_of_refusals_and_all_its_buffers_rest() {
    let (device, kernel) = device();
    let alarm = Arc::new(Alarm::new().unwrap());
    let config = RuntimeConfig::default();
    let mut port = Threads::start(device, CoalesceConfig::default(), &config, &alarm).unwrap();
    let (start, mut counters) = (clock::now(), IoCounters::default());
    // The loop's counters are up to date once every buffer has come back.
    let settle = |port: &mut Threads, packets: usize, now, counters: &mut IoCounters| {
        while counters.traffic.tun_packets_written < packets as u64 {
            std::thread::yield_now();
            port.settle(now, counters);
        }
    };
    kernel.refuses.store(true, Relaxed);
    assert_eq!(kernel.round(&mut port, start, &mut counters), udp_alone(true));
    settle(&mut port, ROUND, start, &mut counters);
    assert_eq!(port.resting(), (false, true));
    for round in 2..6 {
        assert_eq!(kernel.round(&mut port, start, &mut counters), udp_alone(false), "every buffer knows");
        settle(&mut port, round * ROUND, start, &mut counters);
    }
    kernel.refuses.store(false, Relaxed);
    for round in 6..10 {
        assert_eq!(kernel.round(&mut port, start + FIRST_PAUSE, &mut counters), MERGED);
        settle(&mut port, round * ROUND, start + FIRST_PAUSE, &mut counters);
    }
    assert_eq!(port.resting(), (false, false));
    assert_eq!(counters.drops.total(), 0);
    port.close().unwrap();
}

#[test]
fn a_refusal_is_said_once_until_all_has_long_been_well() {
    let counts = |refused, written| {
        let mut counters = CoalesceCounters::default();
        (counters.udp.refused, counters.udp.written) = (refused, written);
        counters
    };
    let (nothing, refused, written) = (counts(0, 0), counts(1, 0), counts(0, 1));
    let mut merging = Merging::new(&CoalesceConfig::default());
    let mut now = clock::now();
    assert_eq!(merging.learn(&nothing, &refused, now), [false, true]);
    // Now and then it goes well, and then it does not.
    for _ in 0..5 {
        assert_eq!(merging.learn(&nothing, &refused, now), [false, false], "merged before the rest");
        now += LONGEST_PAUSE;
        merging.try_again(now);
        assert_eq!(merging.learn(&nothing, &written, now), [false, false]);
        assert_eq!(merging.learn(&nothing, &refused, now), [false, false]);
    }
    now += LONGEST_PAUSE;
    merging.try_again(now);
    assert_eq!(merging.learn(&nothing, &written, now), [false, false]);
    now += 2 * LONGEST_PAUSE;
    assert_eq!(merging.learn(&nothing, &refused, now), [false, true]);
}
