//! What the queue itself costs: appending and popping, without encryption and without sending.

use std::{convert::Infallible, hint::black_box};

use benches::{FULL_BATCH, FULL_DATAGRAM, peer, short};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gso_queue::{AppendError, DatagramSink, Destination, GsoQueue};

criterion_group!(name = benches; config = short(); targets = copy, bookkeeping, one_small_packet_each);
criterion_main!(benches);

/// One full batch, each datagram copied in: how near to a bare `memcpy` is it?
fn copy(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue/copy");
    let datagram = [7_u8; FULL_DATAGRAM];
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_DATAGRAM) as u64));

    let mut queue: GsoQueue = GsoQueue::default();
    group.bench_function("append and pop a full batch", |b| {
        b.iter(|| {
            for _ in 0..FULL_BATCH {
                append(&mut queue, peer(0), FULL_DATAGRAM, |out| out.copy_from_slice(&datagram));
            }
            drain(&mut queue);
        });
    });

    let mut bare = vec![0_u8; FULL_BATCH * FULL_DATAGRAM];
    group.bench_function("bare memcpy of as much", |b| {
        b.iter(|| {
            for slot in bare.chunks_mut(FULL_DATAGRAM) {
                slot.copy_from_slice(black_box(&datagram));
            }
            black_box(bare.as_ptr())
        });
    });
    group.finish();
}

/// Appends that write nothing, 40 datagrams to each of so many destinations in turn: the bookkeeping
/// alone, the search for the newest batch above all.
fn bookkeeping(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue/bookkeeping per datagram");
    for destinations in [1, 2, 8, 32, 128] {
        let peers: Vec<Destination> = (0..destinations).map(peer).collect();
        group.throughput(Throughput::Elements(40 * destinations as u64));
        let mut queue: GsoQueue = GsoQueue::default();
        group.bench_function(BenchmarkId::new("interleaved destinations", destinations), |b| {
            b.iter(|| {
                for _ in 0..40 {
                    for &to in &peers {
                        append(&mut queue, to, FULL_DATAGRAM, |_| ());
                    }
                }
                drain(&mut queue);
            });
        });
    }
    let mut queue: GsoQueue = GsoQueue::default();
    group.throughput(Throughput::Elements(40));
    group.bench_function("alternating lengths", |b| {
        b.iter(|| {
            for i in 0..40 {
                let len = if i % 2 == 0 { FULL_DATAGRAM } else { 80 };
                append(&mut queue, peer(0), len, |_| ());
            }
            drain(&mut queue);
        });
    });
    group.finish();
}

/// A thousand peers with one small packet each: the pool runs out and is flushed again and again.
fn one_small_packet_each(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue/one small packet each");
    let peers: Vec<Destination> = (0..1000).map(peer).collect();
    group.throughput(Throughput::Elements(peers.len() as u64));
    let mut queue: GsoQueue = GsoQueue::default();
    group.bench_function("1000 peers", |b| {
        b.iter(|| {
            for &to in &peers {
                append(&mut queue, to, 96, |out| out.fill(7));
            }
            drain(&mut queue);
        });
    });
    group.finish();
}

/// Appends, flushing when the pool is out.
fn append(queue: &mut GsoQueue, to: Destination, len: usize, fill: impl Fn(&mut [u8])) {
    let mut write = || {
        queue.append(to, len, |slot| {
            fill(slot.bytes);
            Ok::<(), Infallible>(())
        })
    };
    match write() {
        Ok(()) => {}
        Err(AppendError::Full) => {
            drain(queue);
            append(queue, to, len, fill);
        }
        Err(error) => panic!("{error}"),
    }
}

fn drain(queue: &mut GsoQueue) {
    while let Some(batch) = queue.pop() {
        let batch = batch.finish();
        black_box(batch.unsent());
        queue.recycle(batch);
    }
}
