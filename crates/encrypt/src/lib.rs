#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "boringtun")]
pub mod boring;
#[cfg(feature = "test-util")]
pub mod deterministic;
mod ip;
mod keys;
pub mod native;
mod packet;
mod padding;
mod timers;
mod traits;
pub mod transport;
mod wipe;
mod wire;

pub use keys::{KEY_LEN, KeyError, PresharedKey, PrivateKey, PublicKey};
pub use packet::EncryptedPacket;
pub use padding::padded_len;
pub use timers::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_ATTEMPT_TIME, REKEY_TIMEOUT,
};
pub use traits::{
    COOKIE_REPLY_LEN, DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened, PeerIndex,
    RESPONSE_LEN, Reject, SealError, Session, SessionConfig, Stamps, TimerAction,
};
pub use transport::DATA_HEADER_LEN;
pub use wire::Message;
