//! A WireGuard peer that tells every secret of its handshakes, in either role, straight from the paper (§5.4). Of the code
//! that is tested it uses nothing.

use std::{
    fs::File,
    io::Read,
    net::{SocketAddr, UdpSocket},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{FixedOutput, KeyInit, Mac, consts::U16},
};
use chacha20poly1305::{AeadInPlace, ChaCha20Poly1305};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::clock;

/// A key, or what keys are made of.
pub type Word = [u8; 32];

const INITIATION: [u8; 4] = [1, 0, 0, 0];
const RESPONSE: [u8; 4] = [2, 0, 0, 0];
const DATA: [u8; 4] = [4, 0, 0, 0];
/// The receiver index of what is sent to us.
const OUR_INDEX: [u8; 4] = *b"test";
const HEADER: usize = 16;
const TAG: usize = 16;
/// How long the other end may say nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// The peer, and its one session.
#[derive(Debug)]
pub struct KnownPeer {
    socket: UdpSocket,
    private: Word,
    preshared_key: Word,
    remote: Word,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    receiver: [u8; 4],
    sealing: Word,
    opening: Word,
    counter: u64,
}

/// What one handshake made, by name.
#[derive(Debug)]
pub struct HandshakeSecrets {
    /// The keys of its session.
    pub session: Vec<(&'static str, Word)>,
    /// What nobody needs any more once the handshake is done.
    pub passing: Vec<(&'static str, Word)>,
}

/// 32 random bytes.
///
/// # Errors
/// When there are none.
pub fn random_key() -> Result<Word> {
    let mut key = [0; 32];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut key)).context("/dev/urandom")?;
    Ok(key)
}

/// The public key of a private one.
pub fn public_key(private: &Word) -> Word {
    PublicKey::from(&StaticSecret::from(*private)).to_bytes()
}

impl KnownPeer {
    /// A peer in this thread's network namespace, of the daemon with the public key `remote` at `address`.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn new(private: Word, preshared_key: Word, remote: Word, address: SocketAddr) -> Result<Self> {
        let any = SocketAddr::new(address.ip(), 0);
        let socket = UdpSocket::bind(any).context("a peer's socket")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, private, preshared_key, remote, session: None })
    }

    /// Where it is.
    ///
    /// # Errors
    /// None in practice.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Its public key.
    pub fn public_key(&self) -> Word {
        public_key(&self.private)
    }

    /// What Diffie–Hellman makes of both static keys.
    pub fn static_shared(&self) -> Word {
        diffie_hellman(&self.private, &self.remote)
    }

    /// Another pre-shared key, from the next handshake on.
    pub fn set_preshared_key(&mut self, key: Word) {
        self.preshared_key = key;
    }

    /// The other end has another key from now on.
    pub fn set_remote(&mut self, remote: Word) {
        self.remote = remote;
    }

    /// A whole handshake that this end begins, with the first message of its session.
    ///
    /// # Errors
    /// When the other end does not answer, or wrongly.
    pub fn initiate(&mut self) -> Result<HandshakeSecrets> {
        let ephemeral = random_key()?;
        let public = public_key(&ephemeral);
        let mut noise = Noise::new(&self.remote);
        noise.mix_ephemeral(&public);
        let mut message = [&INITIATION[..], &OUR_INDEX, &public].concat();
        let key = noise.mix("es", &diffie_hellman(&ephemeral, &self.remote));
        message.extend(noise.seal(&key, &self.public_key()));
        let key = noise.mix("ss", &self.static_shared());
        message.extend(noise.seal(&key, &timestamp()?));
        self.send_handshake(message)?;

        let response = self.receive(RESPONSE)?;
        ensure!(response.len() == 92 && response[8..12] == OUR_INDEX, "a response to somebody else");
        let theirs: Word = response[12..44].try_into()?;
        noise.mix_ephemeral(&theirs);
        noise.mix("ee", &diffie_hellman(&ephemeral, &theirs));
        noise.mix("se", &diffie_hellman(&self.private, &theirs));
        let key = noise.mix_preshared_key(&self.preshared_key);
        noise.open(&key, &response[44..60])?;
        let (initiators, responders) = noise.split();
        let receiver = response[4..8].try_into()?;
        self.session = Some(Session { receiver, sealing: initiators, opening: responders, counter: 0 });
        self.seal(&[])?;
        Ok(noise.into_secrets(initiators, responders))
    }

    /// A whole handshake that the other end begins, with the first message of its session.
    ///
    /// # Errors
    /// When the other end does not begin one, or wrongly.
    pub fn respond(&mut self) -> Result<HandshakeSecrets> {
        let initiation = self.receive(INITIATION)?;
        ensure!(initiation.len() == 148, "an initiation of {} bytes", initiation.len());
        let theirs: Word = initiation[8..40].try_into()?;
        let mut noise = Noise::new(&self.public_key());
        noise.mix_ephemeral(&theirs);
        let key = noise.mix("es", &diffie_hellman(&self.private, &theirs));
        ensure!(noise.open(&key, &initiation[40..88])? == self.remote, "an initiation from somebody else");
        let key = noise.mix("ss", &self.static_shared());
        noise.open(&key, &initiation[88..116])?;

        let ephemeral = random_key()?;
        let public = public_key(&ephemeral);
        noise.mix_ephemeral(&public);
        let mut message = [&RESPONSE[..], &OUR_INDEX, &initiation[4..8], &public].concat();
        noise.mix("ee", &diffie_hellman(&ephemeral, &theirs));
        noise.mix("se", &diffie_hellman(&ephemeral, &self.remote));
        let key = noise.mix_preshared_key(&self.preshared_key);
        message.extend(noise.seal(&key, &[]));
        self.send_handshake(message)?;

        let (initiators, responders) = noise.split();
        let receiver = initiation[4..8].try_into()?;
        self.session = Some(Session { receiver, sealing: responders, opening: initiators, counter: 0 });
        // Whatever it is, its sender has the keys.
        self.open()?;
        Ok(noise.into_secrets(initiators, responders))
    }

    /// Sends the next UDP packet over IPv4 back to whom it came from. No checksum changes.
    ///
    /// # Errors
    /// When none comes.
    pub fn echo(&mut self) -> Result<()> {
        let mut packet = self.open()?;
        while packet.first() != Some(&0x45) || packet[9] != 17 {
            packet = self.open()?;
        }
        let (source, target) = (&packet[12..16], &packet[16..20]);
        let (from, to) = (&packet[20..22], &packet[22..24]);
        self.seal(&[&packet[..12], target, source, to, from, &packet[24..]].concat())
    }

    fn seal(&mut self, packet: &[u8]) -> Result<()> {
        let session = self.session.as_mut().context("no session yet")?;
        let counter = session.counter.to_le_bytes();
        session.counter += 1;
        let mut padded = packet.to_vec();
        padded.resize(packet.len().next_multiple_of(16), 0);
        let sealed = seal(&session.sealing, counter, &[], &padded);
        self.socket.send(&[&DATA[..], &session.receiver, &counter, &sealed].concat())?;
        Ok(())
    }

    /// The content of the next data message.
    fn open(&self) -> Result<Vec<u8>> {
        let session = self.session.as_ref().context("no session yet")?;
        let message = self.receive(DATA)?;
        ensure!(message.len() >= HEADER + TAG, "a data message of {} bytes", message.len());
        let counter = message[8..HEADER].try_into()?;
        open(&session.opening, counter, &[], &message[HEADER..])
    }

    /// A handshake message, with its mac1.
    fn send_handshake(&self, mut message: Vec<u8>) -> Result<()> {
        let key = hash(&[b"mac1----", &self.remote]);
        let mut mac = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key).expect("32 bytes will do");
        Mac::update(&mut mac, &message);
        message.extend(mac.finalize_fixed());
        message.extend([0; 16]);
        self.socket.send(&message)?;
        Ok(())
    }

    /// The next message of a kind, whatever comes before it.
    fn receive(&self, kind: [u8; 4]) -> Result<Vec<u8>> {
        let end = clock::now() + PATIENCE;
        while clock::now() < end {
            let mut message = vec![0; 2_000];
            let received = self.socket.recv(&mut message).context("the other end says nothing")?;
            message.truncate(received);
            if message.starts_with(&kind) {
                return Ok(message);
            }
        }
        Err(anyhow!("the other end says other things"))
    }
}

/// A handshake's transcript, and every secret that went through it.
struct Noise {
    chaining_key: Word,
    hash: Word,
    seen: Vec<(&'static str, Word)>,
}

impl Noise {
    fn new(responder: &Word) -> Self {
        let chaining_key = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let start = hash(&[&chaining_key, b"WireGuard v1 zx2c4 Jason@zx2c4.com"]);
        Self { chaining_key, hash: hash(&[&start, responder]), seen: Vec::new() }
    }

    fn mix_ephemeral(&mut self, public: &Word) {
        self.hash = hash(&[&self.hash, public]);
        let [next, ..] = kdf(&self.chaining_key, public);
        self.chaining_key = next;
        // The first is known to everybody.
        if !self.seen.is_empty() {
            self.seen.push(("a chaining key", next));
        }
    }

    /// Mixes in what Diffie–Hellman gave; gives a key to seal one field with.
    fn mix(&mut self, name: &'static str, shared: &Word) -> Word {
        let [next, key, _] = kdf(&self.chaining_key, shared);
        self.chaining_key = next;
        // It is no secret of one handshake, but of both static keys.
        if name != "ss" {
            self.seen.push((name, *shared));
        }
        self.seen.extend([("a chaining key", next), ("a key of the handshake", key)]);
        key
    }

    fn mix_preshared_key(&mut self, preshared_key: &Word) -> Word {
        let [next, for_hash, key] = kdf(&self.chaining_key, preshared_key);
        self.chaining_key = next;
        self.hash = hash(&[&self.hash, &for_hash]);
        self.seen.extend([("the last chaining key", next), ("a key of the handshake", key)]);
        key
    }

    fn seal(&mut self, key: &Word, plaintext: &[u8]) -> Vec<u8> {
        let sealed = seal(key, [0; 8], &self.hash, plaintext);
        self.hash = hash(&[&self.hash, &sealed]);
        sealed
    }

    fn open(&mut self, key: &Word, sealed: &[u8]) -> Result<Vec<u8>> {
        let content = open(key, [0; 8], &self.hash, sealed)?;
        self.hash = hash(&[&self.hash, sealed]);
        Ok(content)
    }

    /// The initiator's key and the responder's.
    fn split(&self) -> (Word, Word) {
        let [initiators, responders, _] = kdf(&self.chaining_key, &[]);
        (initiators, responders)
    }

    fn into_secrets(self, initiators: Word, responders: Word) -> HandshakeSecrets {
        let session = vec![("initiator's session key", initiators), ("responder's session key", responders)];
        HandshakeSecrets { session, passing: self.seen }
    }
}

fn diffie_hellman(private: &Word, public: &Word) -> Word {
    StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*public)).to_bytes()
}

fn hash(parts: &[&[u8]]) -> Word {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| Digest::update(&mut hash, part));
    hash.finalize().into()
}

fn hmac(key: &Word, parts: &[&[u8]]) -> Word {
    let mut hmac =
        <hmac::SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key).expect("a key of any length will do");
    parts.iter().for_each(|part| Mac::update(&mut hmac, part));
    hmac.finalize_fixed().into()
}

fn kdf(key: &Word, input: &[u8]) -> [Word; 3] {
    let secret = hmac(key, &[input]);
    let first = hmac(&secret, &[&[1]]);
    let second = hmac(&secret, &[&first, &[2]]);
    [first, second, hmac(&secret, &[&second, &[3]])]
}

/// Content and tag.
fn seal(key: &Word, counter: [u8; 8], additional: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut content = plaintext.to_vec();
    let tag = ChaCha20Poly1305::new(key.into())
        .encrypt_in_place_detached(&nonce(counter), additional, &mut content)
        .expect("a datagram is short");
    [&content[..], &tag].concat()
}

fn open(key: &Word, counter: [u8; 8], additional: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let (content, tag) = sealed.split_last_chunk::<TAG>().context("no tag")?;
    let mut content = content.to_vec();
    ChaCha20Poly1305::new(key.into())
        .decrypt_in_place_detached(&nonce(counter), additional, &mut content, tag.into())
        .map_err(|_| anyhow!("a message is not authentic"))?;
    Ok(content)
}

fn nonce(counter: [u8; 8]) -> chacha20poly1305::Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter);
    nonce.into()
}

/// TAI64N, with all its bits: later than any of ours before.
fn timestamp() -> Result<[u8; 12]> {
    let time = clock::wall().duration_since(SystemTime::UNIX_EPOCH)?;
    let seconds = (0x4000_0000_0000_000a + time.as_secs()).to_be_bytes();
    Ok([&seconds[..], &time.subsec_nanos().to_be_bytes()].concat().as_slice().try_into()?)
}
