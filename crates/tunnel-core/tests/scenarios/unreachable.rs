//! The sender of a packet that cannot go is told.

use std::time::Duration;

use encrypt::Identity;
use gso_queue::Ecn;
use tunnel_core::{MAX_ICMP_ERROR_LEN, Sent, TunnelConfig};

use crate::world::{A, B, World, on_every_backend, packet, ping};

on_every_backend! {
    a_packet_that_no_peer_may_have_is_answered_from_where_it_went,
    a_packet_for_a_peer_whose_endpoint_is_unknown_is_answered,
    what_is_sent_or_waits_is_not_answered,
    a_peer_that_is_removed_is_unreachable_at_once,
    answers_are_bounded_and_what_is_not_answered_is_counted,
    without_the_setting_nobody_is_told,
}

/// Sends `packet` from `node`; the answer, if its sender is to be told.
fn send<I: Identity>(world: &mut World<I>, node: usize, packet: &[u8]) -> Option<Vec<u8>> {
    let now = world.now;
    let node = &mut world.nodes[node];
    match node.tunnel.send(packet, now, &mut node.sink).unwrap() {
        Sent::Taken => None,
        Sent::Unreachable => {
            let mut out = [0; MAX_ICMP_ERROR_LEN];
            let len = node.tunnel.answer_unreachable(packet, &mut out, now)?;
            Some(out[..len].to_vec())
        }
    }
}

/// The addresses of an ICMP or ICMPv6 error, its type and code, and what it quotes.
fn read(answer: &[u8]) -> (&[u8], &[u8], &[u8], &[u8]) {
    let (source, destination, message) = match answer[0] >> 4 {
        4 => (&answer[12..16], &answer[16..20], &answer[20..]),
        _ => (&answer[8..24], &answer[24..40], &answer[40..]),
    };
    (source, destination, &message[..2], &message[8..])
}

fn a_packet_that_no_peer_may_have_is_answered_from_where_it_went<I: Identity>() {
    let mut world: World<I> = World::connected();
    let lost = packet("10.0.0.1", "10.7.7.7", Ecn::NotEct, b"lost");
    let answer = send(&mut world, A, &lost).expect("an answer");
    assert_eq!(read(&answer), (&[10, 7, 7, 7][..], &[10, 0, 0, 1][..], &[3, 1][..], &lost[..]));

    let lost = packet("fd00::1", "fd07::7", Ecn::NotEct, b"lost");
    let answer = send(&mut world, A, &lost).expect("an answer");
    assert_eq!(read(&answer), (&lost[24..40], &lost[8..24], &[1, 3][..], &lost[..]));
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 2)]);
    assert_eq!(world.nodes[A].count("icmp_unreachable_sent"), 2);
}

fn a_packet_for_a_peer_whose_endpoint_is_unknown_is_answered<I: Identity>() {
    let mut world: World<I> = World::pair(); // B does not know where A is
    let answer = send(&mut world, B, &ping(B, A, 1)).expect("an answer");
    assert_eq!(read(&answer).3, ping(B, A, 1));
    assert_eq!(world.nodes[B].drops(), [("tx_no_endpoint", 1)]);

    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(send(&mut world, B, &ping(B, A, 3)), None, "now it knows");
}

fn what_is_sent_or_waits_is_not_answered<I: Identity>() {
    let mut world: World<I> = World::pair();
    assert_eq!(send(&mut world, A, &ping(A, B, 1)), None, "it waits for the handshake");
    world.settle();
    assert_eq!(send(&mut world, A, &ping(A, B, 2)), None, "it is sealed");
    assert_eq!(send(&mut world, A, &[0x45; 3]), None, "it is no packet");
    assert_eq!(world.nodes[A].count("icmp_unreachable_sent"), 0);
}

fn a_peer_that_is_removed_is_unreachable_at_once<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut peer = world.about(B);
    peer.remove = true;
    world.update(A, peer);
    assert!(send(&mut world, A, &ping(A, B, 1)).is_some());
}

fn answers_are_bounded_and_what_is_not_answered_is_counted<I: Identity>() {
    let mut world: World<I> = World::connected();
    let lost = packet("10.0.0.1", "10.7.7.7", Ecn::NotEct, b"lost");
    let answered = |world: &mut World<I>| (0..100).filter(|_| send(world, A, &lost).is_some()).count();
    assert_eq!(answered(&mut world), 50);
    world.now += Duration::from_millis(10);
    assert_eq!(answered(&mut world), 10);
    world.now += Duration::from_secs(1);

    let group = packet("10.0.0.1", "239.1.1.1", Ecn::NotEct, b"group");
    assert_eq!(send(&mut world, A, &group), None);
    let answer = send(&mut world, A, &lost).unwrap();
    assert_eq!(send(&mut world, A, &answer), None, "its own answer goes nowhere: 10.0.0.1 is no peer's");
    for (name, count) in [
        ("icmp_unreachable_sent", 61),
        ("icmp_silent_rate", 140),
        ("icmp_silent_multicast", 1),
        ("icmp_silent_error", 1),
    ] {
        assert_eq!(world.nodes[A].count(name), count, "{name}");
    }
}

fn without_the_setting_nobody_is_told<I: Identity>() {
    let config = TunnelConfig { icmp_unreachable: false, ..TunnelConfig::default() };
    let mut world: World<I> = World::connected_with(config);
    let lost = packet("10.0.0.1", "10.7.7.7", Ecn::NotEct, b"lost");
    assert_eq!(send(&mut world, A, &lost), None);
    assert_eq!(world.nodes[A].drops(), [("tx_no_route", 1)]);
}
