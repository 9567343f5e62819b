//! Super-packets through the whole data plane, and TUN devices that refuse or delay them.

mod common;

use common::{Pair, SETUPS, config, run, split, tcp_frame};
use io_runtime::{Feature, RuntimeConfig};
use tun_device::{Fault, Faulty, Offloads};

const SEGMENTS: usize = 20;
const MSS: u16 = 1_380;
/// Frames a test sends: one after the other in TCP's sequence space.
const FRAMES: u32 = 50;

fn configs() -> [RuntimeConfig; SETUPS.len()] {
    SETUPS.map(config)
}

/// Sends frames from a to b, each once the one before has arrived whole: every packet must be the one the
/// frame stands for, in order.
fn exchange(pair: &Pair) {
    for number in 0..FRAMES {
        let sequence = number * (SEGMENTS as u32) * u32::from(MSS);
        let mut frame = tcp_frame(pair.a.inner, pair.b.inner, sequence, SEGMENTS, MSS);
        pair.a.wire.send_frame(&frame);
        assert!(pair.b.wire.recv_packets(SEGMENTS) == split(&mut frame), "frame {number}");
    }
}

#[test]
fn a_super_packet_leaves_as_a_train_and_arrives_as_a_super_packet() {
    for config in configs() {
        run(async {
            let pair = Pair::start(config, Offloads::ALL).await;
            exchange(&pair);
            let (a, b) = (pair.a.status().await, pair.b.settled().await);
            assert_eq!(a.io.traffic.tun_packets_read, u64::from(FRAMES) * SEGMENTS as u64);
            assert_eq!(a.features.udp_gso, Feature::On);
            // One train a frame; the handshake and what waited for it left one by one.
            assert!(a.io.send_batches.mean() > 10.0, "{:?}", a.io.send_batches);
            assert!(b.io.recv_batches.mean() > 10.0, "{:?}", b.io.recv_batches);
            assert!(b.io.traffic.tun_super_frames_written >= u64::from(FRAMES) - 1);
            assert!(b.io.traffic.tun_writes <= 2 * u64::from(FRAMES) + SEGMENTS as u64);
            pair.finish().await;
        });
    }
}

#[test]
fn without_tun_offload_every_packet_is_written_alone() {
    for config in configs() {
        run(async {
            let pair = Pair::start(RuntimeConfig { tun_coalesce: false, ..config }, Offloads::ALL).await;
            exchange(&pair);
            let b = pair.b.settled().await;
            assert_eq!(b.features.tun_coalesce_tcp, Feature::Disabled);
            assert_eq!(b.features.tun_coalesce_udp, Feature::Disabled);
            assert_eq!(b.io.traffic.tun_writes, u64::from(FRAMES) * SEGMENTS as u64);
            pair.finish().await;
        });
    }
}

#[test]
fn super_packets_that_the_kernel_refuses_are_replayed_and_the_status_tells() {
    for config in configs() {
        run(async {
            let pair = Pair::start_with_device(config, Offloads::ALL, Faulty::refusing_super_packets).await;
            exchange(&pair);
            let b = pair.b.settled().await;
            assert!(b.io.traffic.tun_frames_replayed >= 1);
            assert_eq!(b.io.traffic.tun_super_frames_written, 0);
            assert_eq!(b.io.drops.total(), 0);
            assert_eq!(b.features.tun_coalesce_tcp, Feature::Resting);
            assert_eq!(b.features.tun_coalesce_udp, Feature::On, "nobody refused a UDP super-packet");
            pair.finish().await;
        });
    }
}

#[test]
fn a_device_that_blocks_now_and_then_loses_nothing() {
    for config in configs() {
        run(async {
            let pair = Pair::start_with_device(config, Offloads::ALL, |device| {
                Faulty::seeded_sends(device, 7, 4, &[Fault::WouldBlock])
            })
            .await;
            exchange(&pair);
            assert_eq!(pair.b.status().await.io.drops.total(), 0);
            pair.finish().await;
        });
    }
}
