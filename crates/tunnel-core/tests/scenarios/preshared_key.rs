//! A changed pre-shared key ends the session, and nothing that was recorded before works again (paper §5.1).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use encrypt::{Identity, PresharedKey};
use tunnel_core::Arrival;

use crate::world::{A, B, Datagram, Kind, World, kinds, on_every_backend, ping, seconds};

on_every_backend! {
    a_recorded_initiation_stays_refused_when_the_preshared_key_changes,
    peers_agree_again_however_often_the_preshared_key_changed,
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
    world.drive(seconds(6));
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1), ping(A, B, 2)]);
    let all = recorded(&world);
    assert!(all.len() > first.len());
    assert_refused(&mut world, &all);
    set_preshared_key(&mut world, B, A, None);
    assert_refused(&mut world, &all);
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
