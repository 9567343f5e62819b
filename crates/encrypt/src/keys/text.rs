//! Keys as text: base64 for people and files, hexadecimal for the configuration protocol. Every key may be a
//! secret here: it is decoded into its own place and encoded into a buffer that never grows, and what lies in
//! between is zeroized.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{KEY_LEN, KeyError};

/// Length of a key in base64, as `wg` reads and writes it: padded.
pub(super) const BASE64_LEN: usize = 44;
/// Length of a key in hexadecimal, as the configuration protocol has it.
pub(super) const HEX_LEN: usize = 2 * KEY_LEN;

/// # Errors
/// [`KeyError::Base64`]; `key` is as it was.
pub(super) fn decode_base64(text: &str, key: &mut [u8; KEY_LEN]) -> Result<(), KeyError> {
    if text.len() != BASE64_LEN {
        return Err(KeyError::Base64);
    }
    // One byte more than a key: what 44 characters without padding would give.
    let mut decoded = Zeroizing::new([0; KEY_LEN + 1]);
    match STANDARD.decode_slice(text, &mut decoded[..]) {
        Ok(KEY_LEN) => key.copy_from_slice(&decoded[..KEY_LEN]),
        _ => return Err(KeyError::Base64),
    }
    Ok(())
}

/// # Errors
/// [`KeyError::Hex`]; a part of `key` may have been written.
pub(super) fn decode_hex(text: &str, key: &mut [u8; KEY_LEN]) -> Result<(), KeyError> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != KEY_LEN || !rest.is_empty() {
        return Err(KeyError::Hex);
    }
    let digit = |char: u8| char::from(char).to_digit(16).ok_or(KeyError::Hex);
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4 | digit(*low)?) as u8;
    }
    Ok(())
}

pub(super) fn encode_base64(key: &[u8; KEY_LEN]) -> String {
    // Not the library's own way to a `String`: that one goes through a buffer which it leaves as it is.
    let mut encoded = Zeroizing::new([0; BASE64_LEN]);
    let len = STANDARD.encode_slice(key, &mut encoded[..]).expect("44 characters are room for 32 bytes");
    ascii(encoded[..len].iter().copied(), BASE64_LEN)
}

pub(super) fn encode_hex(key: &[u8; KEY_LEN]) -> String {
    let nibbles = key.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    ascii(nibbles.map(|nibble| b"0123456789abcdef"[usize::from(nibble)]), HEX_LEN)
}

/// The capacity is exact: growing would leave copies of the secret behind.
fn ascii(characters: impl Iterator<Item = u8>, len: usize) -> String {
    let mut text = String::with_capacity(len);
    characters.for_each(|character| text.push(char::from(character)));
    text
}
