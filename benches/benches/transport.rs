//! A full train of data messages: the native keys against ring in a bare loop, and against the boringtun adapter.
//!
//! Bare ring is what nobody can be faster than: the same cipher calls on the same bytes, with nothing around them.

use benches::{FULL_BATCH, FULL_DATAGRAM, FULL_PACKET, connected_sessions, short};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use encrypt::{boring::BoringIdentity, transport::KeyPair};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

criterion_group!(name = benches; config = short(); targets = seal_a_train, open_a_train, one_datagram);
criterion_main!(benches);

const KEYS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

fn ends() -> (KeyPair, KeyPair) {
    let [one, two] = &KEYS;
    (KeyPair::new(1, 2, one, two), KeyPair::new(2, 1, two, one))
}

fn bare_key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &KEYS[0]).expect("32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn seal_bare(key: &LessSafeKey, counter: &mut u64, train: &mut [u8]) {
    for datagram in train.chunks_mut(FULL_DATAGRAM) {
        let (content, tag) = datagram[16..].split_at_mut(FULL_PACKET);
        let sealed = key.seal_in_place_separate_tag(nonce(*counter), Aad::empty(), content).expect("short");
        tag.copy_from_slice(sealed.as_ref());
        *counter += 1;
    }
}

fn seal_a_train(c: &mut Criterion) {
    let mut group = c.benchmark_group("transport/seal a full train");
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_PACKET) as u64));
    let mut train = vec![7; FULL_BATCH * FULL_DATAGRAM];

    let (key, mut counter) = (bare_key(), 0);
    group.bench_function("bare ring", |b| b.iter(|| seal_bare(&key, &mut counter, &mut train)));

    let (native, _) = ends();
    group.bench_function("native", |b| {
        b.iter(|| {
            let lease = native.keys().lease(FULL_BATCH).expect("far from the limit");
            lease.seal_train(&mut train, FULL_DATAGRAM).expect("it fits");
        });
    });

    let now = io_runtime::clock::now();
    let (mut session, _) = connected_sessions::<BoringIdentity>(now);
    let packet = [7; FULL_PACKET];
    group.bench_function("boringtun adapter", |b| {
        b.iter(|| {
            for slot in train.chunks_mut(FULL_DATAGRAM) {
                session.seal(&packet, slot, now).expect("a live session");
            }
        });
    });
    group.finish();
}

fn open_a_train(c: &mut Criterion) {
    let mut group = c.benchmark_group("transport/open a full train");
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_PACKET) as u64));

    let (key, mut counter) = (bare_key(), 0);
    let mut train = vec![7; FULL_BATCH * FULL_DATAGRAM];
    group.bench_function("bare ring", |b| {
        let mut opened = 0;
        let seal = || {
            seal_bare(&key, &mut counter, &mut train);
            (counter - FULL_BATCH as u64, train.clone())
        };
        let open = |(first, train): &mut (u64, Vec<u8>)| {
            for (datagram, counter) in train.chunks_mut(FULL_DATAGRAM).zip(*first..) {
                opened += key
                    .open_in_place(nonce(counter), Aad::empty(), &mut datagram[16..])
                    .expect("authentic")
                    .len();
            }
        };
        b.iter_batched_ref(seal, open, BatchSize::PerIteration);
    });

    let (sender, mut receiver) = ends();
    group.bench_function("native, with the replay window", |b| {
        let mut opened = 0;
        let seal = || {
            sender
                .keys()
                .lease(FULL_BATCH)
                .expect("counters")
                .seal_train(&mut train, FULL_DATAGRAM)
                .expect("fits");
            train.clone()
        };
        let open = |train: &mut Vec<u8>| {
            let keys = receiver.keys().clone();
            keys.open_train(train, FULL_DATAGRAM, |_, unchecked| {
                opened += receiver.commit(unchecked.expect("authentic")).expect("new").content().len();
            });
        };
        b.iter_batched_ref(seal, open, BatchSize::PerIteration);
    });

    let now = io_runtime::clock::now();
    let (mut sender, mut receiver) = connected_sessions::<BoringIdentity>(now);
    let mut packet = [0; FULL_PACKET];
    packet[0] = 0x45; // it has to look like IP
    packet[2..4].copy_from_slice(&(FULL_PACKET as u16).to_be_bytes());
    group.bench_function("boringtun adapter", |b| {
        let seal = || {
            for slot in train.chunks_mut(FULL_DATAGRAM) {
                sender.seal(&packet, slot, now).expect("a live session");
            }
            train.clone()
        };
        let open = |train: &mut Vec<u8>| {
            for datagram in train.chunks_mut(FULL_DATAGRAM) {
                receiver.open(datagram, now).expect("sealed for us");
            }
        };
        b.iter_batched_ref(seal, open, BatchSize::PerIteration);
    });
    group.finish();
}

/// A lone datagram bears the whole of what is paid per train.
fn one_datagram(c: &mut Criterion) {
    let mut group = c.benchmark_group("transport/seal one datagram");
    for (name, len) in [("of 1,452 bytes", FULL_DATAGRAM), ("of 112 bytes", 112)] {
        let mut datagram = vec![7; len];
        let (key, mut counter) = (bare_key(), 0);
        group.bench_function(format!("bare ring, {name}"), |b| {
            b.iter(|| {
                let (content, tag) = datagram[16..].split_at_mut(len - 32);
                let sealed =
                    key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), content).expect("short");
                tag.copy_from_slice(sealed.as_ref());
                counter += 1;
            });
        });
        let (native, _) = ends();
        group.bench_function(format!("native, {name}"), |b| {
            b.iter(|| {
                native.keys().lease(1).expect("counters").seal_train(&mut datagram, len).expect("fits");
            });
        });
    }
    group.finish();
}
