//! The whole hot path but for the system calls: a TSO frame is split and sealed into the queue on one side,
//! opened and coalesced on the other.

use std::hint::black_box;

use benches::{FULL_BATCH, FULL_PACKET, Pair, Side, Train, short, tcp_frame, tcp_packet};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use encrypt::{Identity, boring::BoringIdentity, native::NativeIdentity};
use tun_device::{CoalesceConfig, Coalescer, Segments, VNET_HEADER_LEN};

criterion_group!(name = benches; config = short(); targets = send, receive);
criterion_main!(benches);

fn send(c: &mut Criterion) {
    send_with::<NativeIdentity>(c, "native");
    send_with::<BoringIdentity>(c, "boringtun");
}

fn receive(c: &mut Criterion) {
    receive_with::<NativeIdentity>(c, "native");
    receive_with::<BoringIdentity>(c, "boringtun");
}

fn send_with<I: Identity>(c: &mut Criterion, backend: &str) {
    let mut group = c.benchmark_group(format!("tunnel/send, {backend}"));
    let now = io_runtime::clock::now();
    let mut pair = Pair::<I>::connected(now);
    let side = &mut pair.left;

    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_PACKET) as u64));
    let packet = tcp_packet(FULL_PACKET);
    group.bench_function("a full batch of single packets", |b| {
        b.iter(|| {
            for _ in 0..FULL_BATCH {
                side.send(&packet[VNET_HEADER_LEN..], now);
            }
            assert_eq!(side.discard(), 1);
        });
    });

    let frame = tcp_frame(FULL_BATCH);
    group.bench_function("a TSO frame of as many", |b| {
        let send = |frame: &mut Vec<u8>| {
            side.send_frame(frame, now);
            assert_eq!(side.discard(), 1);
        };
        b.iter_batched_ref(|| frame.clone(), send, BatchSize::NumIterations(4));
    });

    let small = tcp_packet(64);
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 packets of 64 bytes", |b| {
        b.iter(|| {
            for _ in 0..64 {
                side.send(&small[VNET_HEADER_LEN..], now);
            }
            assert_eq!(side.discard(), 1);
        });
    });
    group.finish();
}

fn receive_with<I: Identity>(c: &mut Criterion, backend: &str) {
    let mut group = c.benchmark_group(format!("tunnel/receive, {backend}"));
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_PACKET) as u64));
    let now = io_runtime::clock::now();
    let Pair { mut left, mut right } = Pair::<I>::connected(now);
    let frame = tcp_frame(FULL_BATCH);
    let mut coalescer = Coalescer::new(CoalesceConfig::default());
    let send = |left: &mut Side<I>| {
        let mut frame = frame.clone();
        let mut segments = Segments::new(&mut frame).expect("a good frame");
        while let Some(packet) = segments.next() {
            left.send(packet, now);
        }
        let mut train = Train::default();
        train.receive(left.queue.pop().expect("one batch"), &mut left.queue);
        train
    };

    group.bench_function("a full batch", |b| {
        b.iter_batched_ref(
            || send(&mut left),
            |train| assert_eq!(right.receive(train, now, |packet| _ = black_box(packet)), FULL_BATCH),
            BatchSize::PerIteration,
        );
    });

    group.bench_function("a full batch, and coalesce it", |b| {
        b.iter_batched_ref(
            || send(&mut left),
            |train| {
                right.receive_into(train, now, &mut coalescer);
                coalescer.flush(|frame| Ok(_ = black_box(frame))).expect("nothing fails");
            },
            BatchSize::PerIteration,
        );
    });
    assert_eq!(coalescer.counters().frames * FULL_BATCH as u64, coalescer.counters().packets);
    group.finish();
}
