//! A peer's endpoint is wherever its last authenticated datagram came from.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use encrypt::Identity;
use gso_queue::Destination;
use tunnel_core::Arrival;

use crate::world::{A, B, Kind, World, on_every_backend, ping, seconds};

on_every_backend! {
    traffic_follows_a_peer_that_moves,
    traffic_follows_a_peer_to_the_other_family_and_back,
    a_handshake_moves_the_endpoint_too_and_is_answered_where_it_came_from,
    only_authenticated_datagrams_move_the_endpoint,
    replies_leave_from_the_address_that_was_spoken_to,
    a_source_that_went_away_is_forgotten_for_that_destination_only,
    a_configured_endpoint_replaces_the_learned_one_and_its_source,
    an_endpoint_that_is_set_to_what_it_is_forgets_its_source,
    initiations_to_a_silent_peer_leave_from_any_source_until_it_answers,
    a_session_that_is_only_renewed_keeps_its_source,
    sources_that_routes_have_left_are_forgotten_and_no_others,
}

const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)), 4000);

fn traffic_follows_a_peer_that_moves<I: Identity>() {
    let mut world: World<I> = World::connected();
    world.nodes[A].address = ELSEWHERE;
    world.send(B, &ping(B, A, 1));
    world.settle();
    assert!(world.nodes[A].delivered.is_empty(), "still sent to the old address");
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.peer(B, A).endpoint, Some(ELSEWHERE));
    world.send(B, &ping(B, A, 3));
    world.settle();
    assert_eq!(world.nodes[A].delivered, [ping(B, A, 3)]);
    assert_eq!(world.nodes[B].count("endpoints_learned"), 2, "at the handshake, and now");
}

fn traffic_follows_a_peer_to_the_other_family_and_back<I: Identity>() {
    let mut world: World<I> = World::connected();
    let home = world.nodes[A].address;
    let v6: SocketAddr = "[2001:db8::7]:4000".parse().unwrap();
    for (serial, address) in [(1, v6), (2, home), (3, v6)] {
        // A's datagrams come from there, and B's go there.
        world.send(A, &ping(A, B, serial));
        let datagram = world.intercept(A).remove(0);
        assert!(world.arrive(B, &datagram.bytes, Arrival::from(address)).is_some());
        world.send(B, &ping(B, A, serial));
        let answer = world.intercept(B).remove(0);
        assert_eq!(
            (answer.to.remote, answer.to.local),
            (address, None),
            "no source of the other family is kept"
        );
        assert!(world.arrive(A, &answer.bytes, answer.arrival()).is_some());
        assert_eq!(world.peer(B, A).endpoint, Some(address));
    }
}

fn a_handshake_moves_the_endpoint_too_and_is_answered_where_it_came_from<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, Arrival::from(ELSEWHERE));
    assert_eq!(world.intercept(B)[0].to.remote, ELSEWHERE);
    assert_eq!(world.peer(B, A).endpoint, Some(ELSEWHERE));
}

fn only_authenticated_datagrams_move_the_endpoint<I: Identity>() {
    let mut world: World<I> = World::connected();
    let before = world.peer(B, A).endpoint;
    world.send(A, &ping(A, B, 1));
    let genuine = world.intercept(A).remove(0);
    let mut forged = genuine.clone();
    *forged.bytes.last_mut().unwrap() ^= 1;
    world.arrive(B, &forged.bytes, Arrival::from(ELSEWHERE));
    world.arrive(B, &genuine.bytes, genuine.arrival());
    world.arrive(B, &genuine.bytes, Arrival::from(ELSEWHERE));
    assert_eq!(world.peer(B, A).endpoint, before, "neither forged nor replayed datagrams move it");
    assert_eq!(world.nodes[B].drops(), [("rx_bad_tag", 1), ("rx_replay", 1)]);
}

fn replies_leave_from_the_address_that_was_spoken_to<I: Identity>() {
    let mut world: World<I> = World::connected();
    let second: IpAddr = "192.0.2.99".parse().unwrap();
    world.send(A, &ping(A, B, 1));
    let datagram = world.intercept(A).remove(0);
    world.arrive(B, &datagram.bytes, Arrival { local: Some(second), ..datagram.arrival() });
    world.send(B, &ping(B, A, 2));
    assert_eq!(world.intercept(B)[0].to.local, Some(second));

    world.send(A, &ping(A, B, 3));
    let datagram = world.intercept(A).remove(0);
    let to_everyone = Arrival { local: Some("255.255.255.255".parse().unwrap()), ..datagram.arrival() };
    world.arrive(B, &datagram.bytes, to_everyone);
    world.send(B, &ping(B, A, 4));
    assert_eq!(world.intercept(B)[0].to.local, None, "nobody can send from a broadcast address");
}

fn a_source_that_went_away_is_forgotten_for_that_destination_only<I: Identity>() {
    let mut world: World<I> = World::connected();
    world.send(B, &ping(B, A, 1));
    let pinned = world.intercept(B)[0].to;
    assert!(pinned.local.is_some());
    world.nodes[B].tunnel.forget_source(Destination { local: Some(ELSEWHERE.ip()), ..pinned });
    world.send(B, &ping(B, A, 2));
    assert_eq!(world.intercept(B)[0].to, pinned, "another source of the same peer");
    world.nodes[B].tunnel.forget_source(pinned);
    world.send(B, &ping(B, A, 3));
    assert_eq!(world.intercept(B)[0].to, Destination { local: None, ..pinned });
}

fn a_configured_endpoint_replaces_the_learned_one_and_its_source<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut peer = world.about(A);
    peer.endpoint = Some(ELSEWHERE);
    world.update(B, peer);
    world.send(B, &ping(B, A, 1));
    assert_eq!(world.intercept(B)[0].to, Destination::new(ELSEWHERE));
}

fn an_endpoint_that_is_set_to_what_it_is_forgets_its_source<I: Identity>() {
    let mut world: World<I> = World::connected();
    let before = world.peer(B, A);
    assert!(before.source.is_some());
    let mut peer = world.about(A);
    peer.endpoint = before.endpoint;
    world.update(B, peer);
    assert_eq!(world.peer(B, A).source, None);
    world.send(B, &ping(B, A, 1));
    assert_eq!(world.intercept(B)[0].to, Destination::new(before.endpoint.unwrap()));
}

/// Where A's initiations left from so far.
fn sources_of_initiations<I: Identity>(world: &World<I>) -> Vec<Option<IpAddr>> {
    let initiations = world
        .wire
        .iter()
        .filter(|sent| sent.from == world.nodes[A].address && sent.kind() == Kind::Initiation);
    initiations.map(|sent| sent.to.local).collect()
}

fn initiations_to_a_silent_peer_leave_from_any_source_until_it_answers<I: Identity>() {
    let mut world: World<I> = World::connected();
    assert!(world.peer(A, B).source.is_some());
    world.nodes[B].unplugged = true;
    world.send(A, &ping(A, B, 1));
    world.drive(seconds(40));
    let sources = sources_of_initiations(&world);
    assert!(sources.len() > 3 && sources.iter().all(Option::is_none), "{sources:?}");
    assert_eq!(world.peer(A, B).source, None);

    world.nodes[B].unplugged = false;
    world.drive(seconds(10));
    assert!(world.peer(A, B).source.is_some(), "what the answer came to");
}

fn a_session_that_is_only_renewed_keeps_its_source<I: Identity>() {
    let mut world: World<I> = World::connected();
    let source = world.peer(A, B).source;
    for n in 0..300 {
        world.send(A, &ping(A, B, n));
        world.send(B, &ping(B, A, n));
        world.drive(Duration::from_secs(1));
    }
    let sources = sources_of_initiations(&world);
    assert!(!sources.is_empty() && sources.iter().all(|from| *from == source), "{sources:?}");
}

fn sources_that_routes_have_left_are_forgotten_and_no_others<I: Identity>() {
    let mut world: World<I> = World::connected();
    let a = world.nodes[A].address;
    let before = world.nodes[B].address.ip();
    let node = &mut world.nodes[B].tunnel;
    assert_eq!(node.pinned_sources().collect::<Vec<_>>(), [(a, before)]);
    node.forget_sources(|remote, source| remote != a || source != before);
    assert_eq!(world.peer(B, A).source, Some(before));
    world.nodes[B].tunnel.forget_sources(|remote, source| remote == a && source == before);
    assert_eq!(world.peer(B, A).source, None);
}
