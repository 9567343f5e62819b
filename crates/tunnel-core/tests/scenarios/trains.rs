//! Trains that `UDP_GRO` gives: datagrams of one address, but of whatever session, opened in one go and taken in order.

use encrypt::{DATA_OVERHEAD, INITIATION_LEN, Identity, PrivateKey, transport::TrainOpening};
use gso_queue::Ecn;
use tunnel_core::{Arrival, TunnelConfig, TunnelUpdate};

use crate::{
    native::Simulated,
    world::{A, B, Datagram, Kind, World, add, kinds, on_every_backend, packet, ping, seconds},
};

on_every_backend! {
    a_train_of_two_peers_with_a_handshake_and_garbage_between_is_taken_in_order,
    a_duplicate_inside_a_train_is_dropped,
    the_first_messages_of_a_session_come_in_one_train,
    what_happens_between_the_steps_is_respected,
}

const C: usize = 2;

/// A full packet is not padded, and 32 bytes longer when it is sealed: its datagram is as long as an initiation.
const MTU: usize = INITIATION_LEN - DATA_OVERHEAD;

fn full(from: usize, serial: u8) -> Vec<u8> {
    let payload = [serial; MTU - 20];
    packet(&format!("10.0.0.{}", from + 1), "10.0.0.1", Ecn::NotEct, &payload)
}

/// A receives these as one train.
fn arrive<I: Identity>(
    world: &mut World<I>,
    node: usize,
    datagrams: &[&[u8]],
    from: Arrival,
) -> Vec<Vec<u8>> {
    let mut train = datagrams.concat();
    let stride = datagrams[0].len();
    let now = world.now;
    let mut delivered = Vec::new();
    let node = &mut world.nodes[node];
    let deliver = |packet: &mut [u8]| delivered.push(packet.to_vec());
    node.tunnel.receive_train(&mut train, stride, from, now, &mut node.sink, deliver);
    delivered
}

fn seal<I: Identity>(world: &mut World<I>, node: usize, packet: &[u8]) -> Datagram {
    world.send(node, packet);
    world.intercept(node).remove(0)
}

/// B and C are behind one address. C shakes hands anew in the middle of the train.
fn a_train_of_two_peers_with_a_handshake_and_garbage_between_is_taken_in_order<I: Identity>() {
    let config = TunnelConfig { mtu: MTU, ..TunnelConfig::default() };
    let mut world: World<I> = World::pair_with(config);
    world.add_node(config);
    let mut to_c = world.about(C);
    to_c.allowed_ips = vec![add("10.0.0.3/32")];
    world.update(A, to_c);
    for node in [B, C] {
        let mut to_a = world.about(A);
        to_a.endpoint = Some(world.nodes[A].address);
        to_a.allowed_ips = vec![add("10.0.0.1/32")];
        world.update(node, to_a);
        world.send(node, &full(node, 0));
        world.settle();
    }
    assert_eq!(world.nodes[A].delivered, [full(B, 0), full(C, 0)]);
    let before = world.nodes[A].count("rx_bytes");

    let [b1, b2, b3] = [1, 2, 3].map(|serial| seal(&mut world, B, &full(B, serial)));
    let [c1, c2] = [4, 5].map(|serial| seal(&mut world, C, &full(C, serial)));
    // C loses its session, and begins anew.
    world.now += seconds(6);
    let renew = TunnelUpdate { private_key: Some(None), ..TunnelUpdate::default() };
    world.try_update(C, renew).unwrap();
    let again =
        TunnelUpdate { private_key: Some(Some(world.nodes[C].key.clone())), ..TunnelUpdate::default() };
    world.try_update(C, again).unwrap();
    let initiation = seal(&mut world, C, &full(C, 6));
    assert_eq!((initiation.kind(), initiation.bytes.len()), (Kind::Initiation, INITIATION_LEN));
    let mut forged = b3.bytes.clone();
    forged[99] ^= 1;
    let garbage = [0xa5; INITIATION_LEN];
    let mut nobodys = b1.bytes.clone();
    nobodys[4..8].copy_from_slice(&[0xff; 4]);

    let from = Arrival::from("192.0.2.77:7777".parse().unwrap());
    let train: [&[u8]; 9] = [
        &b1.bytes,
        &c1.bytes,
        &garbage,
        &forged,
        &initiation.bytes,
        &c2.bytes,
        &nobodys,
        &b2.bytes,
        &b3.bytes,
    ];
    let delivered = arrive(&mut world, A, &train, from);
    assert_eq!(delivered, [full(B, 1), full(C, 4), full(C, 5), full(B, 2), full(B, 3)]);
    let drops = [("rx_malformed", 1), ("rx_no_session", 1), ("rx_bad_tag", 1)];
    assert_eq!(world.nodes[A].drops(), drops);
    assert_eq!(world.nodes[A].count("rx_bytes") - before, 6 * INITIATION_LEN as u64);
    assert_eq!(world.peer(A, B).endpoint, Some(from.remote));
    // The answer goes where the train came from, and C's new session works.
    let answer = world.intercept(A);
    assert_eq!(kinds(&answer), [Kind::Response]);
    assert_eq!(answer[0].to.remote, from.remote);
    world.arrive(C, &answer[0].bytes, answer[0].arrival());
    let sent = world.intercept(C);
    assert_eq!(kinds(&sent), [Kind::Keepalive, Kind::Data]);
    let delivered = arrive(&mut world, A, &[&sent[1].bytes, &sent[0].bytes], from);
    assert_eq!(delivered, [full(C, 6)], "and in one train with a shorter one behind it");
}

fn a_duplicate_inside_a_train_is_dropped<I: Identity>() {
    let mut world: World<I> = World::connected();
    let sealed = seal(&mut world, A, &ping(A, B, 1));
    let from = sealed.arrival();
    let delivered = arrive(&mut world, B, &[&sealed.bytes, &sealed.bytes, &sealed.bytes], from);
    assert_eq!(delivered, [ping(A, B, 1)]);
    assert_eq!(world.nodes[B].drops(), [("rx_replay", 2)]);
    assert_eq!(arrive(&mut world, B, &[&sealed.bytes], from), [] as [Vec<u8>; 0]);
}

/// A's first packets and their keepalive come to B together: the first confirms the keys, and what waited at B goes.
fn the_first_messages_of_a_session_come_in_one_train<I: Identity>() {
    let mut world: World<I> = World::pair();
    for serial in 0..3 {
        world.send(A, &ping(A, B, serial));
    }
    let initiation = world.intercept(A).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);
    world.arrive(A, &response.bytes, response.arrival());
    let sent = world.intercept(A);
    assert_eq!(kinds(&sent), [Kind::Keepalive, Kind::Data, Kind::Data, Kind::Data]);
    world.send(B, &ping(B, A, 9));
    assert_eq!(kinds(&world.intercept(B)), [Kind::Initiation], "B may not seal yet");
    assert_eq!(world.peer(B, A).last_handshake, None);
    let train: Vec<&[u8]> = sent[1..].iter().chain(&sent[..1]).map(|datagram| &datagram.bytes[..]).collect();
    let delivered = arrive(&mut world, B, &train, sent[0].arrival());
    assert_eq!(delivered, (0..3).map(|serial| ping(A, B, serial)).collect::<Vec<_>>());
    assert_eq!(world.peer(B, A).last_handshake, Some(world.now));
    assert_eq!(kinds(&world.intercept(B)), [Kind::Data]);
}

/// A train that was opened, and waits to be taken.
fn opened<I: Identity>(world: &mut World<I>, serials: [u32; 2]) -> (Vec<u8>, TrainOpening, Arrival) {
    let sealed = serials.map(|serial| seal(world, A, &ping(A, B, serial)));
    let mut train = sealed.each_ref().map(|datagram| &datagram.bytes[..]).concat();
    let mut opening = TrainOpening::default();
    let now = world.now;
    world.nodes[B].tunnel.prepare(&train, sealed[0].bytes.len(), now, &mut opening);
    opening.run(&mut train);
    (train, opening, Arrival::from("192.0.2.77:7777".parse().unwrap()))
}

fn commit<I: Identity>(
    world: &mut World<I>,
    (train, opening, from): &mut (Vec<u8>, TrainOpening, Arrival),
) -> Option<Vec<u8>> {
    let now = world.now;
    let b = &mut world.nodes[B];
    b.tunnel.commit(train, opening, *from, now, &mut b.sink).map(|packet| packet.to_vec())
}

fn what_happens_between_the_steps_is_respected<I: Identity>() {
    let mut world: World<I> = World::connected();
    let before = world.peer(B, A);
    let mut train = opened(&mut world, [1, 2]);
    assert_eq!(
        format!("{:?}", world.peer(B, A)),
        format!("{before:?}"),
        "nothing is learned before its turn"
    );
    assert_eq!(commit(&mut world, &mut train), Some(ping(A, B, 1)));
    assert_eq!(world.peer(B, A).endpoint, Some("192.0.2.77:7777".parse().unwrap()));
    // The prefix that the packet comes from goes to nobody.
    let mut peer = world.about(A);
    peer.replace_allowed_ips = true;
    world.update(B, peer);
    assert_eq!(commit(&mut world, &mut train), None);
    assert_eq!(commit(&mut world, &mut train), None, "there is no more");
    assert_eq!(world.nodes[B].drops(), [("rx_bad_source", 1)]);

    let mut world: World<I> = World::connected();
    let mut train = opened(&mut world, [1, 2]);
    let mut peer = world.about(A);
    peer.remove = true;
    world.update(B, peer);
    assert_eq!(commit(&mut world, &mut train), None);
    assert_eq!(world.nodes[B].drops(), [("rx_no_session", 1)]);
    let key = TunnelUpdate { private_key: Some(None), ..TunnelUpdate::default() };
    world.try_update(B, key).unwrap();
    assert_eq!(commit(&mut world, &mut train), None);
    assert_eq!(world.nodes[B].drops(), [("rx_no_session", 1), ("rx_no_private_key", 1)]);

    let mut world: World<I> = World::connected();
    let mut train = opened(&mut world, [1, 2]);
    let now = world.now;
    let key = Some(Some(PrivateKey::from_bytes([77; 32])));
    world.try_update(B, TunnelUpdate { private_key: key, ..TunnelUpdate::default() }).unwrap();
    assert_eq!(commit(&mut world, &mut train), None, "sessions of another key");
    world.nodes[B].tunnel.link_down(now);
    assert_eq!(commit(&mut world, &mut train), None);
    assert_eq!(world.nodes[B].drops(), [("rx_no_session", 1), ("rx_link_down", 1)]);
}

/// The kernel of another backend may not lend keys; this one does, or all of the above would say nothing of it.
#[test]
fn the_native_backend_opens_in_advance() {
    let mut world: World<Simulated> = World::connected();
    let sealed = seal(&mut world, A, &ping(A, B, 1));
    let mut opening = TrainOpening::default();
    world.nodes[B].tunnel.prepare(&sealed.bytes, 0, world.now, &mut opening);
    let mut train = sealed.bytes.clone();
    opening.run(&mut train);
    assert!(opening.take_next().expect("one datagram").opened.is_some());
    assert_ne!(train, sealed.bytes);
}
