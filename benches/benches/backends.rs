//! A full train through a tunnel, with either backend, against bare ring: the three take turns round by round, so that what else
//! the machine does hits all alike. Prints the medians of all rounds, and of the quickest tenth.
//!
//! Criterion measures one after the other, which on a busy machine says nothing about a few per cent.

use std::{hint::black_box, time::Duration};

use benches::{FULL_BATCH, FULL_DATAGRAM, FULL_PACKET, Pair, Train, tcp_packet};
use encrypt::{Identity, boring::BoringIdentity, native::NativeIdentity};
use io_runtime::clock;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use tun_device::VNET_HEADER_LEN;

const ROUNDS: usize = 4_000;

/// What sealing and opening a train take.
type Times = [Duration; 2];

/// Its name, and a round of it.
type Contender = (&'static str, Box<dyn FnMut() -> Times>);

fn main() {
    let mut contenders: [Contender; 3] = [
        ("bare ring", Box::new(bare())),
        ("native", Box::new(tunnel::<NativeIdentity>())),
        ("boringtun", Box::new(tunnel::<BoringIdentity>())),
    ];
    let mut times = [0; 3].map(|_| [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        for ((_, round), times) in contenders.iter_mut().zip(&mut times) {
            let [seal, open] = round();
            times[0].push(seal);
            times[1].push(open);
        }
    }
    println!("{FULL_BATCH} x {FULL_PACKET} bytes      median of all   of the quickest tenth (both in us)");
    for (at, step) in ["seal", "open"].into_iter().enumerate() {
        for ((name, _), times) in contenders.iter().zip(&mut times) {
            let times = &mut times[at];
            times.sort_unstable();
            let [all, quickest] = [times.len() / 2, times.len() / 20].map(|at| times[at].as_secs_f64() * 1e6);
            println!("{step} {name:<12} {all:>20.2} {quickest:>18.2}");
        }
    }
}

/// The cipher's calls on a train's bytes, with nothing around them.
fn bare() -> impl FnMut() -> Times {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[1; 32]).expect("32 bytes"));
    let mut train = vec![7; FULL_BATCH * FULL_DATAGRAM];
    let mut first = 0;
    let nonce = |counter: u64| {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    };
    move || {
        let started = clock::now();
        for (datagram, counter) in train.chunks_mut(FULL_DATAGRAM).zip(first..) {
            let (content, tag) = datagram[16..].split_at_mut(FULL_PACKET);
            let sealed =
                key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), content).expect("short");
            tag.copy_from_slice(sealed.as_ref());
        }
        let sealed = clock::now();
        for (datagram, counter) in train.chunks_mut(FULL_DATAGRAM).zip(first..) {
            black_box(
                key.open_in_place(nonce(counter), Aad::empty(), &mut datagram[16..]).expect("authentic"),
            );
        }
        first += FULL_BATCH as u64;
        [sealed - started, sealed.elapsed()]
    }
}

/// The whole way of a tunnel but for I/O: packets into a finished batch, and a receive buffer into packets.
fn tunnel<I: Identity>() -> impl FnMut() -> Times {
    let now = clock::now();
    let Pair { mut left, mut right } = Pair::<I>::connected(now);
    let packet = tcp_packet(FULL_PACKET);
    let mut train = Train::default();
    move || {
        let started = clock::now();
        for _ in 0..FULL_BATCH {
            left.send(&packet[VNET_HEADER_LEN..], now);
        }
        let batch = left.queue.pop().expect("one batch").finish();
        let sealed = started.elapsed();
        train.receive(batch.into(), &mut left.queue);
        let started = clock::now();
        let packets = right.receive(&mut train, now, |packet| _ = black_box(packet));
        let opened = started.elapsed();
        assert_eq!(packets, FULL_BATCH);
        [sealed, opened]
    }
}
