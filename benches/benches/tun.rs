//! Taking a 64 KiB super-packet apart and putting its packets together again.

use std::hint::black_box;

use benches::{FULL_PACKET, FULL_TRAIN, short, tcp_frame};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tun_device::{CoalesceConfig, Coalescer, Segments};

criterion_group!(name = benches; config = short(); targets = segment, coalesce);
criterion_main!(benches);

fn segment(c: &mut Criterion) {
    let mut group = c.benchmark_group("tun/segment");
    let train = tcp_frame(FULL_TRAIN);
    group.throughput(Throughput::Bytes(train.len() as u64));
    group.bench_function("a full TSO frame", |b| {
        let split =
            |frame: &mut Vec<u8>| assert_eq!(packets(frame, |packet| _ = black_box(packet)), FULL_TRAIN);
        // Splitting uses the frame up; a few at a time stay in the cache, as one just read does.
        b.iter_batched_ref(|| train.clone(), split, BatchSize::NumIterations(4));
    });
    group.finish();
}

fn coalesce(c: &mut Criterion) {
    let mut group = c.benchmark_group("tun/coalesce");
    let train = tcp_frame(FULL_TRAIN);
    let mut split = Vec::new();
    packets(&mut train.clone(), |packet| split.push(packet.to_vec()));
    group.throughput(Throughput::Bytes((FULL_TRAIN * FULL_PACKET) as u64));

    let mut coalescer = Coalescer::new(CoalesceConfig::default());
    group.bench_function("the packets of a full TSO frame", |b| {
        b.iter(|| {
            for packet in &split {
                coalescer.push(packet).expect("one flow fits");
            }
            let mut frames = 0;
            coalescer
                .flush(|frame| {
                    assert_eq!(black_box(frame).len(), train.len());
                    frames += 1;
                    Ok(())
                })
                .expect("nothing fails");
            assert_eq!(frames, 1);
        });
    });
    group.finish();
}

/// Gives each packet of a frame to `take`, and their number.
fn packets(frame: &mut [u8], mut take: impl FnMut(&[u8])) -> usize {
    let mut segments = Segments::new(frame).expect("a good frame");
    let mut n = 0;
    while let Some(packet) = segments.next() {
        take(packet);
        n += 1;
    }
    n
}
