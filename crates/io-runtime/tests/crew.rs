//! Trains whose batches helpers encrypt and decrypt: in order, each once, whoever is faster.

mod common;

use std::{sync::mpsc, thread};

use common::{Pair, SETUPS, Side, config, run, split, tcp_frame};
use tun_device::Offloads;

/// A frame of the longest kind.
const SEGMENTS: usize = 46;
const MSS: u16 = 1_380;
const FRAMES: u32 = 60;

/// Sends frames while they arrive, so many ahead of what has arrived.
fn stream(from: &Side, to: &Side) {
    const WINDOW: usize = 12;
    let frame = |from: std::net::Ipv4Addr, to, number: u32| {
        tcp_frame(from, to, number * SEGMENTS as u32 * u32::from(MSS), SEGMENTS, MSS)
    };
    let (source, target, wire) = (from.inner, to.inner, from.wire.clone());
    let (credit, credits) = mpsc::sync_channel(WINDOW);
    let sender = thread::spawn(move || {
        for number in 0..FRAMES {
            credit.send(()).unwrap();
            wire.send_frame(&frame(source, target, number));
        }
    });
    let mut arrived = Vec::new();
    for number in 0..FRAMES {
        while arrived.len() < SEGMENTS {
            arrived.extend(to.wire.recv());
        }
        // Behind the IP header, whose identification goes on where two frames were merged.
        let expected = split(&mut frame(source, target, number));
        let is_expected = arrived.drain(..SEGMENTS).zip(expected).all(|(got, sent)| got[20..] == sent[20..]);
        assert!(is_expected, "frame {number} arrives as it left, and in order");
        credits.recv().unwrap();
    }
    sender.join().unwrap();
}

#[test]
fn trains_cross_in_order_whoever_encrypts_them() {
    for setup in SETUPS {
        run(async {
            let pair = Pair::start(config(setup), Offloads::ALL).await;
            pair.ping(0); // more would wait for the session than may
            stream(&pair.a, &pair.b);
            stream(&pair.b, &pair.a);
            for side in [&pair.a, &pair.b] {
                let status = side.settled().await;
                assert_eq!(status.io.drops.total(), 0, "{setup:?}: {:?}", status.io);
                assert_eq!(status.core.drops, tunnel_core::Drops::default(), "{setup:?}");
                let helped = status.io.traffic.jobs_helped;
                assert_eq!(helped > 0, setup.helpers > 0, "{setup:?}: {helped}");
            }
            pair.finish().await;
        });
    }
}
