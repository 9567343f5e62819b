//! boringtun as the oracle of the native backend: seeded conversations over a bad network in which either end is either
//! implementation. Whatever the network does, only what was sent is delivered, each message at most once; and once the network
//! is good again, a handshake from either side succeeds and data flows both ways.
//!
//! `VOLLEY_ORACLE_SEEDS=10000 cargo test -p encrypt --test oracle` for the long run, as in CI. A failure tells how to replay its
//! schedule. (boringtun draws its own keys and reads the clock, so only that and the native ends are the same again.)

mod support;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use boringtun::{
    noise::{Tunn, TunnResult, rate_limiter::RateLimiter},
    x25519,
};
use encrypt::{
    INITIATION_LEN, Message, PresharedKey, PrivateKey, PublicKey, RESPONSE_LEN,
    native::{Addressed, IndexTable, LocalIdentity, PeerHandshake},
    transport::{KeyPair, TransportKeys},
};
use rand_core::RngCore;
use support::{Seeded, start, wall};

/// One end of the conversation. What it has to send goes into `out`.
trait End {
    fn initiate(&mut self, now: Now, out: &mut Vec<Vec<u8>>);
    /// Sends a packet if there is a session for it. True if there was.
    fn send(&mut self, packet: &[u8], out: &mut Vec<Vec<u8>>) -> bool;
    /// Gives the packet that came in a datagram.
    fn receive(&mut self, datagram: &[u8], now: Now, out: &mut Vec<Vec<u8>>) -> Option<Vec<u8>>;
}

#[derive(Clone, Copy)]
struct Now {
    now: Instant,
    wall: SystemTime,
}

struct Native {
    identity: LocalIdentity,
    peer: PeerHandshake,
    indices: IndexTable<()>,
    /// Sessions as the kernel keeps them.
    previous: Option<KeyPair>,
    current: Option<KeyPair>,
    next: Option<KeyPair>,
    rng: Seeded,
}

impl Native {
    fn new(private: &PrivateKey, peer: PublicKey, psk: Option<&PresharedKey>, seed: u64) -> Self {
        Self {
            identity: LocalIdentity::new(private),
            peer: PeerHandshake::new(peer, psk),
            indices: IndexTable::new(6), // previous, current, next, two of ours out, and what is to replace one of them
            previous: None,
            current: None,
            next: None,
            rng: Seeded(seed),
        }
    }

    fn free(&mut self, keys: Option<KeyPair>) {
        if let Some(keys) = keys {
            assert!(self.indices.remove(keys.keys().local_index()).is_some());
        }
    }

    fn index(&mut self) -> u32 {
        self.indices.vacant(&mut self.rng).expect("six places are enough")
    }

    /// `keys` are the ones to seal with from now on.
    fn promote(&mut self, keys: KeyPair) {
        let oldest = std::mem::replace(&mut self.previous, self.current.replace(keys));
        self.free(oldest);
    }

    fn pair(&mut self, index: u32) -> Option<&mut KeyPair> {
        [&mut self.previous, &mut self.current, &mut self.next]
            .into_iter()
            .flatten()
            .find(|pair| pair.keys().local_index() == index)
    }
}

fn sealed(keys: &Arc<TransportKeys>, packet: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; 16], packet, &[0; 16]].concat();
    let len = datagram.len();
    keys.lease(1).unwrap().seal_train(&mut datagram, len).unwrap();
    datagram
}

impl End for Native {
    fn initiate(&mut self, now: Now, out: &mut Vec<Vec<u8>>) {
        let index = self.index();
        let mut message = [0; INITIATION_LEN];
        let freed = self
            .peer
            .initiate(&self.identity, index, now.wall, now.now, &mut self.rng, &mut message)
            .unwrap();
        assert!(freed.is_none_or(|freed| self.indices.remove(freed).is_some()));
        assert!(self.indices.insert(index, ()));
        out.push(message.to_vec());
    }

    fn send(&mut self, packet: &[u8], out: &mut Vec<Vec<u8>>) -> bool {
        out.extend(self.current.as_ref().map(|current| sealed(current.keys(), packet)));
        self.current.is_some()
    }

    fn receive(&mut self, datagram: &[u8], now: Now, out: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
        match Message::parse(datagram).ok()? {
            Message::Data { receiver, .. } => {
                let mut datagram = datagram.to_vec();
                let pair = self.pair(receiver)?;
                let opened = pair.keys().open(&mut datagram).ok()?;
                let fresh = pair.commit(opened).ok()?;
                if self.next.as_ref().is_some_and(|next| next.keys().local_index() == receiver) {
                    let confirmed = self.next.take()?;
                    self.promote(confirmed);
                }
                (!fresh.is_keepalive()).then(|| datagram[fresh.content()].to_vec())
            }
            Message::CookieReply { receiver } => {
                self.indices.get(receiver)?;
                let _ = self.peer.read_cookie_reply(datagram, now.now);
                None
            }
            _ => {
                match self.identity.verify_mac1(datagram).ok()? {
                    Addressed::Initiation(initiation) => {
                        let unconfirmed = self.next.take();
                        let index = self.index();
                        let (known, handshakes) = (*self.peer.public_key(), &mut self.peer);
                        let find = move |claimed: &PublicKey| (*claimed == known).then_some(((), handshakes));
                        let mut message = [0; RESPONSE_LEN];
                        let answer = self.identity.respond(
                            &initiation,
                            find,
                            index,
                            now.now,
                            &mut self.rng,
                            &mut message,
                        );
                        let Ok(((), keys)) = answer else {
                            self.next = unconfirmed;
                            return None;
                        };
                        self.free(unconfirmed);
                        assert!(self.indices.insert(index, ()));
                        self.next = Some(keys);
                        out.push(message.to_vec());
                    }
                    Addressed::Response(response) => {
                        self.indices.get(response.receiver())?;
                        let before: Vec<u32> = self.peer.pending().collect();
                        let keys = self.peer.read_response(&self.identity, &response).ok()?;
                        let is_free = |index: &u32| {
                            *index != response.receiver()
                                && self.peer.pending().all(|pending| pending != *index)
                        };
                        for overtaken in before.into_iter().filter(is_free) {
                            assert!(self.indices.remove(overtaken).is_some());
                        }
                        out.push(sealed(keys.keys(), &[]));
                        self.promote(keys);
                    }
                }
                None
            }
        }
    }
}

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

struct Boring {
    tunn: Tunn,
}

impl Boring {
    /// `limit` handshake messages a second, after which it asks for cookies.
    fn new(private: &PrivateKey, peer: PublicKey, psk: Option<&PresharedKey>, limit: u64) -> Self {
        let private = x25519::StaticSecret::from(*private.as_bytes());
        let limiter = Arc::new(RateLimiter::new(&x25519::PublicKey::from(&private), limit));
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        let tunn = Tunn::new(private, peer, psk.map(|key| *key.as_bytes()), None, 7, Some(limiter));
        Self { tunn }
    }
}

impl End for Boring {
    fn initiate(&mut self, _now: Now, out: &mut Vec<Vec<u8>>) {
        let mut message = [0; 2048];
        if let TunnResult::WriteToNetwork(message) = self.tunn.format_handshake_initiation(&mut message, true)
        {
            out.push(message.to_vec());
        }
    }

    fn send(&mut self, packet: &[u8], out: &mut Vec<Vec<u8>>) -> bool {
        if self.tunn.time_since_last_handshake().is_none() {
            return false;
        }
        let mut message = [0; 2048];
        match self.tunn.encapsulate(packet, &mut message) {
            TunnResult::WriteToNetwork(message) => out.push(message.to_vec()),
            other => panic!("{other:?}"),
        }
        true
    }

    fn receive(&mut self, datagram: &[u8], _now: Now, out: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let mut message = [0; 2048];
        match self.tunn.decapsulate(Some(ADDRESS), datagram, &mut message) {
            TunnResult::WriteToNetwork(message) => {
                out.push(message.to_vec());
                None
            }
            TunnResult::WriteToTunnelV4(packet, _) => Some(packet.to_vec()),
            _ => None,
        }
    }
}

/// The two ends, what is under way to each, and what each has sent and received.
struct Conversation {
    ends: [Box<dyn End>; 2],
    under_way: [Vec<Vec<u8>>; 2],
    sent: [BTreeSet<Vec<u8>>; 2],
    received: [BTreeSet<Vec<u8>>; 2],
    packets: u64,
    now: Now,
    rng: Seeded,
}

impl Conversation {
    fn new(seed: u64) -> Self {
        let mut rng = Seeded(seed);
        let private = [0; 2].map(|_| {
            let mut key = [0; 32];
            rng.fill_bytes(&mut key);
            PrivateKey::from_bytes(key)
        });
        let psk = rng.one_in(2).then(|| PresharedKey::from_bytes([seed as u8; 32]));
        // All mixes but boringtun with itself.
        let natives = [[true, false], [false, true], [true, true]][(seed % 3) as usize];
        let ends = [0, 1].map(|own| {
            let peer = private[1 - own].public_key();
            if natives[own] {
                Box::new(Native::new(&private[own], peer, psk.as_ref(), rng.next_u64())) as Box<dyn End>
            } else {
                Box::new(Boring::new(&private[own], peer, psk.as_ref(), u64::MAX))
            }
        });
        let now = Now { now: start(), wall: wall(1_700_000_000 + seed) };
        Self {
            ends,
            under_way: Default::default(),
            sent: Default::default(),
            received: Default::default(),
            packets: 0,
            now,
            rng,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.now += time;
        self.now.wall += time;
    }

    fn initiate(&mut self, end: usize) {
        self.pass(Duration::from_millis(20));
        self.ends[end].initiate(self.now, &mut self.under_way[1 - end]);
    }

    /// An IPv4 packet that was never sent before.
    fn send(&mut self, end: usize) -> bool {
        self.packets += 1;
        let len = 28 + self.rng.below(100);
        let mut packet = vec![end as u8; len];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[20..28].copy_from_slice(&self.packets.to_be_bytes());
        let sent = self.ends[end].send(&packet, &mut self.under_way[1 - end]);
        if sent {
            self.sent[end].insert(packet);
        }
        sent
    }

    fn deliver(&mut self, to: usize, datagram: &[u8]) {
        let (now, answers) = (self.now, &mut self.under_way[1 - to]);
        if let Some(packet) = self.ends[to].receive(datagram, now, answers) {
            assert!(self.sent[1 - to].contains(&packet), "delivered, but never sent");
            assert!(self.received[to].insert(packet), "delivered twice");
        }
    }

    fn bad_network(&mut self) {
        for _ in 0..30 + self.rng.below(40) {
            let end = self.rng.below(2);
            match self.rng.below(12) {
                0 => self.initiate(end),
                1 => self.pass(Duration::from_millis(100)),
                2..6 => {
                    self.send(end);
                }
                _ if self.under_way[end].is_empty() => {}
                // Out of order, and sometimes lost, changed or twice.
                _ => {
                    let which = match self.rng.below(2) {
                        0 => 0,
                        _ => self.rng.below(self.under_way[end].len()),
                    };
                    let mut datagram = self.under_way[end].remove(which);
                    if self.rng.one_in(6) {
                        continue;
                    }
                    if self.rng.one_in(6) {
                        self.under_way[end].push(datagram.clone());
                    }
                    if self.rng.one_in(12) {
                        let at = self.rng.below(datagram.len());
                        datagram[at] ^= 1 << self.rng.below(8);
                    }
                    self.deliver(end, &datagram);
                }
            }
        }
    }

    /// Delivers all that is under way, and the answers, in order.
    fn settle(&mut self) {
        for _ in 0..20 {
            for to in [0, 1] {
                for datagram in std::mem::take(&mut self.under_way[to]) {
                    self.deliver(to, &datagram);
                }
            }
        }
        assert!(self.under_way.iter().all(Vec::is_empty), "they never come to rest");
    }

    fn good_network(&mut self, initiator: usize) {
        self.settle();
        // boringtun refuses stamps that are older than the last: the native clock has gone on.
        self.pass(Duration::from_secs(5));
        self.initiate(initiator);
        self.settle();
        for from in [initiator, 1 - initiator] {
            let before = self.received[1 - from].len();
            assert!(self.send(from), "a session");
            self.settle();
            assert_eq!(self.received[1 - from].len(), before + 1, "a packet from {from} arrives");
        }
    }
}

const SEEDS: seeds::Seeds =
    seeds::Seeds { variable: "VOLLEY_ORACLE", default: 300, test: "cargo test -p encrypt --test oracle" };

#[test]
fn native_and_boringtun_understand_each_other_in_every_mix() {
    let delivered = AtomicU64::new(0);
    let seeds = SEEDS.run(|seed| {
        let mut talk = Conversation::new(seed);
        talk.bad_network();
        let through_the_bad: usize = talk.received.iter().map(BTreeSet::len).sum();
        let initiator = talk.rng.below(2);
        talk.good_network(initiator);
        talk.good_network(1 - initiator);
        delivered.fetch_add(through_the_bad as u64, Relaxed);
    });
    let delivered = delivered.into_inner();
    assert!(
        delivered > seeds / 2,
        "the bad network let something through: {delivered} packets of {seeds} conversations"
    );
}

/// Different pre-shared keys, in every mix of roles: no session.
#[test]
fn neither_talks_to_the_other_with_another_pre_shared_key() {
    for seed in 0..12 {
        let mut talk = Conversation::new(seed);
        let wrong = PresharedKey::from_bytes([0xee; 32]);
        let [one, two] = [3, 4].map(|key| PrivateKey::from_bytes([key; 32]));
        talk.ends[0] = Box::new(Native::new(&one, two.public_key(), Some(&wrong), seed));
        talk.ends[1] = Box::new(Boring::new(&two, one.public_key(), None, u64::MAX));
        talk.initiate(seed as usize % 2);
        talk.settle();
        let initiator = seed as usize % 2;
        assert!(!talk.send(initiator), "no session at the initiator");
    }
}

/// boringtun under load asks the native end for a cookie, which it can use. (boringtun binds it to the address alone.)
#[test]
fn the_cookies_of_boringtun_are_understood() {
    let [one, two] = [3, 4].map(|key| PrivateKey::from_bytes([key; 32]));
    let now = Now { now: start(), wall: wall(1_700_000_000) };
    let mut native = Native::new(&one, two.public_key(), None, 1);
    let mut boring = Boring::new(&two, one.public_key(), None, 0);
    let (mut to_boring, mut to_native) = (Vec::new(), Vec::new());
    native.initiate(now, &mut to_boring);
    boring.receive(&to_boring.remove(0), now, &mut to_native);
    assert_eq!(to_native[0][0], 3, "a cookie reply");
    native.receive(&to_native.remove(0), now, &mut to_boring);
    let later = Now { now: now.now + Duration::from_secs(5), wall: now.wall + Duration::from_secs(5) };
    native.initiate(later, &mut to_boring);
    boring.receive(&to_boring.remove(0), later, &mut to_native);
    assert_eq!(to_native[0][0], 2, "a response");
    native.receive(&to_native.remove(0), later, &mut to_boring);
    assert!(native.current.is_some());
}

/// The native end under load asks boringtun for a cookie, which proves its address.
#[test]
fn boringtun_understands_our_cookies() {
    let [one, two] = [3, 4].map(|key| PrivateKey::from_bytes([key; 32]));
    let now = Now { now: start(), wall: wall(1_700_000_000) };
    let from = std::net::SocketAddr::new(ADDRESS, 1234);
    let mut native = Native::new(&one, two.public_key(), None, 1);
    let mut boring = Boring::new(&two, one.public_key(), None, u64::MAX);
    let mut to_native = Vec::new();
    boring.initiate(now, &mut to_native);
    let initiation = to_native.remove(0);
    let addressed = native.identity.verify_mac1(&initiation).unwrap();
    assert!(!native.identity.proves_address(addressed, from, now.now, &mut native.rng));
    let mut reply = [0; encrypt::COOKIE_REPLY_LEN];
    native.identity.write_cookie_reply(addressed, from, now.now, &mut native.rng, &mut reply);
    assert!(boring.receive(&reply, now, &mut to_native).is_none() && to_native.is_empty());
    boring.initiate(now, &mut to_native);
    let initiation = to_native.remove(0);
    let addressed = native.identity.verify_mac1(&initiation).unwrap();
    assert!(native.identity.proves_address(addressed, from, now.now, &mut native.rng));
}
