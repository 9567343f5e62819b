//! mac1, mac2 and cookies (§5.4.4, §5.4.7): what a handshake message must carry before anybody computes for it.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305};
use rand_core::CryptoRngCore;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    cookie_reply,
    noise::{Invalid, SecretWord, Word, hash, mac},
};
use crate::{COOKIE_REPLY_LEN, PublicKey, wire::TYPE_COOKIE_REPLY};

/// Length of a mac and of a cookie.
pub(super) const MAC_LEN: usize = 16;
/// Both macs are at the end of a message.
const MACS_LEN: usize = 2 * MAC_LEN;

/// How long the secret that makes our cookies lives, and how long a cookie of a peer is used (§5.3; the kernel's
/// COOKIE_SECRET_MAX_AGE).
pub(super) const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// A cookie; wiped when dropped.
pub(super) type Cookie = Zeroizing<[u8; MAC_LEN]>;

/// The keys that anybody can derive from the public key of a message's receiver.
pub(super) struct ReceiverKeys {
    mac1: Word,
    cookie: Word,
}

impl ReceiverKeys {
    pub(super) fn new(receiver: &PublicKey) -> Self {
        Self {
            mac1: hash(&[b"mac1----", receiver.as_bytes()]),
            cookie: hash(&[b"cookie--", receiver.as_bytes()]),
        }
    }

    /// Writes both macs of a message; gives mac1. Without a cookie mac2 is zeros.
    pub(super) fn write_macs(&self, message: &mut [u8], cookie: Option<&Cookie>) -> [u8; MAC_LEN] {
        let (covered, macs) = message.split_at_mut(message.len() - MACS_LEN);
        let mac1 = mac(&self.mac1, &[covered]);
        let mac2 = cookie.map_or([0; MAC_LEN], |cookie| mac(&**cookie, &[covered, &mac1]));
        macs[..MAC_LEN].copy_from_slice(&mac1);
        macs[MAC_LEN..].copy_from_slice(&mac2);
        mac1
    }

    pub(super) fn mac1_holds(&self, message: &[u8]) -> bool {
        let (covered, macs) = message.split_at(message.len() - MACS_LEN);
        mac(&self.mac1, &[covered]).ct_eq(&macs[..MAC_LEN]).into()
    }

    /// Writes the reply that carries `cookie` to the sender of a message.
    pub(super) fn write_cookie_reply(
        &self,
        sender: u32,
        mac1: &[u8],
        cookie: &Cookie,
        rng: &mut dyn CryptoRngCore,
        out: &mut [u8; COOKIE_REPLY_LEN],
    ) {
        out[..4].copy_from_slice(&TYPE_COOKIE_REPLY.to_le_bytes());
        out[cookie_reply::RECEIVER].copy_from_slice(&sender.to_le_bytes());
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        out[cookie_reply::NONCE].copy_from_slice(&nonce);
        let (content, tag) = out[cookie_reply::COOKIE].split_at_mut(MAC_LEN);
        content.copy_from_slice(&**cookie);
        let sealed = XChaCha20Poly1305::new(&self.cookie.into())
            .encrypt_in_place_detached(&nonce.into(), mac1, content)
            .expect("a cookie is short");
        tag.copy_from_slice(&sealed);
    }

    /// Reads the cookie that the receiver of our message with this `mac1` gave us, into `cookie`.
    ///
    /// # Errors
    /// The reply is not authentic, or answers another message; `cookie` is as it was.
    pub(super) fn read_cookie_reply(
        &self,
        mac1: &[u8; MAC_LEN],
        reply: &[u8; COOKIE_REPLY_LEN],
        cookie: &mut Cookie,
    ) -> Result<(), Invalid> {
        let (sealed, tag) = reply[cookie_reply::COOKIE].split_at(MAC_LEN);
        let mut content = Zeroizing::new([0; MAC_LEN]);
        content.copy_from_slice(sealed);
        XChaCha20Poly1305::new(&self.cookie.into())
            .decrypt_in_place_detached(reply[cookie_reply::NONCE].into(), mac1, &mut *content, tag.into())
            .map_err(|_| Invalid)?;
        cookie.copy_from_slice(&*content);
        Ok(())
    }
}

/// Makes the cookies that we give: each is bound to an address and a port, and to a secret that changes.
pub(super) struct CookieMaker {
    secret: Box<SecretWord>,
    /// When the secret was made; `None` before the first cookie.
    born: Option<Instant>,
}

impl CookieMaker {
    pub(super) fn new() -> Self {
        Self { secret: Box::new(Zeroizing::new([0; 32])), born: None }
    }

    /// The cookie of whoever receives at `address`, at this time.
    pub(super) fn cookie(
        &mut self,
        address: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRngCore,
    ) -> Cookie {
        let is_young = |born: Instant| now.saturating_duration_since(born) < COOKIE_LIFETIME;
        if !self.born.is_some_and(is_young) {
            rng.fill_bytes(&mut **self.secret);
            self.born = Some(now);
        }
        let port = address.port().to_be_bytes();
        Zeroizing::new(match address.ip() {
            IpAddr::V4(ip) => mac(&**self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&**self.secret, &[&ip.octets(), &port]),
        })
    }
}

/// True if mac2 of `message` was made with `cookie`.
pub(super) fn mac2_holds(message: &[u8], cookie: &Cookie) -> bool {
    let (covered, mac2) = message.split_at(message.len() - MAC_LEN);
    mac(&**cookie, &[covered]).ct_eq(mac2).into()
}

/// Writes mac1 of a handshake message to the holder of `receiver`, and no mac2, as anybody can who knows that key: for tests of what
/// comes after mac1.
#[cfg(feature = "test-util")]
pub fn write_mac1(message: &mut [u8], receiver: &PublicKey) {
    ReceiverKeys::new(receiver).write_macs(message, None);
}

/// mac1 of a message.
pub(super) fn mac1_of(message: &[u8]) -> &[u8] {
    &message[message.len() - MACS_LEN..message.len() - MAC_LEN]
}
