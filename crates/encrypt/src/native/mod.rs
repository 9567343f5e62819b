//! WireGuard's handshake (§5.4) composed over kept primitives: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, its macs and cookies.
//!
//! Sans-IO, for the owner of the peers alone. Whoever drives it has the clocks and the random numbers: `now` is a monotonic
//! clock, `wall` the wall clock that timestamps tell, `rng` any [`CryptoRngCore`] ([`OsRng`] in earnest, a seeded one in
//! tests). The same arguments give the same bytes.
//!
//! * [`LocalIdentity`] is our private key. It tells whether a handshake message is meant for us
//!   ([`verify_mac1`](LocalIdentity::verify_mac1)), asks for cookies, and answers initiations.
//! * [`PeerHandshake`] is what must live as long as a peer: the newest timestamp it sent, the pre-shared key, our
//!   initiation that is out.
//! * [`IndexTable`] finds whom a datagram is for by its receiver index.
//!
//! * [`NativeIdentity`] and [`NativeSession`] put all of this behind [`Identity`](crate::Identity) and
//!   [`Session`](crate::Session), as tunnels drive them.
//!
//! A handshake gives a [`KeyPair`](crate::transport::KeyPair). How long that lives, which of several is used, and when
//! to shake hands again is not decided here.
//!
//! # Example
//!
//! ```
//! use std::time::{Instant, SystemTime};
//! use encrypt::{
//!     INITIATION_LEN, PrivateKey, RESPONSE_LEN,
//!     native::{Addressed, LocalIdentity, OsRng, PeerHandshake},
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (now, wall) = (Instant::now(), SystemTime::now());
//! let (alice, bob) = (LocalIdentity::new(&PrivateKey::generate()), LocalIdentity::new(&PrivateKey::generate()));
//! let mut to_bob = PeerHandshake::new(bob.public_key(), None);
//! let mut to_alice = PeerHandshake::new(alice.public_key(), None);
//!
//! let mut initiation = [0; INITIATION_LEN];
//! to_bob.initiate(&alice, 0xa11ce, wall, now, &mut OsRng, &mut initiation)?;
//!
//! let Addressed::Initiation(received) = bob.verify_mac1(&initiation)? else { panic!() };
//! let (known, handshakes) = (alice.public_key(), &mut to_alice);
//! let find = move |claimed: &_| (*claimed == known).then_some(("alice", handshakes));
//! let mut response = [0; RESPONSE_LEN];
//! let (who, mut bobs) = bob.respond(&received, find, 0xb0b, now, &mut OsRng, &mut response)?;
//! assert_eq!(who, "alice");
//!
//! let Addressed::Response(received) = alice.verify_mac1(&response)? else { panic!() };
//! let alices = to_bob.read_response(&alice, &received)?;
//!
//! let mut keepalive = [0; 32];
//! alices.keys().lease(1)?.seal_train(&mut keepalive, 32)?;
//! let opened = bobs.keys().open(&mut keepalive)?;
//! assert!(bobs.commit(opened)?.is_keepalive());
//! # Ok(())
//! # }
//! ```

mod backend;
mod identity;
mod indices;
mod macs;
mod noise;
mod peer;
mod session;
mod system;
mod tai64n;

pub use rand_core::{CryptoRng, CryptoRngCore, Error as RngError, OsRng, RngCore};

#[cfg(feature = "test-util")]
pub use self::macs::write_mac1;
pub use self::{
    backend::NativeIdentity,
    identity::{Addressed, Claim, Initiation, LocalIdentity, Response},
    indices::IndexTable,
    peer::{LowOrderKey, PeerHandshake},
    session::NativeSession,
    system::Environment,
};

/// Where the fields of an initiation lie (§5.4.2).
mod initiation {
    use std::ops::Range;

    pub(super) const SENDER: Range<usize> = 4..8;
    pub(super) const EPHEMERAL: Range<usize> = 8..40;
    pub(super) const STATIC: Range<usize> = 40..88;
    pub(super) const TIMESTAMP: Range<usize> = 88..116;
}

/// Where the fields of a response lie (§5.4.3).
mod response {
    use std::ops::Range;

    pub(super) const SENDER: Range<usize> = 4..8;
    pub(super) const RECEIVER: Range<usize> = 8..12;
    pub(super) const EPHEMERAL: Range<usize> = 12..44;
    pub(super) const EMPTY: Range<usize> = 44..60;
}

/// Where the fields of a cookie reply lie (§5.4.7).
mod cookie_reply {
    use std::ops::Range;

    pub(super) const RECEIVER: Range<usize> = 4..8;
    pub(super) const NONCE: Range<usize> = 8..32;
    pub(super) const COOKIE: Range<usize> = 32..64;
}
