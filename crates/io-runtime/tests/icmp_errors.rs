//! Packets that cannot go are answered into the TUN.

mod common;

use std::net::Ipv4Addr;

use common::{Pair, packet, run, tcp_frame};
use io_runtime::{Arrangement, RuntimeConfig};
use tun_device::Offloads;

/// No peer's.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 7, 7, 7);
const HOST_UNREACHABLE: [u8; 2] = [3, 1];

#[test]
fn a_super_packet_that_cannot_go_gets_one_answer_and_what_follows_goes() {
    for arrangement in [Arrangement::Inline, Arrangement::TunThreads] {
        run(async {
            let config = RuntimeConfig { arrangement, ..RuntimeConfig::default() };
            let pair = Pair::start(config, Offloads::ALL).await;
            let source = pair.a.inner;
            for round in 1..=3 {
                pair.a.wire.send_frame(&tcp_frame(source, NOWHERE, round, 45, 1_380));
                let answer = pair.a.wire.recv_packets(1).remove(0);
                assert_eq!(answer.len(), 576);
                assert_eq!((&answer[12..16], &answer[16..20]), (&NOWHERE.octets()[..], &source.octets()[..]));
                assert_eq!(answer[20..22], HOST_UNREACHABLE);
                assert_eq!(answer[28 + 24..28 + 28], round.to_be_bytes(), "the first segment");
            }
            let next = packet(source, pair.b.inner, 7, 500);
            pair.a.wire.send(&next);
            assert_eq!(pair.b.wire.recv_packets(1), [next]);
            let status = pair.a.status().await;
            assert_eq!(status.core.drops.tx_no_route, 3 * 45);
            assert_eq!(status.core.traffic.icmp_unreachable_sent, 3);
            assert_eq!(status.io.drops.total(), 0);
            pair.finish().await;
        });
    }
}
