//! Garbage from the network and from the TUN is dropped, counted and survived.

mod common;

use std::net::{Ipv4Addr, UdpSocket};

use common::{Pair, SETUPS, config, run};
use io_runtime::RuntimeConfig;
use tun_device::Offloads;

const ROUNDS: usize = 400;

/// Bytes that differ from call to call and are the same in every run (xorshift64).
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, max_len: usize) -> Vec<u8> {
        let len = self.next() as usize % (max_len + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }
}

fn configs() -> Vec<RuntimeConfig> {
    let mut configs = Vec::new();
    for setup in SETUPS {
        for udp_gro in [true, false] {
            configs.push(RuntimeConfig { udp_gro, ..config(setup) });
        }
    }
    configs
}

#[test]
fn garbage_datagrams_are_dropped_and_counted() {
    for config in configs() {
        run(async {
            let pair = Pair::start(config, Offloads::ALL).await;
            pair.ping(0);
            let port = pair.b.status().await.listen_port;
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut garbage = Garbage(0x5eed);
            for round in 0..ROUNDS {
                // Empty, of a handshake's or a data message's type, or anything; sometimes huge.
                let mut datagram = garbage.bytes(if round % 50 == 0 { 60_000 } else { 200 });
                if datagram.len() >= 4 && round % 2 == 0 {
                    datagram[..4].copy_from_slice(&[1 + garbage.next() as u8 % 4, 0, 0, 0]);
                }
                socket.send_to(&datagram, (Ipv4Addr::LOCALHOST, port)).unwrap();
                if round % 20 == 0 {
                    pair.ping(round as u32); // and gives the socket's buffer time
                }
            }
            pair.ping(1);
            let status = pair.b.status().await;
            let dropped: u64 = status.core.drops().map(|(_, count)| count).sum();
            assert_eq!(dropped, ROUNDS as u64, "{:?}", status.core.drops);
            assert_eq!(status.core.traffic.rx_packets, 2 + (ROUNDS as u64).div_ceil(20));
            pair.finish().await;
        });
    }
}

#[test]
fn garbage_frames_are_dropped_and_counted() {
    for config in configs() {
        run(async {
            let pair = Pair::start(config, Offloads::ALL).await;
            pair.ping(0);
            let mut garbage = Garbage(0xf00d);
            for round in 0..ROUNDS {
                let mut frame = garbage.bytes(300);
                frame.push(0); // an empty frame would be the end of the device
                if round % 2 == 0 && frame.len() > 10 {
                    frame[..10].fill(0); // a plain header, and garbage behind it
                }
                pair.a.wire.send_frame(&frame);
            }
            pair.ping(1);
            let status = pair.a.status().await;
            let lost =
                status.io.drops.tun_malformed + status.core.drops().map(|(_, count)| count).sum::<u64>();
            assert!(lost >= ROUNDS as u64, "{:?} {:?}", status.io.drops, status.core.drops);
            pair.finish().await;
        });
    }
}
