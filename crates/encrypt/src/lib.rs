#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod keys;
mod traits;

pub use keys::{KEY_LEN, PresharedKey, PrivateKey, PublicKey};
pub use traits::{
    COOKIE_REPLY_LEN, Classified, DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened,
    PeerIndex, RESPONSE_LEN, Reject, SealError, Session, SessionConfig, TimerAction,
};
