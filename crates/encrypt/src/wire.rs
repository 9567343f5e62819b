//! The form of WireGuard's four messages (§5.4): type, reserved bytes, lengths, indices. No secrets here.

use crate::{COOKIE_REPLY_LEN, DATA_OVERHEAD, INITIATION_LEN, RESPONSE_LEN, Reject};

/// Message types, with the three reserved zero bytes that follow them, as one little-endian word.
pub(crate) const TYPE_INITIATION: u32 = 1;
pub(crate) const TYPE_RESPONSE: u32 = 2;
pub(crate) const TYPE_COOKIE_REPLY: u32 = 3;
pub(crate) const TYPE_DATA: u32 = 4;

/// A datagram that has the form of a WireGuard message. Nothing is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A handshake initiation (§5.4.2).
    Initiation {
        /// The receiver index for messages to the initiator.
        sender: u32,
    },
    /// A handshake response (§5.4.3).
    Response {
        /// The receiver index for messages to the responder.
        sender: u32,
        /// The index of the initiation.
        receiver: u32,
    },
    /// A cookie reply (§5.4.7).
    CookieReply {
        /// The index of the message that it answers.
        receiver: u32,
    },
    /// A data message (§5.4.6).
    Data {
        /// The index of the session.
        receiver: u32,
        /// The number of the message in its session.
        counter: u64,
    },
}

impl Message {
    /// Reads type, reserved bytes, length and indices. Once this returns `Ok`, every fixed offset of that message type is
    /// inside `datagram`.
    ///
    /// # Errors
    /// [`Reject::Malformed`] if it is none of the four.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<Self, Reject> {
        // The shortest message is an empty data message; nothing below reads past this many bytes.
        if datagram.len() < DATA_OVERHEAD {
            return Err(Reject::Malformed);
        }
        match (u32_at(datagram, 0), datagram.len()) {
            (TYPE_DATA, _) => Ok(Self::Data { receiver: u32_at(datagram, 4), counter: u64_at(datagram, 8) }),
            (TYPE_INITIATION, INITIATION_LEN) => Ok(Self::Initiation { sender: u32_at(datagram, 4) }),
            (TYPE_RESPONSE, RESPONSE_LEN) => {
                Ok(Self::Response { sender: u32_at(datagram, 4), receiver: u32_at(datagram, 8) })
            }
            (TYPE_COOKIE_REPLY, COOKIE_REPLY_LEN) => Ok(Self::CookieReply { receiver: u32_at(datagram, 4) }),
            _ => Err(Reject::Malformed),
        }
    }

    /// True for initiations and responses, which end with mac1 and mac2 (§5.4.4).
    pub const fn has_macs(&self) -> bool {
        matches!(self, Self::Initiation { .. } | Self::Response { .. })
    }
}

/// The little-endian word at `at`, which must lie inside `bytes`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The little-endian double word at `at`, which must lie inside `bytes`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_exact_lengths_and_zero_reserved_bytes_are_messages() {
        for (kind, len) in [(1u8, 148), (2, 92), (3, 64)] {
            let mut datagram = vec![0; len];
            datagram[0] = kind;
            assert!(Message::parse(&datagram).is_ok());
            for reserved in 1..4 {
                let mut bad = datagram.clone();
                bad[reserved] = 1;
                assert_eq!(Message::parse(&bad), Err(Reject::Malformed));
            }
            assert_eq!(Message::parse(&datagram[..len - 1]), Err(Reject::Malformed));
            datagram.push(0);
            assert_eq!(Message::parse(&datagram), Err(Reject::Malformed));
        }
    }

    #[test]
    fn data_fields_are_little_endian() {
        let mut datagram = vec![4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        datagram.resize(32, 0);
        assert_eq!(
            Message::parse(&datagram),
            Ok(Message::Data { receiver: 0x0403_0201, counter: 0x0c0b_0a09_0807_0605 })
        );
        assert_eq!(Message::parse(&datagram[..31]), Err(Reject::Malformed));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..6) {
            let mut bytes = bytes;
            let _ = Message::parse(&bytes);
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
                let _ = Message::parse(&bytes);
            }
        }
    }
}
