//! Any bytes at any point of a handshake or of data, on real cryptography: refused, counted with a reason that fits, without
//! memory, an answer, or a change of any peer; and what is honest passes afterwards.

use allocation_counter::bytes_held_by_this_thread;
use encrypt::{
    COOKIE_REPLY_LEN, REJECT_AFTER_MESSAGES, REKEY_AFTER_TIME,
    native::{LocalIdentity, OsRng, write_mac1},
};
use tunnel_core::{Arrival, Counters};

use crate::{
    native::Simulated,
    netem::Random,
    world::{A, B, Datagram, Kind, World, kinds, ping},
};

/// How many seeds each point of a conversation is tried with, and how much bad input each seed makes.
const SEEDS: u64 = 25;
const INPUTS: u64 = 40;

/// A tunnel in the middle of something.
struct Scene {
    world: World<Simulated>,
    /// Who is fed.
    victim: usize,
    /// Honest datagrams that it is about to receive, in order.
    due: Vec<Datagram>,
    /// Those that it has had.
    had: Vec<Datagram>,
}

/// Everything of a tunnel that bad input must not change, and how much it has dropped.
#[derive(Debug, PartialEq)]
struct Snapshot {
    peers: String,
    timeout: Option<std::time::Instant>,
    traffic: Vec<(&'static str, u64)>,
}

/// Bad input, and the reasons that fit it.
type Bad = (Vec<u8>, &'static [&'static str]);

const MALFORMED: &[&str] = &["rx_malformed"];
const BAD_HANDSHAKE: &[&str] = &["rx_bad_handshake", "rx_no_session"];
const REPLAY: &[&str] = &["rx_replay", "rx_no_session"];
const REPLAYED: &[&str] = &["rx_replay", "rx_replayed_handshake", "rx_no_session"];
const FORGED: &[&str] = &["rx_bad_tag", "rx_bad_handshake", "rx_no_session", "rx_replay"];
const CHANGED: &[&str] =
    &["rx_malformed", "rx_bad_mac", "rx_bad_handshake", "rx_bad_tag", "rx_no_session", "rx_replay"];

#[test]
fn nothing_bad_changes_a_peer_that_never_spoke() {
    // Its session is made with the first initiation that claims to be from it, whoever wrote that: once.
    at_any_point(1, || {
        let (world, initiation) = asked();
        Scene { world, victim: B, due: vec![initiation], had: vec![] }
    });
}

#[test]
fn nothing_bad_changes_an_initiation_that_waits_for_its_answer() {
    at_any_point(0, || {
        let (mut world, initiation) = asked();
        world.arrive(B, &initiation.bytes, initiation.arrival());
        let response = world.intercept(B).remove(0);
        // A cookie reply is honest, too; it is not waited for, and the answer counts all the same.
        let cookie = cookie_reply(&world, B, &initiation);
        Scene { world, victim: A, due: vec![cookie, response], had: vec![] }
    });
}

#[test]
fn nothing_bad_changes_a_session_that_is_not_confirmed() {
    at_any_point(0, || {
        let (mut world, initiation) = asked();
        world.arrive(B, &initiation.bytes, initiation.arrival());
        let response = world.intercept(B).remove(0);
        world.arrive(A, &response.bytes, response.arrival());
        let due = world.intercept(A);
        assert_eq!(kinds(&due), [Kind::Keepalive, Kind::Data]);
        Scene { world, victim: B, due, had: vec![initiation] }
    });
}

#[test]
fn nothing_bad_changes_a_session_in_use() {
    at_any_point(0, || {
        let (world, had) = talking();
        let mut scene = Scene { world, victim: B, due: vec![], had };
        scene.world.send(A, &ping(A, B, 7));
        scene.due = scene.world.intercept(A);
        scene
    });
}

#[test]
fn nothing_bad_changes_a_renewal_that_is_not_confirmed() {
    at_any_point(0, || {
        let (mut world, mut had) = talking();
        let (data, initiation, _) = renewing(&mut world);
        had.push(initiation);
        Scene { world, victim: B, due: vec![data], had }
    });
}

#[test]
fn nothing_bad_changes_a_renewal_that_waits_for_its_answer() {
    at_any_point(0, || {
        let (mut world, had) = talking();
        let (data, _, response) = renewing(&mut world);
        world.arrive(B, &data.bytes, data.arrival());
        Scene { world, victim: A, due: vec![response], had }
    });
}

/// A has asked for a handshake.
fn asked() -> (World<Simulated>, Datagram) {
    let mut world = World::pair();
    world.send(A, &ping(A, B, 1));
    let initiation = world.intercept(A).remove(0);
    (world, initiation)
}

/// Both have sent something on a session; all that was sent.
fn talking() -> (World<Simulated>, Vec<Datagram>) {
    let mut world = World::pair();
    for (from, to) in [(A, B), (B, A)] {
        world.send(from, &ping(from, to, 1));
        world.settle();
    }
    let wire = std::mem::take(&mut world.wire);
    (world, wire)
}

/// The session is old: a packet, the initiation that follows it, and B's answer, of which A knows nothing yet.
fn renewing(world: &mut World<Simulated>) -> (Datagram, Datagram, Datagram) {
    world.drive(REKEY_AFTER_TIME);
    world.intercept(B);
    world.send(A, &ping(A, B, 7));
    let now = world.now;
    let node = &mut world.nodes[A];
    node.tunnel.handle_timeout(now, &mut node.sink);
    let [data, initiation] = world.intercept(A).try_into().expect("a packet and an initiation");
    world.arrive(B, &initiation.bytes, initiation.arrival());
    let response = world.intercept(B).remove(0);
    (data, initiation, response)
}

/// What `from` would answer if it were under load.
fn cookie_reply(world: &World<Simulated>, from: usize, message: &Datagram) -> Datagram {
    let node = &world.nodes[from];
    let mut identity = LocalIdentity::new(&node.key);
    let mut reply = [0; COOKIE_REPLY_LEN];
    let addressed = identity.verify_mac1(&message.bytes).expect("it is addressed to it");
    identity.write_cookie_reply(addressed, message.from, world.now, &mut OsRng, &mut reply);
    let to = gso_queue::Destination { remote: message.from, local: None, ecn: gso_queue::Ecn::NotEct };
    Datagram { from: node.address, to, bytes: reply.to_vec() }
}

/// Feeds bad input to the victim of many scenes. It may make so many sessions for peers that it was told of.
#[track_caller]
fn at_any_point(sessions: u64, scene: impl Fn() -> Scene) {
    for seed in 0..SEEDS {
        let mut scene = scene();
        let address = scene.world.nodes[scene.victim].address;
        scene.had.retain(|datagram| datagram.to.remote == address);
        let mut random = Random(seed);
        let mut remembered = 0;
        for input in 0..INPUTS {
            let (bytes, reasons) = scene.bad(&mut random);
            let what = format!(
                "seed {seed}, input {input}: {} bytes {:02x?}",
                bytes.len(),
                &bytes[..bytes.len().min(20)]
            );
            // Each in a turn of its own, and not too soon after an initiation: what is counted then is another matter.
            scene.world.pause();
            let before = scene.snapshot();
            let (reason, kept) = scene.feed(bytes, random.below(2) == 0);
            remembered += u64::from(kept != 0);
            assert!(reasons.contains(&reason), "{what}: {reason}, not one of {reasons:?}");
            assert_eq!(scene.snapshot(), before, "{what}");
            assert!(scene.world.intercept(scene.victim).is_empty(), "{what}: it was answered");
        }
        assert!(remembered <= sessions, "seed {seed}: memory was kept for {remembered} inputs");
        scene.goes_on(seed);
    }
}

impl Scene {
    fn snapshot(&self) -> Snapshot {
        let tunnel = &self.world.nodes[self.victim].tunnel;
        let peers: Vec<_> = tunnel.peers().collect();
        Snapshot {
            peers: format!("{peers:?}"),
            timeout: tunnel.poll_timeout(),
            traffic: tunnel.counters().traffic().collect(),
        }
    }

    /// Gives the reason that was counted, and how many bytes of memory were kept.
    fn feed(&mut self, mut bytes: Vec<u8>, from_elsewhere: bool) -> (&'static str, i64) {
        let elsewhere = Arrival::from(([198, 51, 100, 7], 7).into());
        let peer = Arrival::from(self.world.nodes[1 - self.victim].address);
        let (now, node) = (self.world.now, &mut self.world.nodes[self.victim]);
        let before = *node.tunnel.counters();
        let from = if from_elsewhere { elsewhere } else { peer };
        let held = bytes_held_by_this_thread();
        let delivered = node.tunnel.receive(&mut bytes, from, now, &mut node.sink).is_some();
        let kept = bytes_held_by_this_thread() - held;
        assert!(!delivered, "bad input was delivered");
        (reason(&before, node.tunnel.counters()), kept)
    }

    /// What was due is taken, and packets pass both ways.
    fn goes_on(mut self, seed: u64) {
        for datagram in std::mem::take(&mut self.due) {
            self.world.arrive(self.victim, &datagram.bytes, datagram.arrival());
        }
        self.world.settle();
        for (from, to) in [(A, B), (B, A)] {
            self.world.send(from, &ping(from, to, 99));
            self.world.settle();
            assert_eq!(self.world.nodes[to].delivered.last(), Some(&ping(from, to, 99)), "seed {seed}");
        }
        let initiations = self.world.nodes[A].count("initiations_sent");
        assert_eq!(initiations, self.world.nodes[B].count("responses_sent"), "seed {seed}: none was in vain");
    }

    fn bad(&self, random: &mut Random) -> Bad {
        match random.below(8) {
            0 => (bytes(random, 2000), MALFORMED),
            1 => self.shaped(random),
            2 if !self.had.is_empty() => (pick(&self.had, random).bytes.clone(), REPLAYED),
            3 => self.of_low_order(random),
            4 => self.past_the_limit(random),
            _ => self.changed(random),
        }
    }

    /// Honest datagrams, had or due.
    fn honest(&self, random: &mut Random) -> &Datagram {
        let at = random.below((self.had.len() + self.due.len()) as u64) as usize;
        self.had.iter().chain(&self.due).nth(at).expect("there is one")
    }

    /// Random content in the form of a message, for an index that is in use if there is one, with a mac1 that holds.
    fn shaped(&self, random: &mut Random) -> Bad {
        let (kind, len) =
            [(1, 148), (2, 92), (3, 64), (4, 32 + random.below(1500) as usize)][random.below(4) as usize];
        let mut message: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
        message[..4].copy_from_slice(&[kind, 0, 0, 0]);
        if let Some(index) = self.index_in_use(random) {
            let at = if kind == 2 { 8 } else { 4 };
            message[at..at + 4].copy_from_slice(&index);
        }
        if kind == 4 {
            message[8..16].copy_from_slice(&random.below(1 << 14).to_le_bytes());
        }
        self.write_mac1(&mut message);
        (message, FORGED)
    }

    /// A handshake message whose ephemeral key is of low order.
    fn of_low_order(&self, random: &mut Random) -> Bad {
        let mut message = self.honest(random).bytes.clone();
        let at = match message[0] {
            1 => 8,
            2 => 12,
            _ => return self.shaped(random),
        };
        message[at..at + 32].fill(0);
        message[at] = random.below(2) as u8;
        self.write_mac1(&mut message);
        (message, BAD_HANDSHAKE)
    }

    fn past_the_limit(&self, random: &mut Random) -> Bad {
        let mut message = self.honest(random).bytes.clone();
        if message[0] != 4 {
            return self.shaped(random);
        }
        let counter = REJECT_AFTER_MESSAGES + random.below(1 << 13);
        message[8..16].copy_from_slice(&counter.to_le_bytes());
        (message, REPLAY)
    }

    /// An honest datagram, shorter, longer, or with a few bits changed, of which mac1 may know.
    fn changed(&self, random: &mut Random) -> Bad {
        let honest = self.honest(random);
        let mut message = honest.bytes.clone();
        match random.below(4) {
            0 => message.truncate(random.below(message.len() as u64) as usize),
            1 => message.extend(bytes(random, 1200).into_iter().chain([7])),
            _ => {
                let with_mac1 = random.below(2) == 0;
                let end = match (honest.kind(), with_mac1) {
                    // mac2 is read under load alone; and a mac1 that is made anew is the right one again.
                    (Kind::Initiation | Kind::Response, true) => message.len() - 32,
                    (Kind::Initiation | Kind::Response, false) => message.len() - 16,
                    _ => message.len(),
                };
                let at = random.below(end as u64) as usize;
                message[at] ^= 1 + random.below(255) as u8;
                // Whoever changes the index of a sender, which nothing but mac1 covers, gets an answer that leads nowhere; and a
                // cookie reply may name any index of ours.
                if (4..8).contains(&at) && honest.kind() != Kind::Data {
                    message[at] = honest.bytes[at];
                    message[0] ^= 0x80;
                }
                if with_mac1 {
                    self.write_mac1(&mut message);
                }
            }
        }
        (message, CHANGED)
    }

    /// A receiver index that the victim has given out.
    fn index_in_use(&self, random: &mut Random) -> Option<[u8; 4]> {
        let indices: Vec<[u8; 4]> = self
            .had
            .iter()
            .chain(&self.due)
            .filter_map(|datagram| match datagram.kind() {
                Kind::Initiation => None,
                Kind::Response => datagram.bytes[8..12].try_into().ok(),
                _ => datagram.bytes[4..8].try_into().ok(),
            })
            .collect();
        (!indices.is_empty()).then(|| indices[random.below(indices.len() as u64) as usize])
    }

    fn write_mac1(&self, message: &mut [u8]) {
        if matches!((message[0], message.len()), (1, 148) | (2, 92)) {
            write_mac1(message, &self.world.nodes[self.victim].public_key());
        }
    }
}

/// The one reason that was counted.
fn reason(before: &Counters, after: &Counters) -> &'static str {
    let counted: Vec<_> =
        before.drops().zip(after.drops()).filter(|(before, after)| before != after).collect();
    let [((name, before), (_, after))] = counted[..] else {
        panic!("{} reasons were counted", counted.len())
    };
    assert_eq!(after, before + 1, "{name}");
    name
}

/// Up to so many random bytes.
fn bytes(random: &mut Random, bound: u64) -> Vec<u8> {
    (0..random.below(bound)).map(|_| random.below(256) as u8).collect()
}

fn pick<'a>(from: &'a [Datagram], random: &mut Random) -> &'a Datagram {
    &from[random.below(from.len() as u64) as usize]
}
