//! Packets from TUN to TUN, through two data planes and real UDP sockets, with every switch on and off.

mod common;

use std::{net::Ipv6Addr, thread};

use common::{Pair, SETUPS, Side, config, packet, run};
use io_runtime::{Arrangement, Backend, Crew, RuntimeConfig};
use tun_device::Offloads;

const PACKETS: u32 = 3_000;

fn configs() -> Vec<RuntimeConfig> {
    let mut configs = Vec::new();
    for setup in SETUPS {
        let base = config(setup);
        configs.push(base.clone());
        let plain = RuntimeConfig { udp_gso: false, udp_gro: false, tun_coalesce: false, ..base.clone() };
        configs.push(RuntimeConfig { batch: 1, ..plain });
        if setup.helpers == 0 {
            configs.push(RuntimeConfig { backend: Backend::Native, ..base.clone() });
            configs.push(RuntimeConfig { udp_gso: false, ..base.clone() });
            configs.push(RuntimeConfig { udp_gro: false, ..base.clone() });
            configs.push(RuntimeConfig { tun_coalesce: false, ..base });
        }
    }
    configs
}

/// Sends numbered packets from one side to the other while they arrive, at most `window` ahead of what
/// has arrived, so that no socket buffer has to drop any.
fn exchange(from: &Side, to: &Side, count: u32) {
    const WINDOW: u32 = 64;
    let (sent, received) = (from.wire.clone(), to.wire.clone());
    let (source, target) = (from.inner, to.inner);
    let (credit, credits) = std::sync::mpsc::sync_channel(WINDOW as usize);
    let sender = thread::spawn(move || {
        for number in 0..count {
            credit.send(()).unwrap();
            sent.send(&packet(source, target, number, 40 + (number as usize * 37) % 1_380));
        }
    });
    let mut next = 0;
    while next < count {
        for got in received.recv() {
            let expected = packet(source, target, next, 40 + (next as usize * 37) % 1_380);
            assert!(got == expected, "packet {next} arrives as it left, and in order");
            next += 1;
            credits.recv().unwrap();
        }
    }
    sender.join().unwrap();
}

#[test]
fn packets_cross_in_order_and_unchanged_with_every_switch_on_and_off() {
    for config in configs() {
        run(async {
            let pair = Pair::start(config.clone(), Offloads::ALL).await;
            exchange(&pair.a, &pair.b, PACKETS);
            exchange(&pair.b, &pair.a, PACKETS);
            let status = pair.b.status().await;
            assert_eq!(status.io.drops.total(), 0, "{config:?}: {:?}", status.io);
            assert_eq!(status.features.arrangement, config.arrangement);
            let helpers = if config.backend == Backend::Native { config.crew } else { Crew::Helpers(0) };
            assert_eq!(Crew::Helpers(status.features.crew), helpers);
            pair.finish().await;
        });
    }
}

#[test]
fn one_at_a_time_means_one_packet_a_call_all_the_way() {
    for arrangement in [Arrangement::Inline, Arrangement::TunThreads] {
        run(async {
            let plain =
                RuntimeConfig { udp_gso: false, udp_gro: false, tun_coalesce: false, ..config(arrangement) };
            let pair = Pair::start(RuntimeConfig { batch: 1, ..plain }, Offloads::NONE).await;
            exchange(&pair.a, &pair.b, PACKETS);
            let (a, b) = (pair.a.status().await.io, pair.b.settled().await.io);
            assert_eq!(a.send_batches.sum(), a.send_batches.count());
            assert_eq!(b.recv_batches.sum(), b.recv_batches.count());
            assert!(a.traffic.udp_send_calls >= u64::from(PACKETS));
            assert!(b.traffic.udp_recv_calls >= u64::from(PACKETS));
            assert!(a.traffic.tun_reads >= u64::from(PACKETS) && a.traffic.ticks >= u64::from(PACKETS));
            assert_eq!(b.traffic.tun_writes, u64::from(PACKETS));
            pair.finish().await;
        });
    }
}

#[test]
fn a_lone_packet_costs_no_call_that_finds_nothing() {
    const LONE: u32 = 200;
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        exchange(&pair.a, &pair.b, 1);
        let (a, b) = (pair.a.settled().await.io, pair.b.settled().await.io);
        for number in 1..=LONE {
            pair.a.wire.send(&packet(pair.a.inner, pair.b.inner, number, 100));
            assert_eq!(pair.b.wire.recv().len(), 1);
        }
        let (a_after, b_after) = (pair.a.settled().await.io, pair.b.settled().await.io);
        let (lone, slack) = (u64::from(LONE), 20);
        // One read for the packet, one that finds the TUN empty: its readiness is edge-triggered.
        assert!(a_after.traffic.tun_reads - a.traffic.tun_reads <= 2 * lone + slack);
        assert!(a_after.traffic.udp_recv_calls - a.traffic.udp_recv_calls <= slack);
        assert!(b_after.traffic.udp_recv_calls - b.traffic.udp_recv_calls <= lone + slack);
        assert!(b_after.traffic.tun_reads - b.traffic.tun_reads <= slack);
        pair.finish().await;
    });
}

#[test]
fn packets_cross_over_ipv6() {
    run(async {
        let pair =
            Pair::start_over(RuntimeConfig::default(), Offloads::ALL, Ipv6Addr::LOCALHOST.into()).await;
        exchange(&pair.a, &pair.b, PACKETS);
        exchange(&pair.b, &pair.a, PACKETS);
        pair.finish().await;
    });
}
