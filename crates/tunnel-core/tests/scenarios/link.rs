//! The interface is set down and up.

use encrypt::Identity;
use tunnel_core::TunnelUpdate;

use crate::{
    probe::ProbeIdentity,
    world::{A, B, Kind, World, kinds, on_every_backend, ping, seconds},
};

on_every_backend![
    set_down_it_is_silent_and_set_up_it_works_again,
    recorded_initiations_stay_refused,
    an_initiation_that_arrives_while_it_is_down_is_not_answered,
    a_response_that_arrives_while_it_is_down_is_not_confirmed,
];

fn set_keepalive<I: Identity>(world: &mut World<I>, interval: u16) {
    let mut peer = world.about(B);
    peer.persistent_keepalive = Some(interval);
    world.update(A, peer);
}

fn link_down<I: Identity>(world: &mut World<I>) {
    let now = world.now;
    world.nodes[A].tunnel.link_down(now);
}

fn link_up<I: Identity>(world: &mut World<I>) {
    let now = world.now;
    let node = &mut world.nodes[A];
    node.tunnel.link_up(now, &mut node.sink);
}

fn set_down_it_is_silent_and_set_up_it_works_again<I: Identity>() {
    let mut world: World<I> = World::connected();
    set_keepalive(&mut world, 5);
    world.settle();
    let before = world.peer(A, B);
    let handshake = before.last_handshake;

    link_down(&mut world);
    world.wire.clear();
    assert_eq!(world.nodes[A].tunnel.poll_timeout(), None, "nothing is due");
    world.send(B, &ping(B, A, 1));
    world.send(A, &ping(A, B, 2));
    world.drive(seconds(60));
    assert_eq!(world.sent_by(A), [], "keepalives, handshakes and answers have ended");
    assert_eq!(world.nodes[A].count("tx_link_down"), 1);
    assert!(world.nodes[A].count("rx_link_down") > 1, "data, and initiations");
    let down = world.peer(A, B);
    assert_eq!((down.endpoint, down.last_handshake), (before.endpoint, handshake), "nothing is forgotten");
    assert_eq!((down.tx_bytes, down.rx_bytes), (before.tx_bytes, before.rx_bytes));

    world.wire.clear();
    link_up(&mut world);
    link_up(&mut world);
    world.settle();
    assert_eq!(kinds(&world.wire)[..3], [Kind::Initiation, Kind::Response, Kind::Keepalive], "its keepalive");
    world.nodes[B].delivered.clear();
    world.send(A, &ping(A, B, 3));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 3)]);
    assert!(world.peer(A, B).last_handshake > handshake);
}

fn recorded_initiations_stay_refused<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 0));
    let recorded = world.intercept(A).remove(0);
    let from = tunnel_core::Arrival::from(recorded.from);
    world.arrive(B, &recorded.bytes, from);
    let now = world.now;
    world.nodes[B].tunnel.link_down(now);
    let node = &mut world.nodes[B];
    node.sink.clear();
    node.tunnel.link_up(now, &mut node.sink);
    world.pause();
    world.arrive(B, &recorded.bytes, from);
    assert_eq!(world.nodes[B].sink, []);
    assert_eq!(world.nodes[B].count("rx_replayed_handshake"), 1);
}

fn an_initiation_that_arrives_while_it_is_down_is_not_answered<I: Identity>() {
    let mut world: World<I> = World::pair();
    let now = world.now;
    world.nodes[B].tunnel.link_down(now);
    world.send(A, &ping(A, B, 0));
    world.drive(seconds(20));
    assert_eq!(world.sent_by(B), []);
    let endpoint = world.peer(B, A).endpoint;
    assert_eq!(endpoint, None, "nor learned from");
}

fn a_response_that_arrives_while_it_is_down_is_not_confirmed<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 0));
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);
    link_down(&mut world);
    world.arrive(A, &response.bytes, response.arrival());
    link_up(&mut world);
    world.arrive(A, &response.bytes, response.arrival());
    assert_eq!(world.intercept(A), [], "nor when it comes after the interface went down and up");
    assert_eq!(world.peer(A, B).last_handshake, None);
    assert_eq!(world.nodes[A].drops(), [("tx_link_down", 1), ("rx_no_session", 1), ("rx_link_down", 1)]);
}

#[test]
fn what_waits_for_a_handshake_goes_with_the_link() {
    let mut world: World<ProbeIdentity> = World::pair();
    world.send(A, &ping(A, B, 1));
    world.intercept(A);
    link_down(&mut world);
    assert_eq!(world.nodes[A].drops(), [("tx_link_down", 1)]);
    link_up(&mut world);
    world.drive(seconds(100));
    assert_eq!(world.sent_by(A), [], "nobody has anything to say");
}

#[test]
fn what_is_configured_while_it_is_down_begins_when_it_is_up() {
    let mut world: World<ProbeIdentity> = World::pair();
    link_down(&mut world);
    set_keepalive(&mut world, 25);
    let key = Some(Some(world.nodes[A].key.clone()));
    let update = TunnelUpdate { private_key: key, ..TunnelUpdate::default() };
    world.try_update(A, update).unwrap();
    world.drive(seconds(30));
    assert_eq!(world.sent_by(A), []);
    link_up(&mut world);
    world.settle();
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive]);
}
