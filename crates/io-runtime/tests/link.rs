//! The interface is set down and up under a running data plane.

mod common;

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use common::{Pair, SETUPS, Side, config, listen, packet, run};
use io_runtime::{Arrangement, DeviceUpdate, Error, RuntimeConfig, UpdateError};
use tun_device::{MemoryTun, Offloads};

fn take(port: u16) -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free")
}

async fn port(side: &Side) -> u16 {
    side.status().await.listen_port
}

#[test]
fn down_the_port_is_free_and_up_what_waited_goes_by_the_same_port() {
    // Without helpers, for whose backend does not initiate again within five seconds.
    for setup in SETUPS.into_iter().filter(|setup| setup.helpers == 0) {
        run(async {
            let pair = Pair::start(config(setup), Offloads::ALL).await;
            pair.ping(1);
            let before = pair.a.status().await;
            pair.a.handle.set_link_up(false).await.unwrap();
            let down = pair.a.status().await;
            assert!(!down.link_up);
            assert_eq!(down.listen_port, before.listen_port, "it is remembered");
            let listener = take(before.listen_port);
            // Written between `ip link set up` and the news of it.
            let early = packet(pair.a.inner, pair.b.inner, 2, 100);
            pair.a.wire.send(&early);
            // Two questions, so that the loop has certainly been around.
            pair.a.status().await;
            let sent = pair.a.status().await.io.traffic.udp_datagrams_sent;
            assert_eq!(sent, before.io.traffic.udp_datagrams_sent);
            drop(listener);

            pair.a.handle.set_link_up(true).await.unwrap();
            assert_eq!(pair.b.wire.recv(), [early]);
            let up = pair.a.status().await;
            assert!(up.link_up && up.listen_port == before.listen_port);
            assert!(up.peers[0].last_handshake > before.peers[0].last_handshake, "the session had ended");
            pair.finish().await;
        });
    }
}

#[test]
fn a_peer_that_is_down_does_not_answer() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        pair.ping(1);
        pair.b.handle.set_link_up(false).await.unwrap();
        // Stands where b was, as a standby machine with the same address would.
        let standby = take(port(&pair.b).await);
        pair.a.handle.set_link_up(false).await.unwrap();
        pair.a.handle.set_link_up(true).await.unwrap();
        pair.a.wire.send(&packet(pair.a.inner, pair.b.inner, 2, 100));
        let mut datagram = [0; 2_000];
        assert_eq!(standby.recv(&mut datagram).unwrap(), 148, "an initiation");
        drop(standby);
        pair.b.handle.set_link_up(true).await.unwrap();
        // Its next initiation need not wait for the retry.
        pair.a.handle.set_link_up(false).await.unwrap();
        pair.a.handle.set_link_up(true).await.unwrap();
        pair.ping(3);
        pair.finish().await;
    });
}

#[test]
fn persistent_keepalives_begin_with_the_link() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        pair.a.handle.set_link_up(false).await.unwrap();
        let mut peer = tunnel_core::PeerUpdate::new(pair.b.key.public_key());
        peer.persistent_keepalive = Some(25);
        let tunnel = tunnel_core::TunnelUpdate { peers: vec![peer], ..Default::default() };
        pair.a.handle.update(DeviceUpdate { tunnel, ..DeviceUpdate::default() }).await.unwrap();
        assert_eq!(pair.a.status().await.io.traffic.udp_datagrams_sent, 0);
        pair.a.handle.set_link_up(true).await.unwrap();
        while pair.b.status().await.core.traffic.keepalives_received == 0 {
            tokio::task::yield_now().await;
        }
        pair.finish().await;
    });
}

#[test]
fn a_link_that_is_down_at_the_start_takes_no_port_and_answers_for_busy_ones() {
    for setup in SETUPS {
        run(async {
            let down = RuntimeConfig { link_up: false, ..config(setup) };
            let pair = Pair::start(down, Offloads::ALL).await;
            let chosen = port(&pair.a).await;
            assert_ne!(chosen, 0);
            let busy = take(chosen);
            let refused = pair.b.handle.update(listen(chosen)).await;
            assert!(matches!(refused, Err(UpdateError::AddrInUse(port)) if port == chosen));
            drop(busy);
            for side in [&pair.a, &pair.b] {
                side.handle.set_link_up(true).await.unwrap();
            }
            assert_eq!(port(&pair.a).await, chosen);
            pair.ping(1);
            pair.finish().await;
        });
    }
}

#[test]
fn a_port_that_nobody_asked_for_is_another_when_it_is_taken() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        pair.a.handle.set_link_up(false).await.unwrap();
        let taken = port(&pair.a).await;
        let _other = take(taken);
        pair.a.handle.set_link_up(true).await.unwrap();
        assert_ne!(port(&pair.a).await, taken);
        pair.ping(1);
        pair.finish().await;
    });
}

#[test]
fn a_port_that_was_asked_for_is_tried_until_it_is_free() {
    run(async {
        let pair = Pair::start(config(Arrangement::Inline), Offloads::ALL).await;
        let wanted = port(&pair.a).await;
        pair.a.handle.update(listen(wanted)).await.unwrap();
        pair.a.handle.set_link_up(false).await.unwrap();
        let other = take(wanted);
        pair.a.handle.set_link_up(true).await.unwrap();
        let early = packet(pair.a.inner, pair.b.inner, 1, 100);
        pair.a.wire.send(&early);
        assert_eq!(pair.a.status().await.io.traffic.udp_datagrams_sent, 0);
        drop(other);
        assert_eq!(pair.b.wire.recv(), [early], "it has waited");
        assert_eq!(port(&pair.a).await, wanted);
        pair.finish().await;
    });
}

#[test]
fn what_was_received_before_it_was_set_down_is_delivered_or_counted() {
    for setup in SETUPS {
        run(async {
            let one_by_one = RuntimeConfig { tun_coalesce: false, ..config(setup) };
            let pair = Pair::start(one_by_one, Offloads::ALL).await;
            pair.ping(0);
            // Nobody reads b's device, so that what arrives has to wait.
            for number in 1..2_000 {
                pair.a.wire.send(&packet(pair.a.inner, pair.b.inner, number, 100));
            }
            while pair.a.status().await.core.traffic.tx_packets < 2_000 {}
            pair.b.handle.set_link_up(false).await.unwrap();
            let opened = pair.b.status().await.core.traffic.rx_packets;
            pair.b.wire.recv_packets(opened as usize - 1);
            loop {
                let status = pair.b.status().await;
                let (core, drops) = (status.core.traffic, status.core.drops);
                assert_eq!(core.rx_packets, opened, "nothing is opened while it is down");
                let handshake = core.initiations_received + core.keepalives_received;
                if status.io.traffic.udp_datagrams_received == opened + handshake + drops.rx_link_down {
                    break;
                }
            }
            pair.finish().await;
        });
    }
}

#[test]
fn a_device_that_is_deleted_while_it_is_down_ends_the_data_plane() {
    for setup in SETUPS {
        run(async {
            let (device, host) = MemoryTun::pair("test", Offloads::ALL).unwrap();
            let handle = io_runtime::spawn(device, config(setup)).unwrap();
            handle.set_link_up(false).await.unwrap();
            // Frames that wait do not hide its end.
            host.send_packet(&[0x45; 20]).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(host);
            assert!(matches!(handle.finished().await, Err(Error::DeviceGone)));
        });
    }
}

#[test]
fn a_data_plane_that_is_down_sleeps_whatever_waits() {
    for setup in SETUPS {
        run(async {
            let pair = Pair::start(config(setup), Offloads::ALL).await;
            pair.ping(1);
            pair.a.handle.set_link_up(false).await.unwrap();
            pair.a.wire.send(&packet(pair.a.inner, pair.b.inner, 2, 100));
            let mut before = pair.a.status().await.io.traffic;
            let mut quiet = false;
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let now = pair.a.status().await.io.traffic;
                quiet = now.wakeups - before.wakeups <= 1 && now.ticks - before.ticks <= 2;
                if quiet {
                    break;
                }
                before = now;
            }
            assert!(quiet, "it keeps turning");
            pair.finish().await;
        });
    }
}
