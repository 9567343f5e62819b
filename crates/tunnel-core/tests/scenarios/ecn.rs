//! Congestion marks cross the tunnel in both directions (RFC 6040).

use encrypt::Identity;
use gso_queue::Ecn;
use tunnel_core::Arrival;

use crate::world::{A, B, World, on_every_backend, ones_complement_sum, packet};

on_every_backend! {
    the_outer_header_carries_the_inner_mark_and_control_messages_none,
    congestion_on_the_way_reaches_the_inner_header,
    congestion_signalled_to_one_who_does_not_listen_passes_unmarked_and_is_counted,
    marks_that_are_not_congestion_leave_a_deaf_packet_alone,
}

const ADDRESSES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

fn the_outer_header_carries_the_inner_mark_and_control_messages_none<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.send(A, &packet("10.0.0.1", "10.0.0.2", Ecn::Ect0, b"waits"));
    assert_eq!(world.nodes[A].sink[0].0.ecn, Ecn::NotEct, "an initiation");
    world.settle();
    assert_eq!(world.wire.last().unwrap().to.ecn, Ecn::Ect0, "a packet that waited");
    for (source, destination) in ADDRESSES {
        for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            world.send(A, &packet(source, destination, ecn, b"mark"));
            assert_eq!(world.intercept(A)[0].to.ecn, ecn);
        }
    }
}

fn congestion_on_the_way_reaches_the_inner_header<I: Identity>() {
    for (source, destination) in ADDRESSES {
        let mut world: World<I> = World::connected();
        for ecn in [Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            world.send(A, &packet(source, destination, ecn, b"mark"));
            let datagram = world.intercept(A).remove(0);
            let marked = Arrival { ecn: Ecn::Ce, ..datagram.arrival() };
            let inner = world.arrive(B, &datagram.bytes, marked).unwrap();
            assert_eq!(inner, packet(source, destination, Ecn::Ce, b"mark"), "nothing else changed");
            if inner[0] >> 4 == 4 {
                assert_eq!(ones_complement_sum(&inner[..20]), 0xffff, "the checksum is right");
            }
        }
        assert_eq!(world.nodes[B].drops(), []);
    }
}

fn congestion_signalled_to_one_who_does_not_listen_passes_unmarked_and_is_counted<I: Identity>() {
    let mut world: World<I> = World::connected();
    for (source, destination) in ADDRESSES {
        let deaf = packet(source, destination, Ecn::NotEct, b"deaf");
        world.send(A, &deaf);
        let datagram = world.intercept(A).remove(0);
        let marked = Arrival { ecn: Ecn::Ce, ..datagram.arrival() };
        assert_eq!(world.arrive(B, &datagram.bytes, marked), Some(deaf));
    }
    assert_eq!(world.nodes[B].drops(), []);
    assert_eq!(world.nodes[B].count("rx_ce_not_ect"), 2);
}

fn marks_that_are_not_congestion_leave_a_deaf_packet_alone<I: Identity>() {
    let mut world: World<I> = World::connected();
    for outer in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1] {
        world.send(A, &packet("10.0.0.1", "10.0.0.2", Ecn::NotEct, b"deaf"));
        let datagram = world.intercept(A).remove(0);
        let inner = world.arrive(B, &datagram.bytes, Arrival { ecn: outer, ..datagram.arrival() });
        assert_eq!(inner, Some(packet("10.0.0.1", "10.0.0.2", Ecn::NotEct, b"deaf")));
    }
}
