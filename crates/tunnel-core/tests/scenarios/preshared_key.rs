//! A changed pre-shared key is for the next handshake: the session goes on (as in the kernel), and nothing that was
//! recorded before works again (paper §5.1).

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use encrypt::{Identity, PresharedKey, REJECT_AFTER_TIME, REKEY_AFTER_TIME};
use tunnel_core::Arrival;

use crate::{
    netem::Random,
    world::{A, B, Datagram, Kind, World, kinds, on_every_backend, ping, seconds},
};

on_every_backend! {
    a_recorded_initiation_stays_refused_when_the_preshared_key_changes,
    peers_agree_again_however_often_the_preshared_key_changed,
    no_packet_is_lost_while_both_ends_change_the_preshared_key,
    no_packet_is_lost_under_a_key_that_rotates_every_two_minutes,
    a_key_that_only_one_end_has_lets_the_session_live_to_its_end_and_no_longer,
    the_preshared_key_that_is_set_already_changes_nothing,
}

const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 4000);

fn set_preshared_key<I: Identity>(world: &mut World<I>, node: usize, other: usize, key: Option<[u8; 32]>) {
    let mut peer = world.about(other);
    peer.preshared_key = Some(key.map(PresharedKey::from_bytes));
    world.update(node, peer);
}

/// The initiations that A has sent so far.
fn recorded<I: Identity>(world: &World<I>) -> Vec<Datagram> {
    let from_a = |datagram: &&Datagram| datagram.from == world.nodes[A].address;
    let sent = world.wire.iter().filter(from_a).filter(|datagram| datagram.kind() == Kind::Initiation);
    sent.cloned().collect()
}

/// What B makes of these initiations, sent again from elsewhere: nothing.
fn assert_refused<I: Identity>(world: &mut World<I>, initiations: &[Datagram]) {
    let before = world.nodes[B].count("rx_replayed_handshake");
    for initiation in initiations {
        world.pause();
        world.arrive(B, &initiation.bytes, Arrival::from(ELSEWHERE));
    }
    assert_eq!(kinds(&world.intercept(B)), [], "no answer");
    assert_eq!(world.nodes[B].count("rx_replayed_handshake") - before, initiations.len() as u64);
    assert_eq!(world.peer(B, A).endpoint, Some(world.nodes[A].address), "and B did not follow them");
}

fn a_recorded_initiation_stays_refused_when_the_preshared_key_changes<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    world.settle();
    let first = recorded(&world);
    assert_refused(&mut world, &first);
    for key in [Some([1; 32]), None, Some([2; 32]), Some([3; 32])] {
        set_preshared_key(&mut world, B, A, key);
        assert_refused(&mut world, &first);
    }

    // A comes with the new key: what it sent until then is refused too, now and after the next change.
    set_preshared_key(&mut world, A, B, Some([3; 32]));
    world.drive(REJECT_AFTER_TIME);
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1), ping(A, B, 2)]);
    let all = recorded(&world);
    assert!(all.len() > first.len());
    assert_refused(&mut world, &all);
    set_preshared_key(&mut world, B, A, None);
    assert_refused(&mut world, &all);
}

/// Packets both ways, ten a second; every one arrives.
fn exchange_for<I: Identity>(world: &mut World<I>, duration: Duration) {
    let end = world.now + duration;
    while world.now < end {
        let serial = world.nodes[B].delivered.len() as u32;
        for (from, to) in [(A, B), (B, A)] {
            let before = world.nodes[to].delivered.len();
            world.send(from, &ping(from, to, serial));
            world.settle();
            assert_eq!(world.nodes[to].delivered.len(), before + 1, "to {to}: {:?}", world.nodes[to].drops());
        }
        world.drive(Duration::from_millis(100));
    }
}

fn no_packet_is_lost_while_both_ends_change_the_preshared_key<I: Identity>() {
    for order in [[(A, B), (B, A)], [(B, A), (A, B)]] {
        let mut world: World<I> = World::connected();
        let first = world.peer(A, B).last_handshake;
        for (node, other) in order {
            exchange_for(&mut world, seconds(1));
            set_preshared_key(&mut world, node, other, Some([1; 32]));
            exchange_for(&mut world, seconds(1));
        }
        assert!(
            kinds(&world.wire).iter().all(|kind| *kind == Kind::Data),
            "and no handshake was made for it"
        );
        assert_eq!(world.peer(A, B).last_handshake, first);

        exchange_for(&mut world, REKEY_AFTER_TIME);
        let renewed = world.peer(A, B).last_handshake;
        assert!(renewed > first, "the next handshake is the usual one");
        // It used the key: who has another completes none.
        set_preshared_key(&mut world, B, A, None);
        exchange_for(&mut world, REKEY_AFTER_TIME + seconds(30));
        assert_eq!(world.peer(A, B).last_handshake, renewed);
        assert_eq!(world.peer(B, A).last_handshake, renewed);
        assert!(world.nodes[A].count("rx_bad_handshake") > 0);
    }
}

/// As by Rosenpass: both ends change within a second, anywhere in the life of a session.
fn no_packet_is_lost_under_a_key_that_rotates_every_two_minutes<I: Identity>() {
    for seed in 0..2 {
        let mut random = Random(seed);
        let mut world: World<I> = World::connected();
        world.network.delay = Duration::from_millis(100); // two of each are always on their way
        let mut serial = 0;
        let mut send_for = |world: &mut World<I>, duration: Duration| {
            let end = world.now + duration;
            while world.now < end {
                serial += 1;
                world.send(A, &ping(A, B, serial));
                world.send(B, &ping(B, A, serial));
                world.drive(Duration::from_millis(47));
            }
            serial
        };
        let mut sent = 0;
        for key in 1..=12 {
            let (first, second) = if random.below(2) == 0 { (A, B) } else { (B, A) };
            set_preshared_key(&mut world, first, second, Some([key; 32]));
            send_for(&mut world, Duration::from_millis(random.below(1000)));
            set_preshared_key(&mut world, second, first, Some([key; 32]));
            sent = send_for(&mut world, Duration::from_millis(119_500 + random.below(500)));
        }
        world.drive(seconds(1));
        for node in [A, B] {
            assert_eq!(
                world.nodes[node].delivered.len(),
                sent as usize,
                "seed {seed}: {:?}",
                world.nodes[node].drops()
            );
        }
        assert!(
            world.nodes[A].count("responses_received") + world.nodes[B].count("responses_received") >= 11
        );
    }
}

fn a_key_that_only_one_end_has_lets_the_session_live_to_its_end_and_no_longer<I: Identity>() {
    for (with, without) in [(A, B), (B, A)] {
        let mut world: World<I> = World::connected();
        let (began, handshake) = (world.now, world.peer(with, without).last_handshake);
        set_preshared_key(&mut world, with, without, Some([1; 32]));
        exchange_for(&mut world, REJECT_AFTER_TIME - seconds(1));

        world.now = began + REJECT_AFTER_TIME;
        let before = [A, B].map(|node| world.nodes[node].delivered.len());
        world.send(A, &ping(A, B, 1));
        world.send(B, &ping(B, A, 1));
        world.drive(seconds(60));
        assert_eq!([A, B].map(|node| world.nodes[node].delivered.len()), before);
        assert_eq!(world.peer(with, without).last_handshake, handshake, "none was completed");

        set_preshared_key(&mut world, without, with, Some([1; 32]));
        world.drive(seconds(6));
        exchange_for(&mut world, seconds(1));
    }
}

fn the_preshared_key_that_is_set_already_changes_nothing<I: Identity>() {
    let mut world: World<I> = World::pair();
    for (node, other) in [(A, B), (B, A)] {
        set_preshared_key(&mut world, node, other, Some([1; 32]));
    }
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    // A handshake is under way: the same key does not start it again.
    set_preshared_key(&mut world, A, B, Some([1; 32]));
    assert_eq!(world.intercept(A), []);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    set_preshared_key(&mut world, B, A, Some([1; 32]));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)]);
}

fn peers_agree_again_however_often_the_preshared_key_changed<I: Identity>() {
    let mut world: World<I> = World::connected();
    for round in 1..10 {
        // Some of the changes come before any handshake with the one before.
        let key = (round % 4 != 0).then_some([round; 32]);
        for (node, other) in [(A, B), (B, A)] {
            set_preshared_key(&mut world, node, other, key);
        }
        if round % 3 == 0 {
            let (from, to) = if round % 2 == 0 { (A, B) } else { (B, A) };
            world.send(from, &ping(from, to, round.into()));
            world.drive(seconds(6));
            assert_eq!(world.nodes[to].delivered.last(), Some(&ping(from, to, round.into())), "{round}");
        }
    }
}
