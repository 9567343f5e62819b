//! One batch over a loopback UDP socket: one `UDP_SEGMENT` send against one send per datagram, and one
//! `UDP_GRO` receive against one receive per datagram. Bare system calls, so these are the floor that
//! `io-runtime` stands on.

use std::{
    io::{ErrorKind, IoSlice},
    net::UdpSocket,
    os::fd::AsRawFd,
};

use benches::{FULL_BATCH, FULL_DATAGRAM, peer, short};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gso_queue::{Batch, DatagramSink, GsoQueue, Slot};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

criterion_group!(name = benches; config = short(); targets = send, receive);
criterion_main!(benches);

fn send(c: &mut Criterion) {
    let mut group = c.benchmark_group("udp/send a full batch");
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_DATAGRAM) as u64));
    let batch = full_batch();
    // A receiver with GRO takes a train whole, as a network card would: what is measured is sending.
    let link = Link::new(true);
    for (name, send) in [("gso on", send_gso as fn(&UdpSocket, &Batch)), ("gso off", send_singly)] {
        let mut sent_before = false;
        group.bench_function(name, |b| {
            let make_room = || {
                let (_, bytes) = link.drain();
                assert!(!sent_before || bytes == batch.unsent().len(), "datagrams were lost");
                sent_before = true;
            };
            b.iter_batched(make_room, |()| send(&link.sender, &batch), BatchSize::PerIteration);
        });
        link.drain();
    }
    group.finish();
}

fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("udp/receive a full batch");
    group.throughput(Throughput::Bytes((FULL_BATCH * FULL_DATAGRAM) as u64));
    let batch = full_batch();
    for (name, gro, reads) in [("gro on", true, 1), ("gro off", false, FULL_BATCH)] {
        let link = Link::new(gro);
        group.bench_function(name, |b| {
            let fill = || send_gso(&link.sender, &batch);
            // The last read finds nothing: that is how a receiver learns that it is done.
            let read = |()| assert_eq!(link.drain(), (reads, batch.unsent().len()));
            b.iter_batched(fill, read, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn full_batch() -> Batch {
    let mut queue = GsoQueue::default();
    for i in 0..FULL_BATCH {
        let fill = |slot: Slot<'_>| {
            slot.bytes.fill(i as u8);
            Ok::<(), ()>(())
        };
        queue.append(peer(0), FULL_DATAGRAM, fill).expect("room for one batch");
    }
    queue.pop().expect("one batch").finish()
}

fn send_gso(socket: &UdpSocket, batch: &Batch) {
    let segment_len = u16::try_from(batch.segment_len()).expect("UDP is shorter");
    let control = [ControlMessage::UdpGsoSegments(&segment_len)];
    let sent =
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(batch.unsent())], &control, MsgFlags::empty(), None);
    assert_eq!(sent, Ok(batch.unsent().len()));
}

fn send_singly(socket: &UdpSocket, batch: &Batch) {
    for datagram in batch.datagrams() {
        assert_eq!(socket.send(datagram).expect("loopback takes it"), datagram.len());
    }
}

/// Two connected loopback sockets.
struct Link {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Link {
    fn new(gro: bool) -> Self {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        receiver.set_nonblocking(true).expect("a socket can be non-blocking");
        setsockopt(&receiver, sockopt::UdpGroSegment, &gro).expect("Linux has UDP_GRO since 5.0");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
        sender.connect(receiver.local_addr().expect("it is bound")).expect("it is bound");
        Self { sender, receiver }
    }

    /// Receives all that is there. Gives the number of reads that gave something, and the bytes.
    fn drain(&self) -> (usize, usize) {
        let mut buf = [0; 1 << 16];
        let (mut reads, mut bytes) = (0, 0);
        loop {
            match self.receiver.recv(&mut buf) {
                Ok(len) => (reads, bytes) = (reads + 1, bytes + len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (reads, bytes),
                Err(error) => panic!("receive: {error}"),
            }
        }
    }
}
