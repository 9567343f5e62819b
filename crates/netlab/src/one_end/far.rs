//! The other end, as cheap as it can be: it shakes hands in earnest, and that is all.
//!
//! One socket speaks for every peer, each at an address of its own. Everybody initiates, so that no handshake comes
//! up by itself while something is measured.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{ErrorKind, IoSlice},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use encrypt::{
    DATA_OVERHEAD, INITIATION_LEN, Message, PrivateKey, PublicKey, Reject,
    native::{Addressed, LocalIdentity, OsRng, PeerHandshake},
    transport::{KeyPair, TransportKeys},
};
use nix::{
    libc,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};

use crate::clock;

/// Handshakes under way at once: more, and a daemon thinks it is flooded.
const AT_ONCE: usize = 8;
/// An initiation without an answer for so long is sent again.
const RETRY: Duration = Duration::from_millis(500);
/// How long the socket is listened to before something else is thought of.
const ATTENTION: Duration = Duration::from_millis(20);
/// For the first handshake, and for each further one on average: a daemon that answers takes under a millisecond.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(100));
/// Sessions are made anew before a peer would do so by itself (REKEY_AFTER_TIME, 120 s) while something is measured.
const FRESH: Duration = Duration::from_secs(60);
/// A daemon that sends and hears nothing for 15 s looks for a new session (§6.5).
const HEARD: Duration = Duration::from_secs(4);
/// Receiver indices: the lower half is the peer's number, the upper counts its handshakes.
const NUMBER_BITS: u32 = 16;

/// All peers of the daemon that is measured.
pub(super) struct FarEnd {
    socket: UdpSocket,
    daemon: SocketAddrV4,
    peers: Vec<Peer>,
}

struct Peer {
    identity: LocalIdentity,
    handshake: PeerHandshake,
    attempts: u32,
    session: Option<Session>,
}

struct Session {
    pair: KeyPair,
    agreed: Instant,
    /// When the daemon last heard from us.
    told: Instant,
}

/// Keys for the lab only: whoever reads this knows them.
fn private_key(number: usize) -> PrivateKey {
    let mut key = [0x0e; 32];
    key[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    PrivateKey::from_bytes(key)
}

/// A peer's public key, hexadecimal.
pub(super) fn public_key(number: usize) -> String {
    private_key(number).public_key().to_hex()
}

/// A peer's address on the link: of the range for benchmarks (RFC 2544).
pub(super) fn outer_address(number: usize) -> Ipv4Addr {
    nth(Ipv4Addr::new(198, 18, 0, 1), number)
}

/// A peer's address in the tunnel.
pub(super) fn inner_address(number: usize) -> Ipv4Addr {
    nth(Ipv4Addr::new(10, 128, 0, 1), number)
}

fn nth(first: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + number as u32)
}

impl FarEnd {
    /// `socket` hears all the peers' addresses; `daemon` is where the daemon with this public key is.
    pub(super) fn new(
        socket: UdpSocket,
        daemon: SocketAddrV4,
        daemon_key: PublicKey,
        peers: usize,
    ) -> Result<Self> {
        ensure!(peers < 1 << NUMBER_BITS, "{peers} peers are too many");
        socket.set_read_timeout(Some(ATTENTION))?;
        let peer = |number| Peer {
            identity: LocalIdentity::new(&private_key(number)),
            handshake: PeerHandshake::new(daemon_key, None),
            attempts: 0,
            session: None,
        };
        Ok(Self { socket, daemon, peers: (0..peers).map(peer).collect() })
    }

    /// Sees to it that the first `count` peers have sessions that are young, and that the daemon knows.
    pub(super) fn connect(&mut self, count: usize) -> Result<()> {
        let now = clock::now();
        let is_fresh = |peer: &Peer| {
            peer.session.as_ref().is_some_and(|session| now.duration_since(session.agreed) < FRESH)
        };
        let stale = (0..count).filter(|&number| !is_fresh(&self.peers[number])).collect();
        self.shake_hands(stale)?;
        (0..count).try_for_each(|number| self.keep_alive(number))
    }

    /// A new session for one peer, whatever it had.
    pub(super) fn connect_anew(&mut self, number: usize) -> Result<Arc<TransportKeys>> {
        self.shake_hands(VecDeque::from([number]))?;
        let session = self.peers[number].session.as_ref().context("hands were shaken")?;
        Ok(Arc::clone(session.pair.keys()))
    }

    fn shake_hands(&mut self, mut waiting: VecDeque<usize>) -> Result<()> {
        let (first, each) = PATIENCE;
        let deadline = clock::now() + first + each * waiting.len() as u32;
        let mut under_way: BTreeMap<usize, Instant> = BTreeMap::new();
        while !(waiting.is_empty() && under_way.is_empty()) {
            let now = clock::now();
            ensure!(now < deadline, "{} peers got no session in time", waiting.len() + under_way.len());
            let is_late = |since: &Instant| now.duration_since(*since) > RETRY;
            waiting.extend(under_way.extract_if(.., |_, since| is_late(since)).map(|(number, _)| number));
            while under_way.len() < AT_ONCE
                && let Some(number) = waiting.pop_front()
            {
                self.initiate(number)?;
                under_way.insert(number, now);
            }
            match self.hear()? {
                Some(Heard::Response(number)) => {
                    under_way.remove(&number);
                    waiting.retain(|&other| other != number);
                }
                // Now it can be proved that we are where we say.
                Some(Heard::Cookie(number)) => self.initiate(number)?,
                None => {}
            }
        }
        Ok(())
    }

    fn initiate(&mut self, number: usize) -> Result<()> {
        let peer = &mut self.peers[number];
        peer.attempts += 1;
        let index = peer.attempts << NUMBER_BITS | number as u32;
        let mut initiation = [0; INITIATION_LEN];
        let (wall, now) = (clock::wall(), clock::now());
        peer.handshake.initiate(&peer.identity, index, wall, now, &mut OsRng, &mut initiation)?;
        self.send(number, &initiation)
    }

    /// The next message that is of use. What is left over from what was measured is not.
    fn hear(&mut self) -> Result<Option<Heard<usize>>> {
        let mut datagram = [0; 2_048];
        let len = match self.socket.recv(&mut datagram) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("the peers' socket"),
        };
        let datagram = &datagram[..len];
        let Ok(Message::Response { receiver, .. } | Message::CookieReply { receiver }) =
            Message::parse(datagram)
        else {
            return Ok(None);
        };
        let number = (receiver & ((1 << NUMBER_BITS) - 1)) as usize;
        let Some(peer) = self.peers.get_mut(number) else { return Ok(None) };
        let now = clock::now();
        match peer.receive(datagram, now) {
            Ok(Heard::Response(())) => {
                // The first message confirms the keys; before that the daemon may not send.
                self.tell(number)?;
                Ok(Some(Heard::Response(number)))
            }
            Ok(Heard::Cookie(())) => Ok(Some(Heard::Cookie(number))),
            // The answer to an initiation that was sent again.
            Err(Reject::NoSession) => Ok(None),
            Err(reject) => bail!("peer {number} was sent something wrong: {reject}"),
        }
    }

    fn keep_alive(&mut self, number: usize) -> Result<()> {
        let session = self.peers[number].session.as_ref().context("hands were shaken")?;
        if session.told.elapsed() < HEARD { Ok(()) } else { self.tell(number) }
    }

    /// Sends the daemon a message without content from a peer.
    fn tell(&mut self, number: usize) -> Result<()> {
        let session = self.peers[number].session.as_mut().context("hands were shaken")?;
        let mut keepalive = [0; DATA_OVERHEAD];
        session.pair.keys().lease(1)?.seal_train(&mut keepalive, DATA_OVERHEAD)?;
        session.told = clock::now();
        self.send(number, &keepalive)
    }

    fn send(&self, number: usize, datagram: &[u8]) -> Result<()> {
        self.send_train(number, datagram, None)
    }

    /// Sends a train of a peer's datagrams, `segment` bytes each, in one call.
    pub(super) fn send_train(&self, number: usize, train: &[u8], segment: Option<u16>) -> Result<()> {
        let octets = outer_address(number).octets();
        let from = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(octets) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let from = ControlMessage::Ipv4PacketInfo(&from);
        let slices = [IoSlice::new(train)];
        let to = SockaddrStorage::from(self.daemon);
        let descriptor = self.socket.as_raw_fd();
        let flags = MsgFlags::empty();
        match segment {
            Some(segment) => {
                let control = [from, ControlMessage::UdpGsoSegments(&segment)];
                sendmsg(descriptor, &slices, &control, flags, Some(&to))
            }
            None => sendmsg(descriptor, &slices, &[from], flags, Some(&to)),
        }
        .context("a peer cannot send")?;
        Ok(())
    }
}

/// What a peer was told.
enum Heard<T> {
    Response(T),
    Cookie(T),
}

impl Peer {
    fn receive(&mut self, datagram: &[u8], now: Instant) -> Result<Heard<()>, Reject> {
        if let Ok(Message::CookieReply { .. }) = Message::parse(datagram) {
            self.handshake.read_cookie_reply(datagram, now)?;
            return Ok(Heard::Cookie(()));
        }
        let Addressed::Response(response) = self.identity.verify_mac1(datagram)? else {
            return Err(Reject::Malformed);
        };
        let pair = self.handshake.read_response(&self.identity, &response)?;
        self.session = Some(Session { pair, agreed: now, told: now });
        Ok(Heard::Response(()))
    }
}
