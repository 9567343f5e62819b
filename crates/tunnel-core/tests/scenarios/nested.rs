//! A tunnel through a tunnel: the datagrams of the inner one are packets of the outer one.

use encrypt::Identity;
use gso_queue::Ecn;
use tunnel_core::Arrival;

use crate::world::{A, B, Datagram, World, on_every_backend, packet, ping, seconds};

on_every_backend! {
    a_tunnel_through_a_tunnel_carries_both_ways_through_renewals,
}

/// The datagrams of the inner tunnel's nodes go through the outer tunnel, and the answers to them, until nobody has anything to say.
fn carry<I: Identity>(inner: &mut World<I>, outer: &mut World<I>) {
    let address = |node: usize| format!("10.0.0.{}", node + 1);
    for _ in 0..8 {
        for (from, to) in [(A, B), (B, A)] {
            for Datagram { bytes, .. } in inner.intercept(from) {
                outer.send(from, &packet(&address(from), &address(to), Ecn::NotEct, &bytes));
            }
            outer.settle();
            for carried in std::mem::take(&mut outer.nodes[to].delivered) {
                inner.arrive(to, &carried[20..], Arrival::from(inner.nodes[from].address));
            }
        }
    }
}

fn a_tunnel_through_a_tunnel_carries_both_ways_through_renewals<I: Identity>() {
    let (mut inner, mut outer): (World<I>, World<I>) = (World::pair(), World::connected());
    for serial in 0..40 {
        for (from, to) in [(A, B), (B, A)] {
            inner.send(from, &ping(from, to, serial));
            carry(&mut inner, &mut outer);
            if (from, serial) != (B, 0) {
                assert_eq!(inner.nodes[to].delivered.last(), Some(&ping(from, to, serial)));
            }
        }
        outer.drive(seconds(10));
        inner.now = outer.now;
        for node in &mut inner.nodes {
            node.tunnel.handle_timeout(inner.now, &mut node.sink);
        }
        carry(&mut inner, &mut outer);
    }
    for world in [&inner, &outer] {
        assert!((4..=5).contains(&world.nodes[A].count("initiations_sent")), "one every two minutes");
        assert_eq!(world.nodes[B].drops(), []);
        assert_eq!(world.nodes[A].drops(), []);
    }
}
