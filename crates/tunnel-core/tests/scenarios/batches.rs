//! Batches that are laid out now and sealed later: whatever else happens to their sessions in between.

use std::{collections::BTreeSet, time::Duration};

use encrypt::{DATA_OVERHEAD, INITIATION_LEN, Identity, PrivateKey, REKEY_AFTER_TIME};
use gso_queue::{Ecn, GsoQueue, QueueConfig};
use tunnel_core::{PeerUpdate, Sealing, TunnelConfig};

use crate::world::{A, B, Datagram, Kind, World, add, kinds, on_every_backend, packet, ping};

on_every_backend! {
    a_batch_of_several_peers_and_a_handshake_is_sealed_right,
    a_session_that_is_replaced_while_its_batch_waits_loses_nothing,
}

const C: usize = 2;

/// Takes out what waits, finished, as it leaves `from`.
fn finish<I: Identity>(queue: &mut GsoQueue<Sealing>, world: &World<I>, from: usize) -> Vec<Datagram> {
    let mut datagrams = Vec::new();
    while let Some(batch) = queue.pop() {
        let batch = batch.finish();
        let to = batch.destination();
        let from = world.nodes[from].address;
        datagrams.extend(batch.datagrams().map(|bytes| Datagram { from, to, bytes: bytes.to_vec() }));
        queue.recycle(batch);
    }
    datagrams
}

/// An IPv4 packet that makes a data message as long as an initiation, told apart by `serial`.
fn like_an_initiation(to: usize, serial: u8) -> Vec<u8> {
    let payload = [serial; MTU - 20];
    packet("10.0.0.1", &format!("10.0.0.{}", to + 1), Ecn::NotEct, &payload)
}

/// A full packet is not padded, and 32 bytes longer when it is sealed.
const MTU: usize = INITIATION_LEN - DATA_OVERHEAD;

/// B, C and a peer that does not answer are behind one address.
fn a_batch_of_several_peers_and_a_handshake_is_sealed_right<I: Identity>() {
    let config = TunnelConfig { mtu: MTU, ..TunnelConfig::default() };
    let mut world: World<I> = World::pair_with(config);
    world.add_node(config);
    world.nodes[C].address = world.nodes[B].address;
    let silent = PrivateKey::from_bytes([99; 32]);
    for (key, prefix) in
        [(world.nodes[C].public_key(), "10.0.0.3/32"), (silent.public_key(), "10.0.0.100/32")]
    {
        let mut peer = PeerUpdate::new(key);
        peer.endpoint = Some(world.nodes[B].address);
        peer.allowed_ips = vec![add(prefix)];
        world.update(A, peer);
    }
    let mut a = world.about(A);
    a.allowed_ips = vec![add("10.0.0.1/32")];
    world.update(C, a);
    // The network finds the first node at an address: B is elsewhere while C shakes hands.
    for node in [B, C] {
        world.nodes[B + C - node].unplugged = true;
        world.send(A, &like_an_initiation(node, 0));
        world.settle();
        world.nodes[B + C - node].unplugged = false;
        assert_eq!(world.nodes[node].delivered, [like_an_initiation(node, 0)]);
        world.nodes[node].delivered.clear();
    }
    world.nodes[A].tunnel.forget_sources(|_, _| true);
    world.pause(); // another turn, with a budget of its own

    let mut queue = GsoQueue::new(QueueConfig::DEFAULT);
    let plan = [(B, 1), (B, 2), (C, 3), (99, 4), (B, 5), (C, 6), (C, 7)];
    for (to, serial) in plan {
        let now = world.now;
        let sent = world.nodes[A].tunnel.send(&like_an_initiation(to, serial), now, &mut queue);
        assert!(sent.is_ok());
    }
    assert_eq!(queue.batches(), 1, "one destination, one length");
    let datagrams = finish(&mut queue, &world, A);
    let data = Kind::Data;
    assert_eq!(kinds(&datagrams), [data, data, data, Kind::Initiation, data, data, data]);
    for node in [B, C] {
        for datagram in &datagrams {
            world.arrive(node, &datagram.bytes, datagram.arrival());
        }
    }
    let sent_to = |node| plan.into_iter().filter(move |(to, _)| *to == node);
    for node in [B, C] {
        let expected: Vec<_> = sent_to(node).map(|(_, serial)| like_an_initiation(node, serial)).collect();
        assert_eq!(world.nodes[node].delivered, expected);
    }
    // Whom the initiation is for can read it.
    let silent = I::new(&silent, world.now);
    silent.verify_mac1(&datagrams[3].bytes).expect("it is as it was written");
    let (claimed, _) = silent.claim(&datagrams[3].bytes).expect("it decrypts");
    assert_eq!(claimed, world.nodes[A].public_key());
}

fn a_session_that_is_replaced_while_its_batch_waits_loses_nothing<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut queue = GsoQueue::new(QueueConfig::DEFAULT);
    let lay = |world: &mut World<I>, queue: &mut GsoQueue<Sealing>, serials: std::ops::Range<u32>| {
        for serial in serials {
            let now = world.now;
            world.nodes[A].tunnel.send(&ping(A, B, serial), now, queue).unwrap();
        }
    };
    world.drive(REKEY_AFTER_TIME);
    lay(&mut world, &mut queue, 1..4);
    world.wire.clear();
    world.drive(Duration::from_millis(1));
    assert_eq!(kinds(&world.wire), [Kind::Initiation, Kind::Response, Kind::Keepalive]);
    lay(&mut world, &mut queue, 4..6);

    let datagrams = finish(&mut queue, &world, A);
    let sessions: BTreeSet<_> = datagrams.iter().map(|datagram| datagram.bytes[4..8].to_vec()).collect();
    assert_eq!((datagrams.len(), sessions.len()), (5, 2), "five messages of two sessions");
    for datagram in &datagrams {
        world.arrive(B, &datagram.bytes, datagram.arrival());
    }
    assert_eq!(world.nodes[B].delivered, (1..6).map(|serial| ping(A, B, serial)).collect::<Vec<_>>());
}
