//! A full sink consumes nothing and loses nothing.

use std::time::Duration;

use gso_queue::{AppendError, DatagramSink, Destination, Slot, Work};
use tunnel_core::{Sent, SinkFull};

use crate::{
    frames::Frame,
    native::Simulated,
    netem::Random,
    world::{A, B, Datagram, Kind, Node, World, add, kinds, ping, seconds, serial},
};

/// A sink with room for a few datagrams.
#[derive(Default)]
struct Narrow {
    room: usize,
    taken: Vec<(Destination, Vec<u8>)>,
}

impl<W: Work> DatagramSink<W> for Narrow {
    fn append<E>(
        &mut self,
        to: Destination,
        len: usize,
        fill: impl FnOnce(Slot<'_, W>) -> Result<(), E>,
    ) -> Result<(), AppendError<E>> {
        if self.room == 0 {
            return Err(AppendError::Full);
        }
        DatagramSink::append(&mut self.taken, to, len, fill)?;
        self.room -= 1;
        Ok(())
    }
}

impl Narrow {
    fn with_room(room: usize) -> Self {
        Self { room, taken: Vec::new() }
    }

    /// What was appended, as sent by `node`.
    fn flush(&mut self, node: &Node<Simulated>) -> Vec<Datagram> {
        let taken = self.taken.drain(..);
        taken.map(|(to, bytes)| Datagram { from: node.address, to, bytes }).collect()
    }
}

#[test]
fn a_refused_packet_uses_no_counter_and_may_be_sent_again() {
    let mut world: World<Simulated> = World::connected();
    let now = world.now;
    let mut sink = Narrow::with_room(2);
    let mut sent = 0;
    while sent < 10 {
        match world.nodes[A].tunnel.send(&ping(A, B, sent), now, &mut sink) {
            Ok(_) => sent += 1,
            Err(SinkFull) => {
                for datagram in sink.flush(&world.nodes[A]) {
                    world.arrive(B, &datagram.bytes, datagram.arrival());
                }
                sink.room = 2;
            }
        }
    }
    for datagram in sink.flush(&world.nodes[A]) {
        world.arrive(B, &datagram.bytes, datagram.arrival());
    }
    let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
    assert_eq!(serials, Vec::from_iter(0..10));
    assert_eq!(world.nodes[A].drops(), []);
    assert_eq!(world.nodes[A].count("tx_packets"), 11, "with the one that connected the world");
}

#[test]
fn a_frame_goes_on_where_a_full_sink_stopped_it() {
    let mut world: World<Simulated> = World::connected();
    let now = world.now;
    let mut sink = Narrow::with_room(7);
    let mut frame = Frame::of((0..20).map(|n| ping(A, B, n)));
    let mut refusals = 0;
    while world.nodes[A].tunnel.send_all(&mut frame, now, &mut sink) == Err(SinkFull) {
        refusals += 1;
        assert!(world.nodes[A].tunnel.poll_timeout().is_some(), "what was sealed keeps its timers");
        for datagram in sink.flush(&world.nodes[A]) {
            world.arrive(B, &datagram.bytes, datagram.arrival());
        }
        sink.room = 7;
    }
    for datagram in sink.flush(&world.nodes[A]) {
        world.arrive(B, &datagram.bytes, datagram.arrival());
    }
    assert_eq!(refusals, 2);
    let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
    assert_eq!(serials, Vec::from_iter(0..20));
    assert_eq!(world.nodes[A].drops(), []);
}

#[test]
fn a_packet_whose_initiation_does_not_fit_is_not_queued() {
    let mut world: World<Simulated> = World::pair();
    let now = world.now;
    let mut full = Narrow::with_room(0);
    for _ in 0..3 {
        assert_eq!(world.nodes[A].tunnel.send(&ping(A, B, 1), now, &mut full), Err(SinkFull));
    }
    assert_eq!(world.nodes[A].count("initiations_sent"), 0);
    world.send(A, &ping(A, B, 1));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)], "once");
}

#[test]
fn replies_that_do_not_fit_are_sent_when_there_is_room() {
    let mut world: World<Simulated> = World::pair();
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    let mut full = Narrow::with_room(0);
    let now = world.now;
    let b = &mut world.nodes[B].tunnel;
    assert_eq!(b.receive(&mut initiation.bytes.clone(), initiation.arrival(), now, &mut full), None);
    let retry = b.poll_timeout().expect("the response waits");
    assert!(retry > now && retry <= now + Duration::from_millis(10), "soon, but not at once");
    b.handle_timeout(retry, &mut full);
    assert!(b.poll_timeout().is_some_and(|at| at > retry), "still full: no busy loop");
    world.drive(seconds(1));
    assert_eq!(kinds(&world.wire), [Kind::Response, Kind::Keepalive, Kind::Data]);
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
    assert_eq!(world.peer(B, A).tx_bytes, 92);
}

#[test]
fn waiting_packets_that_do_not_fit_go_on_waiting_in_order() {
    let mut world: World<Simulated> = World::pair();
    for serial in 0..10 {
        world.send(A, &ping(A, B, serial));
    }
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);

    let mut sink = Narrow::with_room(4);
    let mut now = world.now;
    let a = &mut world.nodes[A].tunnel;
    assert_eq!(a.receive(&mut response.bytes.clone(), response.arrival(), now, &mut sink), None);
    sink.room = 1;
    assert_eq!(a.send(&ping(A, B, 10), now, &mut sink), Err(SinkFull), "not before those that wait");
    let mut sent = sink.flush(&world.nodes[A]);
    while let Some(at) = world.nodes[A].tunnel.poll_timeout().filter(|at| *at < now + seconds(1)) {
        now = at;
        sink.room = 2;
        world.nodes[A].tunnel.handle_timeout(now, &mut sink);
        sent.extend(sink.flush(&world.nodes[A]));
    }
    sink.room = 1;
    assert_eq!(world.nodes[A].tunnel.send(&ping(A, B, 10), now, &mut sink), Ok(Sent::Taken));
    sent.extend(sink.flush(&world.nodes[A]));
    for datagram in &sent {
        world.arrive(B, &datagram.bytes, datagram.arrival());
    }
    let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
    assert_eq!(serials, Vec::from_iter(0..11));
    assert_eq!(world.nodes[A].drops(), []);
}

#[test]
fn timers_interrupted_by_a_full_sink_are_finished_later_without_spinning() {
    const PEERS: u8 = 100;
    let mut world: World<Simulated> = World::pair();
    let mut update = tunnel_core::TunnelUpdate::default();
    for n in 0..PEERS {
        let mut peer = tunnel_core::PeerUpdate::new(encrypt::PublicKey::from_bytes([n + 100; 32]));
        peer.endpoint = Some(([198, 51, 100, n], 51820).into());
        peer.allowed_ips = vec![add(&format!("10.1.{n}.0/24"))];
        peer.persistent_keepalive = Some(25);
        update.peers.push(peer);
    }
    let mut sink = Narrow::with_room(3);
    let mut now = world.now;
    let a = &mut world.nodes[A].tunnel;
    a.update(update, now, &mut sink).unwrap();
    let mut rounds = 0;
    while let Some(at) = a.poll_timeout().filter(|at| *at < now + seconds(1)) {
        assert!(at > now);
        now = at;
        sink.room = 3;
        a.handle_timeout(now, &mut sink);
        rounds += 1;
    }
    assert!(rounds <= u32::from(PEERS), "{rounds} rounds");
    assert_eq!(sink.taken.len(), usize::from(PEERS), "every peer's initiation went out once");
}

#[test]
fn handshakes_wait_while_the_sink_is_full() {
    let mut world: World<Simulated> = World::connected();
    let mut full = Narrow::with_room(0);
    for n in 1..=100 {
        world.now += Duration::from_millis(20); // B answers no sooner again
        let mut a_again: World<Simulated> = World::pair();
        a_again.now = world.now;
        a_again.send(A, &ping(A, B, n));
        let initiation = a_again.intercept(A).remove(0);
        let b = &mut world.nodes[B].tunnel;
        b.receive(&mut initiation.bytes.clone(), initiation.arrival(), world.now, &mut full);
    }
    assert_eq!(world.nodes[B].count("responses_sent"), 2, "with the one that connected the world");
    world.drive(Duration::from_millis(10));
    assert_eq!(kinds(&world.wire), [Kind::Response, Kind::Response], "the one that was kept, and the next");
    assert_eq!(world.nodes[B].drops(), [("rx_handshake_too_soon", 98)], "after that came no time");
}

#[test]
fn kept_messages_go_with_their_peer() {
    let mut world: World<Simulated> = World::pair();
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    let mut full = Narrow::with_room(0);
    let b = &mut world.nodes[B].tunnel;
    b.receive(&mut initiation.bytes.clone(), initiation.arrival(), world.now, &mut full);
    let mut peer = world.about(A);
    peer.remove = true;
    world.update(B, peer);
    assert_eq!(world.intercept(B), []);
    assert_eq!(world.nodes[B].tunnel.poll_timeout(), None);
}

#[test]
fn whatever_room_the_sink_has_every_packet_arrives_in_order() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut world: World<Simulated> = World::pair();
        let mut sink = Narrow::default();
        let mut sent = 0;
        let mut turns = 0;
        while sent < 60 || world.nodes[B].delivered.len() < 60 {
            turns += 1;
            assert!(turns < 10_000, "seed {seed}: stuck at {sent} sent, {:?}", world.nodes[A].drops());
            // Now and then so long a pause that the session is too old for the next packet.
            let all_arrived = world.nodes[B].delivered.len() == sent as usize;
            let pause = match random.below(40) {
                0 if all_arrived => seconds(200),
                millis => Duration::from_millis(millis),
            };
            world.now += pause;
            let now = world.now;
            let a = &mut world.nodes[A].tunnel;
            if sent < 60 && random.below(3) > 0 && a.send(&ping(A, B, sent), now, &mut sink).is_ok() {
                sent += 1;
            }
            if a.poll_timeout().is_some_and(|at| at <= now) {
                a.handle_timeout(now, &mut sink);
            }
            if random.below(2) == 0 {
                sink.room = random.below(4) as usize;
                for datagram in sink.flush(&world.nodes[A]) {
                    world.arrive(B, &datagram.bytes, datagram.arrival());
                }
            }
            if random.below(2) == 0 {
                for datagram in world.intercept(B) {
                    let a = &mut world.nodes[A].tunnel;
                    assert_eq!(
                        a.receive(&mut datagram.bytes.clone(), datagram.arrival(), now, &mut sink),
                        None
                    );
                }
            }
        }
        let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
        assert_eq!(serials, Vec::from_iter(0..60), "seed {seed}");
    }
}
