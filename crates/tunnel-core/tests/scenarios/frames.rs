//! Packets that were one super-packet are routed together, and each fares as if it had come alone.

use encrypt::{Identity, REJECT_AFTER_MESSAGES, REKEY_TIMEOUT};
use gso_queue::Ecn;
use tunnel_core::{Packets, Sent};

use crate::{
    probe::{self, ProbeIdentity},
    world::{A, B, Kind, World, kinds, on_every_backend, packet, ping, serial},
};

/// The packets of one frame.
pub(crate) struct Frame {
    packets: Vec<Vec<u8>>,
    at: usize,
}

impl Frame {
    pub(crate) fn of(packets: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self { packets: packets.into_iter().collect(), at: 0 }
    }
}

impl Packets for Frame {
    fn packet(&self) -> Option<&[u8]> {
        self.packets.get(self.at).map(Vec::as_slice)
    }

    fn advance(&mut self) {
        self.at += 1;
    }
}

impl<I: Identity> World<I> {
    fn send_frame(&mut self, frame: &mut Frame) -> Sent {
        let node = &mut self.nodes[A];
        node.tunnel.send_all(frame, self.now, &mut node.sink).unwrap()
    }
}

on_every_backend! {
    a_frame_arrives_packet_by_packet_and_counts_as_its_packets_do,
    without_a_session_all_of_a_frame_waits_for_one,
}

fn a_frame_arrives_packet_by_packet_and_counts_as_its_packets_do<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut one_by_one: World<I> = World::connected();
    // The last packet of a frame is usually shorter, and none of them has to be padded in the same way.
    let packets =
        (0..20u32).map(|n| packet("10.0.0.1", "10.0.0.2", Ecn::Ect0, &vec![n as u8; 100 - n as usize]));
    let mut frame = Frame::of(packets);
    assert_eq!(world.send_frame(&mut frame), Sent::Taken);
    assert_eq!(frame.packet(), None);
    for packet in &frame.packets {
        one_by_one.send(A, packet);
    }
    for world in [&mut world, &mut one_by_one] {
        assert!(world.nodes[A].sink.iter().all(|(to, _)| to.ecn == Ecn::Ect0));
        world.settle();
        assert_eq!(world.nodes[B].delivered, frame.packets);
    }
    let counters =
        |world: &World<I>| world.nodes.iter().map(|node| *node.tunnel.counters()).collect::<Vec<_>>();
    assert_eq!(counters(&world), counters(&one_by_one));
}

fn without_a_session_all_of_a_frame_waits_for_one<I: Identity>() {
    let mut world: World<I> = World::pair();
    assert_eq!(world.send_frame(&mut Frame::of((0..5).map(|n| ping(A, B, n)))), Sent::Taken);
    world.settle();
    let serials: Vec<u32> = world.nodes[B].delivered.iter().map(|packet| serial(packet)).collect();
    assert_eq!(serials, [0, 1, 2, 3, 4]);
    assert_eq!(world.nodes[A].count("initiations_sent"), 1);
}

type Simple = World<crate::native::Simulated>;

#[test]
fn a_session_that_ends_in_the_middle_of_a_frame_leaves_the_rest_to_the_next() {
    let mut world: World<ProbeIdentity> = World::connected();
    world.drive(REKEY_TIMEOUT);
    probe::set_messages_sent(REJECT_AFTER_MESSAGES - 2);
    assert_eq!(world.send_frame(&mut Frame::of((0..5).map(|n| ping(A, B, n)))), Sent::Taken);
    world.settle();
    use Kind::{Data, Initiation, Keepalive, Response};
    let expected = [Data, Data, Initiation, Response, Keepalive, Data, Data, Data];
    assert_eq!(kinds(&world.wire), expected);
    assert_eq!(world.nodes[B].delivered, Vec::from_iter((0..5).map(|n| ping(A, B, n))));
    assert_eq!(world.nodes[A].drops(), []);
}

#[test]
fn an_unreachable_packet_stays_at_hand_to_be_answered() {
    let mut world: Simple = World::connected();
    let mut frame = Frame::of((0..3).map(|n| packet("10.0.0.1", "10.9.9.9", Ecn::NotEct, &[n])));
    for n in 0..3 {
        assert_eq!(world.send_frame(&mut frame), Sent::Unreachable);
        assert_eq!(frame.at, n);
        frame.advance();
    }
    assert_eq!(world.send_frame(&mut frame), Sent::Taken, "there are none left");
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 3)]);
}

#[test]
fn a_frame_that_nobody_may_have_is_dropped_packet_by_packet() {
    let mut world: Simple = World::connected();
    let now = world.now;
    world.nodes[A].tunnel.link_down(now);
    assert_eq!(world.send_frame(&mut Frame::of((0..3).map(|n| ping(A, B, n)))), Sent::Taken);
    assert_eq!(world.nodes[A].drops(), [("tx_link_down", 3)]);
}

#[test]
fn what_is_behind_a_packet_is_not_sealed_and_what_is_none_is_dropped_alone() {
    let mut world: Simple = World::connected();
    let mut with_trailer = ping(A, B, 1);
    with_trailer.extend([0xee; 30]);
    let mut cut_short = ping(A, B, 2);
    cut_short.pop();
    let mut frame = Frame::of([ping(A, B, 0), with_trailer, cut_short, ping(A, B, 3)]);
    assert_eq!(world.send_frame(&mut frame), Sent::Taken);
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 0), ping(A, B, 1), ping(A, B, 3)]);
    assert_eq!(world.nodes[A].drops(), [("tx_malformed", 1)]);
}
