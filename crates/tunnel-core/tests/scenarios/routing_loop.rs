//! The route to the endpoint lies inside the tunnel: our own datagrams come back through the TUN.

use std::net::{IpAddr, SocketAddr};

use encrypt::{Identity, PrivateKey};
use tunnel_core::PeerUpdate;

use gso_queue::Ecn;

use crate::world::{A, B, Datagram, Kind, World, add, kinds, on_every_backend, packet, ping, seconds};

on_every_backend! {
    a_datagram_that_comes_back_is_dropped_and_counted,
    its_fragments_are_too,
    it_is_dropped_too_if_it_would_go_to_another_peer,
    what_others_send_to_the_same_endpoint_passes,
    what_waited_for_the_route_to_be_right_arrives,
}

const V4: &str = "192.0.2.2:51820";
const V6: &str = "[2001:db8::2]:51820";

/// A pair of which A sends everything into the tunnel, even what is for B's endpoint.
fn looping<I: Identity>(endpoint: &str) -> World<I> {
    let mut world: World<I> = World::pair();
    world.nodes[B].address = endpoint.parse().unwrap();
    if endpoint == V6 {
        world.nodes[A].address = "[2001:db8::1]:51820".parse().unwrap();
    }
    let mut peer = world.about(B);
    peer.endpoint = Some(world.nodes[B].address);
    peer.allowed_ips = vec![add("0.0.0.0/0"), add("::/0")];
    world.update(A, peer);
    world
}

/// UDP over IP, as the kernel makes it of a datagram.
fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut udp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    udp.extend([(8 + payload.len() as u16).to_be_bytes(), [0; 2]].concat());
    udp.extend(payload);
    ip(from.ip(), to.ip(), &udp, None)
}

/// `fragment` is the offset in bytes, and whether more follow.
fn ip(from: IpAddr, to: IpAddr, payload: &[u8], fragment: Option<(usize, bool)>) -> Vec<u8> {
    let (offset, more) = fragment.unwrap_or_default();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let flags = (offset / 8) as u16 | u16::from(more) << 13;
            let mut packet = vec![0x45, 0];
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend([0x12, 0x34]);
            packet.extend(flags.to_be_bytes());
            packet.extend([64, 17, 0, 0]);
            packet.extend([from.octets(), to.octets()].concat());
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = match fragment {
                None => Vec::new(),
                Some(_) => {
                    let field = offset as u16 | u16::from(more);
                    [&[17, 0][..], &field.to_be_bytes(), &[0, 0, 0x12, 0x34]].concat()
                }
            };
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(((header.len() + payload.len()) as u16).to_be_bytes());
            packet.extend([if fragment.is_some() { 44 } else { 17 }, 64]);
            packet.extend([from.octets(), to.octets()].concat());
            packet.extend(header);
            packet.extend(payload);
            packet
        }
        _ => panic!("one family"),
    }
}

/// Everything that A sends comes back to it.
fn loop_back<I: Identity>(world: &mut World<I>) -> Vec<Datagram> {
    let sent = world.intercept(A);
    for datagram in &sent {
        let packet = udp(datagram.from, datagram.to.remote, &datagram.bytes);
        world.send(A, &packet);
        assert_eq!(world.intercept(A), [], "{datagram:?}");
    }
    sent
}

/// Loops A's initiation back, and delivers it all the same; gives the data message with a ping in it.
fn connect<I: Identity>(world: &mut World<I>) -> Datagram {
    world.send(A, &ping(A, B, 1));
    let initiation = loop_back(world).remove(0);
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);
    world.arrive(A, &response.bytes, response.arrival());
    let sent = loop_back(world);
    assert_eq!(kinds(&sent), [Kind::Keepalive, Kind::Data], "what waited, and nothing else");
    sent[1].clone()
}

fn a_datagram_that_comes_back_is_dropped_and_counted<I: Identity>() {
    for endpoint in [V4, V6] {
        let mut world: World<I> = looping(endpoint);
        connect(&mut world);
        for serial in 0..20 {
            world.send(A, &ping(A, B, serial));
            assert_eq!(kinds(&loop_back(&mut world)), [Kind::Data]);
        }
        assert_eq!(world.nodes[A].drops(), [("tx_loop", 23)]);
    }
}

fn its_fragments_are_too<I: Identity>() {
    for endpoint in [V4, V6] {
        let mut world: World<I> = looping(endpoint);
        let data = connect(&mut world);
        let packet = udp(data.from, data.to.remote, &data.bytes);
        let payload = &packet[packet.len() - data.bytes.len() - 8..];
        let (from, to) = (data.from.ip(), data.to.remote.ip());
        let first = ip(from, to, &payload[..16], Some((0, true)));
        let later = ip(from, to, &payload[16..], Some((16, false)));
        // Of somebody else's datagram: these have the same identification, since there is but one here.
        world.send(A, &later);
        assert_eq!(kinds(&world.intercept(A)), [Kind::Data]);
        let before = world.nodes[A].count("tx_loop");
        for fragment in [&first, &later] {
            world.send(A, fragment);
            assert_eq!(world.intercept(A), []);
        }
        assert_eq!(world.nodes[A].count("tx_loop"), before + 2);
    }
}

/// The endpoints of two peers lie in each other's allowed IPs, so that a datagram would go round between them for ever.
fn it_is_dropped_too_if_it_would_go_to_another_peer<I: Identity>() {
    let mut world: World<I> = looping(V4);
    let mut other = PeerUpdate::new(PrivateKey::from_bytes([7; 32]).public_key());
    other.endpoint = Some("10.0.0.77:51820".parse().unwrap());
    other.allowed_ips = vec![add("192.0.2.0/24")];
    world.update(A, other);
    let data = connect(&mut world);
    let fragment = |payload: &[u8], at| ip(data.from.ip(), data.to.remote.ip(), payload, Some(at));
    for came_back in [
        fragment(&udp(data.from, data.to.remote, &data.bytes)[20..60], (0, true)),
        fragment(&[0; 8], (40, false)),
    ] {
        world.send(A, &came_back);
        assert_eq!(world.intercept(A), []);
    }
    assert_eq!(world.nodes[A].drops(), [("tx_loop", 5)]);

    // The other peer's initiation comes back, too, and would go to B.
    world.send(A, &packet("10.0.0.1", "192.0.2.9", Ecn::NotEct, b"for the other"));
    let sent = loop_back(&mut world);
    assert_eq!(kinds(&sent), [Kind::Initiation]);
    let came_back = udp(sent[0].from, sent[0].to.remote, &sent[0].bytes);
    let mut moved = PeerUpdate::new(PrivateKey::from_bytes([7; 32]).public_key());
    moved.endpoint = Some("10.0.0.78:51820".parse().unwrap());
    world.update(A, moved);
    world.send(A, &came_back);
    assert_eq!(kinds(&world.intercept(A)), [Kind::Data], "an endpoint that was left is nobody's");
}

fn what_others_send_to_the_same_endpoint_passes<I: Identity>() {
    for endpoint in [V4, V6] {
        let mut world: World<I> = looping(endpoint);
        let data = connect(&mut world);
        let (from, to) = (data.from, data.to.remote);
        let elsewhere = SocketAddr::new(to.ip(), to.port() + 1);
        let mut other_session = data.bytes.clone();
        other_session[4] ^= 1;
        let others = [
            udp(from, to, &other_session),
            udp(from, elsewhere, &data.bytes),
            udp(from, to, b"DNS, say"),
            udp(from, to, b""),
            udp(from, to, &[0; 64]),
            ip(from.ip(), to.ip(), b"short", None),
        ];
        for packet in others {
            world.send(A, &packet);
            let sent = world.intercept(A);
            assert_eq!(kinds(&sent), [Kind::Data], "{packet:?}");
        }
        assert_eq!(world.nodes[A].count("tx_loop"), 3, "those of the handshake");
    }
}

fn what_waited_for_the_route_to_be_right_arrives<I: Identity>() {
    let mut world: World<I> = looping(V4);
    world.send(A, &ping(A, B, 1));
    loop_back(&mut world);
    world.now += seconds(6);
    let node = &mut world.nodes[A];
    node.tunnel.handle_timeout(world.now, &mut node.sink);
    assert_eq!(kinds(&loop_back(&mut world)), [Kind::Initiation], "a retry");
    world.drive(seconds(6));
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 1)], "not one of our own datagrams among them");
}
