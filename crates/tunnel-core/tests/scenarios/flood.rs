//! Floods and crowds: handshakes have a budget in each turn, and what is over waits.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use encrypt::{Identity, PrivateKey, deterministic::InsecureIdentity};
use gso_queue::Destination;
use tunnel_core::{Arrival, PeerUpdate, Tunnel, TunnelConfig, TunnelUpdate};

use crate::{
    native::Simulated,
    world::{A, B, Kind, Node, START, World, add, on_every_backend, ping, seconds},
};

on_every_backend! {
    a_second_initiation_within_20_ms_is_refused,
    a_crowd_behind_one_address_is_answered_without_cookies,
    proven_strangers_are_stopped_before_any_diffie_hellman,
    a_response_to_our_initiation_needs_no_cookie_under_load,
}

/// Between two turns of a loop.
const TURN: Duration = Duration::from_micros(300);

fn key(n: u32) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    PrivateKey::from_bytes(bytes)
}

/// Many of one address, each on a port of its own.
fn behind_one_address(n: u32) -> SocketAddr {
    ([203, 0, 113, 1], u16::try_from(n).unwrap()).into()
}

fn everywhere(n: u32) -> SocketAddr {
    (n.to_be_bytes(), 51820).into()
}

/// A tunnel whose only peer is the server.
struct Client<I: Identity> {
    tunnel: Tunnel<I>,
    address: SocketAddr,
    sink: Vec<(Destination, Vec<u8>)>,
}

impl<I: Identity> Client<I> {
    fn new(n: u32, address: SocketAddr, server: &Node<I>) -> Self {
        let mut peer = PeerUpdate::new(server.public_key());
        peer.endpoint = Some(server.address);
        peer.allowed_ips = vec![add("10.0.0.2/32")];
        let update =
            TunnelUpdate { private_key: Some(Some(key(n))), peers: vec![peer], ..TunnelUpdate::default() };
        let mut client = Self { tunnel: Tunnel::new(TunnelConfig::default()), address, sink: Vec::new() };
        client.tunnel.update(update, *START, &mut client.sink).unwrap();
        client
    }

    /// What it sends when it wants to send something.
    fn initiation(&mut self, now: Instant) -> Vec<u8> {
        self.tunnel.send(&ping(A, B, 0), now, &mut self.sink).unwrap();
        self.sink.pop().expect("an initiation").1
    }

    /// It hears an answer; gives what it says to it.
    fn hear(&mut self, from: SocketAddr, answer: &[u8], now: Instant) -> Option<Vec<u8>> {
        let answer = &mut answer.to_vec();
        self.tunnel.receive(answer, Arrival::from(from), now, &mut self.sink);
        self.sink.pop().map(|(_, datagram)| datagram)
    }
}

/// The server of the others: B of a pair, with a peer for each of so many keys.
fn server<I: Identity>(peers: u32) -> World<I> {
    let mut world: World<I> = World::pair();
    let peers = (0..peers).map(|n| PeerUpdate::new(key(n).public_key())).collect();
    world.try_update(B, TunnelUpdate { peers, ..TunnelUpdate::default() }).unwrap();
    world.turns();
    world.turn();
    world
}

impl<I: Identity> World<I> {
    /// The server works through another turn.
    fn turn(&mut self) {
        self.now += TURN;
        let b = &mut self.nodes[B];
        if b.tunnel.poll_timeout().is_some_and(|at| at <= self.now) {
            b.tunnel.handle_timeout(self.now, &mut b.sink);
        }
    }

    /// … through all that waits.
    fn turns(&mut self) -> usize {
        let soon =
            |world: &Self| world.nodes[B].tunnel.poll_timeout().is_some_and(|at| at <= world.now + TURN);
        let mut turns = 0;
        while soon(self) {
            self.turn();
            turns += 1;
            assert!(turns < 100_000, "it never comes to an end");
        }
        turns
    }

    /// Has the server flooded until it is under load.
    fn flood(&mut self, message: &[u8], count: u32) {
        for n in 0..count {
            self.arrive(B, message, Arrival::from(everywhere(n)));
        }
    }
}

/// An initiation whose mac1 holds, and whose key is nobody's.
fn strangers<I: Identity>(world: &World<I>) -> Vec<u8> {
    Client::new(1_000_000, everywhere(1), &world.nodes[B]).initiation(world.now)
}

fn a_second_initiation_within_20_ms_is_refused<I: Identity>() {
    let mut world: World<I> = server(1);
    let from = Arrival::from(everywhere(1));
    let mut initiations = Vec::new();
    for millis in [0, 1000, 2000] {
        // Each has a newer timestamp: the same client, started again.
        let mut client = Client::new(0, everywhere(1), &world.nodes[B]);
        initiations.push(client.initiation(world.now + Duration::from_millis(millis)));
        std::thread::sleep(Duration::from_millis(if cfg!(miri) { 0 } else { 40 })); // boringtun has a clock of its own
    }
    world.arrive(B, &initiations[0], from);
    world.now += Duration::from_millis(19);
    world.arrive(B, &initiations[1], from);
    assert_eq!(world.nodes[B].drops(), [("rx_handshake_too_soon", 1)]);
    world.now += Duration::from_millis(1);
    world.arrive(B, &initiations[2], from);
    assert_eq!(world.nodes[B].count("responses_sent"), 2);
}

fn a_crowd_behind_one_address_is_answered_without_cookies<I: Identity>() {
    const CROWD: u32 = 1000;
    let mut world: World<I> = server(CROWD);
    let mut clients: Vec<Client<I>> =
        (0..CROWD).map(|n| Client::new(n, behind_one_address(1 + n), &world.nodes[B])).collect();
    for client in &mut clients {
        let initiation = client.initiation(world.now);
        world.arrive(B, &initiation, Arrival::from(client.address));
    }
    let in_the_first_turn = world.nodes[B].count("responses_sent");
    assert!((1..=2).contains(&in_the_first_turn), "{in_the_first_turn}");
    let turns = world.turns();
    assert!(turns <= 1000, "{turns} turns of {TURN:?}");
    assert_eq!(world.nodes[B].count("responses_sent"), u64::from(CROWD));
    assert_eq!(world.nodes[B].count("cookies_sent"), 0);
    assert_eq!(world.nodes[B].drops(), []);
}

#[test]
fn a_flood_gets_cookies_only_past_a_quarter_of_the_backlog() {
    let mut world: World<InsecureIdentity> = server(0);
    let message = strangers(&world);
    world.flood(&message, 1000);
    world.turns();
    assert_eq!(world.nodes[B].drops(), [("rx_unknown_peer", 1000)], "no cookie for a thousand");

    world.flood(&message, 20_000);
    let computed = world.nodes[B].count("rx_unknown_peer") - 1000;
    assert!(computed <= 6, "{computed} × Diffie–Hellman in one turn");
    assert_eq!(world.nodes[B].count("rx_handshake_backlog_full"), 20_000 - computed - 4096);
    world.turns();
    assert_eq!(world.nodes[B].count("cookies_sent"), 4096);
    assert_eq!(world.nodes[B].count("rx_unknown_peer"), 1000 + computed, "nothing more was computed");

    // A second after the backlog was that long, a stranger is heard again.
    world.now += seconds(1);
    world.flood(&message, 1);
    assert_eq!(world.nodes[B].count("cookies_sent"), 4096);
    assert_eq!(world.nodes[B].count("rx_unknown_peer"), 1001 + computed);
}

#[test]
fn a_load_lasts_a_second() {
    let mut world: World<InsecureIdentity> = server(0);
    let message = strangers(&world);
    world.flood(&message, 5000);
    world.turns();
    let cookies = world.nodes[B].count("cookies_sent");
    assert_eq!(cookies, 4096);
    world.now += Duration::from_millis(900);
    world.flood(&message, 1);
    assert_eq!(world.nodes[B].count("cookies_sent"), cookies + 1, "held");
}

/// Every one of these has a cookie of the server, which is under load.
fn with_cookies<I: Identity>(
    world: &mut World<I>,
    mut clients: Vec<Client<I>>,
) -> Vec<(SocketAddr, Vec<u8>)> {
    world.turns();
    let mut messages = Vec::new();
    let server = world.nodes[B].address;
    for client in &mut clients {
        let first = client.initiation(world.now);
        world.arrive(B, &first, Arrival::from(client.address));
    }
    world.turns();
    let answers = world.intercept(B);
    for client in &mut clients {
        let answer = answers.iter().rfind(|answer| answer.to.remote == client.address).expect("an answer");
        assert_eq!(answer.kind(), Kind::CookieReply);
        assert_eq!(client.hear(server, &answer.bytes, world.now), None);
    }
    world.now += seconds(6);
    for client in &mut clients {
        client.tunnel.handle_timeout(world.now, &mut client.sink);
        messages.push((client.address, client.sink.pop().expect("another try").1));
    }
    messages
}

fn proven_strangers_are_stopped_before_any_diffie_hellman<I: Identity>() {
    let mut world: World<I> = server(0);
    let message = strangers(&world);
    world.flood(&message, 2000);
    let strangers = (5000..5100).map(|n| Client::new(n, behind_one_address(n), &world.nodes[B])).collect();
    let proven = with_cookies(&mut world, strangers);
    world.flood(&message, 2000);
    let before = world.nodes[B].count("rx_unknown_peer");
    for (from, message) in &proven {
        world.arrive(B, message, Arrival::from(*from));
    }
    world.turns();
    // Its burst, and twenty a second while it went through them.
    let computed = world.nodes[B].count("rx_unknown_peer") - before;
    assert!((5..10).contains(&computed), "{computed}");
    assert_eq!(world.nodes[B].count("rx_handshake_rate"), 100 - computed);
}

#[test]
fn proven_ones_are_never_dropped_for_a_flood() {
    let mut world: World<Simulated> = server(200);
    let message = strangers(&world);
    world.flood(&message, 5000);
    let clients = (0..200).map(|n| Client::new(n, everywhere(1 << 24 | n), &world.nodes[B])).collect();
    let proven = with_cookies(&mut world, clients);
    world.flood(&message, 10_000);
    let responses = world.nodes[B].count("responses_sent");
    for some in proven.chunks(25) {
        for (from, message) in some {
            world.arrive(B, message, Arrival::from(*from));
        }
        world.flood(&message, 10_000);
        world.turn();
    }
    world.turns();
    assert_eq!(world.nodes[B].count("responses_sent") - responses, 200);
}

#[test]
fn a_peer_at_its_address_has_its_turn_beside_a_flood() {
    let mut world: World<InsecureIdentity> = server(0);
    let message = strangers(&world);
    let peers = (0..100).map(|n| {
        let mut peer = PeerUpdate::new(key(n).public_key());
        peer.endpoint = Some(everywhere(1 << 24 | n));
        peer
    });
    let update = TunnelUpdate { peers: peers.collect(), ..TunnelUpdate::default() };
    world.try_update(B, update).unwrap();
    for n in 0..100 {
        world.flood(&message, 500);
        let restarted = SocketAddr::new(everywhere(1 << 24 | n).ip(), 4444);
        let mut client = Client::new(n, restarted, &world.nodes[B]);
        let initiation = client.initiation(world.now);
        world.arrive(B, &initiation, Arrival::from(client.address));
        world.turn();
    }
    for _ in 0..10 {
        world.turn();
    }
    let to_peers = |to: &Destination| matches!(to.remote, SocketAddr::V4(to) if to.ip().octets()[0] == 1);
    let answered = world.nodes[B].sink.iter().filter(|(to, _)| to_peers(to)).count();
    assert_eq!(answered, 100, "ten flooders for each that had its turn went without");
}

#[test]
fn a_proven_peer_at_its_address_is_answered_at_once_whoever_waits() {
    let mut world: World<Simulated> = server(1);
    let mut peer = PeerUpdate::new(key(0).public_key());
    peer.endpoint = Some(everywhere(1 << 24));
    world.try_update(B, TunnelUpdate { peers: vec![peer], ..TunnelUpdate::default() }).unwrap();
    let message = strangers(&world);
    world.flood(&message, 5000);
    let client = Client::new(0, everywhere(1 << 24), &world.nodes[B]);
    let proven = with_cookies(&mut world, vec![client]);
    world.flood(&message, 10_000);
    world.turn();
    world.arrive(B, &proven[0].1, Arrival::from(proven[0].0));
    assert_eq!(world.nodes[B].count("responses_sent"), 1);
}

fn a_response_to_our_initiation_needs_no_cookie_under_load<I: Identity>() {
    let mut world: World<I> = World::connected();
    let message = strangers(&world);
    world.drive(seconds(6));
    // B begins a handshake with A, who has gone to another key pair since.
    let mut a = world.about(A);
    a.endpoint = Some(world.nodes[A].address);
    let remove = PeerUpdate { remove: true, ..world.about(A) };
    let again = PeerUpdate { allowed_ips: vec![add("10.0.0.1/32")], ..a };
    world.update(B, remove);
    world.update(B, again);
    world.send(B, &ping(B, A, 5));
    let initiation = world.intercept(B).remove(0);
    world.arrive(A, &initiation.bytes, initiation.arrival());
    let response = world.intercept(A).remove(0);
    assert_eq!(response.kind(), Kind::Response);
    world.flood(&message, 5000);
    world.arrive(B, &response.bytes, response.arrival());
    world.turn();
    world.turn();
    assert_eq!(world.nodes[B].count("responses_received"), 1);
}

#[test]
fn thousands_of_peers_that_are_due_at_once_take_a_turns_budget_each_time() {
    const PEERS: u32 = 5000;
    let mut world: World<InsecureIdentity> = World::pair();
    let peer = |n: u32| {
        let mut peer = PeerUpdate::new(key(n).public_key());
        peer.endpoint = Some(everywhere(n));
        peer.persistent_keepalive = Some(25);
        peer
    };
    let update = TunnelUpdate { peers: (0..PEERS).map(peer).collect(), ..TunnelUpdate::default() };
    world.try_update(B, update).unwrap();
    let mut turns = 0;
    while world.nodes[B].count("initiations_sent") < u64::from(PEERS) {
        let sent = world.intercept(B);
        assert!(sent.iter().all(|datagram| datagram.kind() == Kind::Initiation));
        assert!(sent.len() <= 3, "{} in one turn", sent.len());
        world.turn();
        turns += 1;
        assert!(turns < PEERS, "they go on");
    }
}

#[test]
fn packets_to_thousands_of_silent_peers_begin_no_more_handshakes_than_a_turn_has_time_for() {
    let mut world: World<InsecureIdentity> = World::pair();
    let peer = |n: u32| {
        let mut peer = PeerUpdate::new(key(n).public_key());
        peer.endpoint = Some(everywhere(n));
        peer.allowed_ips = vec![add(&format!("10.1.{}.{}/32", n >> 8, n & 255))];
        peer
    };
    let update = TunnelUpdate { peers: (0..1000).map(peer).collect(), ..TunnelUpdate::default() };
    world.try_update(B, update).unwrap();
    for n in 0..1000 {
        let to = format!("10.1.{}.{}", n >> 8, n & 255);
        world.send(B, &crate::world::packet("10.0.0.2", &to, gso_queue::Ecn::NotEct, &[]));
    }
    assert!(world.intercept(B).len() <= 3);
    world.turns();
    assert_eq!(world.nodes[B].count("initiations_sent"), 1000, "none is forgotten");
    assert_eq!(world.nodes[B].drops(), []);
}

#[test]
fn a_flood_does_not_keep_our_own_handshakes_from_beginning() {
    let mut world: World<InsecureIdentity> = server(0);
    let message = strangers(&world);
    let peer = |n: u32| {
        let mut peer = PeerUpdate::new(key(n).public_key());
        peer.endpoint = Some(everywhere(1 << 24 | n));
        peer.persistent_keepalive = Some(25);
        peer
    };
    world.flood(&message, 5000);
    let update = TunnelUpdate { peers: (0..100).map(peer).collect(), ..TunnelUpdate::default() };
    world.try_update(B, update).unwrap();
    for _ in 0..200 {
        world.flood(&message, 100);
        world.turn();
    }
    assert_eq!(world.nodes[B].count("initiations_sent"), 100);
    assert!(world.nodes[B].count("cookies_sent") > 1000, "nor the other way round");
}

#[test]
fn what_waits_is_dropped_and_counted_when_the_key_or_the_link_goes() {
    for link in [true, false] {
        let mut world: World<InsecureIdentity> = server(0);
        let message = strangers(&world);
        world.flood(&message, 500);
        let waiting = 500 - world.nodes[B].count("rx_unknown_peer");
        let now = world.now;
        let reason = if link {
            world.nodes[B].tunnel.link_down(now);
            "rx_link_down"
        } else {
            let update = TunnelUpdate { private_key: Some(Some(key(9))), ..TunnelUpdate::default() };
            world.try_update(B, update).unwrap();
            "rx_bad_mac"
        };
        assert_eq!(world.nodes[B].count(reason), waiting);
        world.turns();
        assert_eq!(world.nodes[B].tunnel.poll_timeout(), None, "nothing is left to do");
    }
}
