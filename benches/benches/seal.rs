//! The seed's first step against the queue's: seal each packet into a value on the stack and copy that into
//! the queue, or seal it where it will be sent from.

use benches::{FULL_BATCH, FULL_DATAGRAM, FULL_PACKET, connected_sessions, peer, short};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use encrypt::{EncryptedPacket, boring::BoringIdentity};
use gso_queue::{DatagramSink, GsoQueue, Slot};

criterion_group!(name = benches; config = short(); targets = seal_a_batch, open_a_batch);
criterion_main!(benches);

fn seal_a_batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal/a full batch");
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_PACKET) as u64));
    let now = io_runtime::clock::now();
    let (mut session, _) = connected_sessions::<BoringIdentity>(now);
    let packet = [7; FULL_PACKET];

    let mut queue: GsoQueue = GsoQueue::default();
    group.bench_function("in place", |b| {
        b.iter(|| {
            for _ in 0..FULL_BATCH {
                queue
                    .append(peer(0), FULL_DATAGRAM, |slot| session.seal(&packet, slot.bytes, now))
                    .expect("room for one batch");
            }
            flush(&mut queue);
        });
    });

    group.bench_function("on the stack, then copied", |b| {
        b.iter(|| {
            for _ in 0..FULL_BATCH {
                let sealed =
                    EncryptedPacket::seal(&mut session.session, &packet, now).expect("a live session");
                let datagram = sealed.as_ref();
                let copy = |slot: Slot<'_>| {
                    slot.bytes.copy_from_slice(datagram);
                    Ok::<(), ()>(())
                };
                queue.append(peer(0), datagram.len(), copy).expect("room for one batch");
            }
            flush(&mut queue);
        });
    });

    let mut single = [0; FULL_DATAGRAM];
    group.bench_function("into one buffer, over and over", |b| {
        b.iter(|| {
            for _ in 0..FULL_BATCH {
                session.seal(&packet, &mut single, now).expect("a live session");
            }
        });
    });
    group.finish();
}

fn open_a_batch(c: &mut Criterion) {
    let mut group = c.benchmark_group("open/a full batch");
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_PACKET) as u64));
    let now = io_runtime::clock::now();
    let (mut sender, mut receiver) = connected_sessions::<BoringIdentity>(now);
    let packet = packet_of_zeros();
    let mut batch = vec![0; FULL_BATCH * FULL_DATAGRAM];
    group.bench_function("from one buffer", |b| {
        // No datagram opens twice, so each is sealed anew, outside the measurement.
        let seal = || {
            for slot in batch.chunks_mut(FULL_DATAGRAM) {
                sender.seal(&packet, slot, now).expect("a live session");
            }
            batch.clone()
        };
        let open = |batch: &mut Vec<u8>| {
            for datagram in batch.chunks_mut(FULL_DATAGRAM) {
                receiver.open(datagram, now).expect("sealed for us");
            }
        };
        b.iter_batched_ref(seal, open, BatchSize::PerIteration);
    });
    group.finish();
}

/// What a session opens has to look like IP, of the length that its header says.
fn packet_of_zeros() -> [u8; FULL_PACKET] {
    let mut packet = [0; FULL_PACKET];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(FULL_PACKET as u16).to_be_bytes());
    packet
}

fn flush(queue: &mut GsoQueue) {
    let batch = queue.pop().expect("one batch");
    assert!(batch.segments_left() == FULL_BATCH && queue.is_empty());
    queue.recycle(batch);
}
