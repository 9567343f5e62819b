//! One bad day, from its seed.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    net::SocketAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use encrypt::{KEEPALIVE_TIMEOUT, PresharedKey, REKEY_TIMEOUT};
use gso_queue::Ecn;
use tunnel_core::{PeerUpdate, Tunnel, TunnelConfig, TunnelUpdate};

use crate::{
    attacker::Attacker,
    native::{self, Simulated},
    netem::{Network, Random},
    tally::Tally,
    world::{A, B, START, World, add, packet, seconds},
};

/// A side that lost its session is found out by the silence, and the handshake may have to wait for the next try: an
/// initiation that was out already, lost, when the network became good. A second for jitter and delays.
const COMES_BACK_WITHIN: Duration =
    KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT.saturating_mul(2)).saturating_add(seconds(1));

/// The longest that a side doubts the session, and tries another, though all is good.
const SETTLES_WITHIN: Duration = COMES_BACK_WITHIN;

/// A session begins, is renewed, and goes on.
const STAYS_FOR: Duration = seconds(130);

/// The most that a tunnel with one peer holds, bytes: the packets that may wait for its handshake, and itself.
const HOLDS_AT_MOST: i64 = 64 * 1024;

/// How much more than after a good day a tunnel may hold once it has come to rest, bytes: what has grown once stays so.
const GROWS_BY_AT_MOST: i64 = 700;

/// What a tunnel holds after a good day.
static HOLDS_AT_REST: LazyLock<i64> = LazyLock::new(|| {
    let mut world: World<Simulated> = World::pair();
    (0..50).for_each(|serial| world.send(A, &message(A, serial))); // which wait for the handshake
    world.drive(seconds(1_000));
    Day::holdings(&mut world, A)
});

/// Handshakes are given up, and sessions too old.
const GIVEN_UP: Duration = seconds(200);

/// The longest that a datagram is under way.
const LATEST: Duration = seconds(7);

/// What happens is printed; the time is the end of the step in which it did.
static IS_TOLD: LazyLock<bool> = LazyLock::new(|| std::env::var_os("VOLLEY_SIMULATION_STORY").is_some());

const YEAR: u64 = 365 * 86_400;

/// What the clock of a node that stamped its initiations may be ahead of the clock itself: some 17 ms each.
const STAMPS_AHEAD: i64 = 60;

pub(crate) struct Day {
    world: World<Simulated>,
    sides: [Side; 2],
    /// The node that roams, and that knows the other's endpoint from the beginning.
    client: usize,
    random: Random,
    attacker: Attacker,
    /// Packets so far.
    serial: u32,
    sent: [BTreeSet<u32>; 2],
    delivered: BTreeSet<u32>,
    trace: DefaultHasher,
    tally: Tally,
}

/// What a node is told, again when it has restarted.
#[derive(Default)]
struct Side {
    preshared_key: Option<[u8; 32]>,
    keepalive: u16,
    /// Its clock is so many seconds ahead.
    ahead: i64,
    /// The most that it was since the node started.
    ahead_at_most: i64,
    /// The most that it was before: its peer may remember stamps of then, which the node has forgotten.
    ahead_before: Option<i64>,
}

impl Day {
    /// A fingerprint of all that was on the wire and came out, and what happened.
    pub(crate) fn live(seed: u64) -> (u64, Tally) {
        native::begin(seed);
        let mut random = Random(seed);
        let mut world: World<Simulated> = World::pair();
        world.network = Network::bad(seed);
        let mut day = Self {
            world,
            sides: Default::default(),
            client: random.below(2) as usize,
            random,
            attacker: Attacker::default(),
            serial: 0,
            sent: Default::default(),
            delivered: BTreeSet::new(),
            trace: DefaultHasher::new(),
            tally: Tally::default(),
        };
        for node in [A, B] {
            day.tell(node);
        }
        for _ in 0..15 + day.random.below(20) {
            day.weather();
            day.incident();
            day.attack();
            day.traffic();
            let pause = day.pause();
            day.drive(pause);
        }
        let senders = day.becomes_good();
        day.comes_back(senders);
        day.stays();
        day.comes_to_rest();
        (day.trace.finish(), day.tally)
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.below(all.len() as u64) as usize]
    }

    fn node(&mut self) -> usize {
        self.random.below(2) as usize
    }

    fn weather(&mut self) {
        if self.one_in(3) {
            let millis = Duration::from_millis;
            self.world.network.loss = self.one_of(&[0, 30, 100, 300, 1000]);
            self.world.network.duplication = self.one_of(&[0, 10, 200]);
            self.world.network.delay = self.one_of(&[0, 5, 50, 300].map(millis));
            self.world.network.jitter = self.one_of(&[0, 40, 500, 6_000].map(millis)); // LATEST
        }
        let node = self.node();
        let parts = self.one_in(2);
        match self.random.below(6) {
            0 => self.world.nodes[node].unplugged = parts,
            1 => self.world.nodes[node].muted = parts,
            _ => return,
        }
        self.tally.count("partitions", parts.into());
    }

    fn incident(&mut self) {
        let node = self.node();
        let (incident, size) = (self.random.below(24), self.random.below(60) as i64);
        match incident {
            0 | 1 => self.set_clock(node, self.sides[node].ahead + size * YEAR as i64),
            2 | 3 => self.set_clock(node, self.sides[node].ahead - size * YEAR as i64),
            4 => self.set_clock(node, self.sides[node].ahead + size - 30),
            5..8 => self.roam(),
            8..11 => self.restart(node),
            11..13 => {
                let key = self.preshared_key();
                self.set_preshared_key(node, key);
            }
            13..15 => {
                let key = self.preshared_key();
                self.set_preshared_key(node, key);
                self.set_preshared_key(1 - node, key);
            }
            15 => {
                self.sides[node].keepalive = self.one_of(&[0, 0, 25, 100]);
                self.tell(node);
            }
            16 => {
                let hours = Duration::from_secs(60 + self.random.below(3 * 3600));
                self.world.nodes[node].asleep = true;
                self.drive(hours);
                self.world.nodes[node].asleep = false;
                self.tally.count("sleeps", 1);
            }
            _ => {}
        }
    }

    fn set_clock(&mut self, node: usize, ahead: i64) {
        let side = &mut self.sides[node];
        side.ahead = ahead;
        side.ahead_at_most = side.ahead_at_most.max(ahead);
        native::set_clock(&self.world.nodes[node].key, ahead);
        self.tally.count("clocks that were set", 1);
    }

    /// The client's address and port change, or its port alone.
    fn roam(&mut self) {
        let host = 10 + self.random.below(3) as u8;
        let port = 1024 + self.random.below(1000) as u16;
        self.world.nodes[self.client].address = SocketAddr::from(([192, 0, 2, host], port));
        self.tally.count("roaming", 1);
    }

    /// Nothing is left but what the node is told again.
    fn restart(&mut self, node: usize) {
        let held = Self::holdings(&mut self.world, node);
        assert!(held <= HOLDS_AT_MOST, "a tunnel with one peer held {held} bytes");
        self.tally.held = self.tally.held.max(held);
        self.world.nodes[node].sink.clear();
        let side = &mut self.sides[node];
        side.ahead_before = side.ahead_before.max(Some(side.ahead_at_most));
        side.ahead_at_most = side.ahead;
        let key = self.world.nodes[node].key.clone();
        let update = TunnelUpdate { private_key: Some(Some(key)), ..TunnelUpdate::default() };
        self.world.try_update(node, update).unwrap();
        self.tell(node);
        self.tally.count("restarts", 1);
        self.tell_story(|| format!("{node} has restarted"));
    }

    fn preshared_key(&mut self) -> Option<[u8; 32]> {
        self.one_of(&[None, Some([1; 32]), Some([2; 32])])
    }

    fn set_preshared_key(&mut self, node: usize, key: Option<[u8; 32]>) {
        self.sides[node].preshared_key = key;
        self.tell(node);
        self.tally.count("pre-shared keys that were set", 1);
    }

    fn tell(&mut self, node: usize) {
        let update = self.about_the_other(node);
        self.world.update(node, update);
    }

    /// What `node` is configured to know. The client knows where the server is.
    fn about_the_other(&self, node: usize) -> PeerUpdate {
        let (side, other) = (&self.sides[node], 1 - node);
        PeerUpdate {
            preshared_key: Some(side.preshared_key.map(PresharedKey::from_bytes)),
            persistent_keepalive: Some(side.keepalive),
            endpoint: (node == self.client).then_some(self.world.nodes[other].address),
            allowed_ips: vec![add(&format!("10.0.0.{}/32", other + 1))],
            ..self.world.about(other)
        }
    }

    fn attack(&mut self) {
        for _ in 0..self.random.below(4) {
            let node = self.node();
            let Some((bytes, from)) = self.attacker.strikes(&mut self.random) else { return };
            if self.world.nodes[node].asleep || self.world.nodes[node].unplugged {
                continue;
            }
            self.world.arrive(node, &bytes, from);
            self.tally.count("attacks", 1);
        }
    }

    fn traffic(&mut self) {
        for node in [A, B] {
            for _ in 0..self.one_of(&[0, 0, 1, 5]) {
                self.send(node);
                if self.one_in(8) {
                    let stranger = packet("10.0.0.66", &inner(1 - node), Ecn::NotEct, b"not from here");
                    self.world.send(node, &stranger);
                    self.tally.count("packets with another's source", 1);
                }
            }
        }
    }

    fn send(&mut self, node: usize) {
        self.serial += 1;
        self.sent[node].insert(self.serial);
        let packet = message(node, self.serial);
        self.world.send(node, &packet);
    }

    /// Mostly short, sometimes as long as a handshake is tried or as a session lives.
    fn pause(&mut self) -> Duration {
        let most = self.one_of(&[50, 50, 1_000, 1_000, 10_000, 10_000, 100_000, 200_000]);
        Duration::from_millis(self.random.below(most))
    }

    /// Time passes, in which all that happens is noted.
    fn drive(&mut self, duration: Duration) {
        self.world.drive(duration);
        self.world.now.saturating_duration_since(*START).hash(&mut self.trace);
        for datagram in mem::take(&mut self.world.wire) {
            (datagram.from, datagram.to.remote, datagram.to.local, &datagram.bytes).hash(&mut self.trace);
            self.tell_story(|| format!("{datagram:?} {:02x?}", &datagram.bytes[4..12]));
            self.attacker.sees(datagram, &mut self.random);
        }
        for node in [A, B] {
            for packet in mem::take(&mut self.world.nodes[node].delivered) {
                packet.hash(&mut self.trace);
                self.tell_story(|| format!("delivered to {node}: {:?}", packet.get(20..24)));
                self.check(node, &packet);
            }
        }
    }

    /// What came out at `node` was sent by the other, as it is, and did not come out before.
    fn check(&mut self, node: usize, packet: &[u8]) {
        let serial = packet.get(20..24).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()));
        assert_eq!(packet, message(1 - node, serial), "delivered to {node}, but never sent");
        assert!(self.sent[1 - node].contains(&serial), "{serial} was delivered to {node}, but never sent");
        assert!(self.delivered.insert(serial), "{serial} was delivered to {node} twice");
    }

    /// The network and whoever runs the nodes do what they should from now on. Who of the two has something to send.
    fn becomes_good(&mut self) -> Vec<usize> {
        if self.one_in(2) {
            self.world.network.loss = 1000;
            self.drive(GIVEN_UP); // so that nobody's last try from before makes the session
        }
        let delay = Duration::from_millis(self.random.below(200));
        let network = &mut self.world.network;
        (network.loss, network.duplication) = (0, 0);
        (network.delay, network.jitter) = (delay, Duration::ZERO);
        // What is late arrives before: it may come from where the client was, and the server would answer there.
        self.drive(LATEST);
        if self.one_in(3) {
            let node = self.node();
            self.restart(node);
        }
        let key = self.preshared_key();
        for node in [A, B] {
            (self.world.nodes[node].unplugged, self.world.nodes[node].muted) = (false, false);
            self.sides[node].preshared_key = key;
            self.tell(node);
        }
        let server = 1 - self.client;
        let senders = self.one_of(&[&[A, B][..], &[self.client], &[server]]).to_vec();
        // The clock of one of them is right at last: a peer that remembers later stamps of an earlier run refuses it until then,
        // and the attacker can see to it that both remember some.
        let one = self.one_of(&senders);
        let right = self.sides[one].ahead_before.map(|before| before + STAMPS_AHEAD);
        if let Some(right) = right.filter(|right| self.sides[one].ahead < *right) {
            self.set_clock(one, right);
        }
        if senders.contains(&server) {
            // Else nobody could know where the client is, if its clock is behind or it has nothing to say.
            let mut peer = self.world.about(self.client);
            peer.endpoint = Some(self.world.nodes[self.client].address);
            self.world.update(server, peer);
        }
        senders
    }

    fn comes_back(&mut self, mut waiting: Vec<usize>) {
        self.tell_story(|| format!("all is good, and {waiting:?} sends"));
        let began = self.world.now;
        let first = self.serial + 1;
        let senders = waiting.clone();
        while !waiting.is_empty() {
            let so_far = self.world.now - began;
            assert!(
                so_far <= COMES_BACK_WITHIN,
                "nothing from {waiting:?} after {so_far:?}: {}",
                self.drops()
            );
            senders.iter().for_each(|node| self.send(*node));
            self.drive(seconds(1));
            waiting.retain(|node| {
                self.sent[*node].range(first..).all(|serial| !self.delivered.contains(serial))
            });
        }
        self.tally.back_after = self.world.now - began;
    }

    /// Once handshakes that were begun in the bad time are over, whatever is sent arrives. (Where two cross, whoever answers
    /// lets go of the pair of keys before the last, like the kernel, and a packet that is under way is lost.)
    fn stays(&mut self) {
        self.talk_for(SETTLES_WITHIN);
        let first = self.serial + 1;
        self.talk_for(STAYS_FOR);
        self.drive(seconds(2));
        let lost: Vec<_> = (first..=self.serial).filter(|serial| !self.delivered.contains(serial)).collect();
        assert_eq!(lost, [], "of {first}..={}: {}", self.serial, self.drops());
    }

    /// Both send, once a second.
    fn talk_for(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            self.send(A);
            self.send(B);
            self.drive(seconds(1));
        }
    }

    fn comes_to_rest(&mut self) {
        for node in [A, B] {
            self.sides[node].keepalive = 0;
            self.tell(node);
        }
        self.drive(seconds(1_000));
        for node in [A, B] {
            let next: Option<Instant> = self.world.nodes[node].tunnel.poll_timeout();
            assert_eq!(next, None, "something is left to do at {node}");
            self.tally.count("replays that were refused", self.world.nodes[node].count("rx_replay"));
            self.tally.count(
                "initiations that were refused",
                self.world.nodes[node].count("rx_replayed_handshake"),
            );
            let grown = Self::holdings(&mut self.world, node) - *HOLDS_AT_REST;
            assert!(grown <= GROWS_BY_AT_MOST, "after a bad day a tunnel holds {grown} bytes more");
            self.tally.grown = self.tally.grown.max(grown);
        }
    }

    /// Drops a node's tunnel: how many bytes it held.
    fn holdings(world: &mut World<Simulated>, node: usize) -> i64 {
        let full = mem::replace(&mut world.nodes[node].tunnel, Tunnel::new(TunnelConfig::default()));
        let before = allocation_counter::bytes_held_by_this_thread();
        drop(full);
        before - allocation_counter::bytes_held_by_this_thread()
    }

    fn tell_story(&self, line: impl Fn() -> String) {
        if *IS_TOLD {
            println!("{:?} {}", self.world.now.saturating_duration_since(*START), line());
        }
    }

    fn drops(&self) -> String {
        format!("{:?}", [A, B].map(|node| self.world.nodes[node].drops()))
    }
}

/// Bytes that tell from whom they are, one length in eight.
fn message(from: usize, serial: u32) -> Vec<u8> {
    let mut payload = serial.to_be_bytes().to_vec();
    payload.resize(4 + serial as usize % 8 * 100, from as u8);
    packet(&inner(from), &inner(1 - from), Ecn::NotEct, &payload)
}

fn inner(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}
