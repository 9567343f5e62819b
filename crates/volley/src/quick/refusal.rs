//! What the kernel refuses, and what it says about it (NLMSGERR_ATTR_MSG, linux/netlink.h): an error number means many
//! things.

use std::{fmt, io};

use rtnetlink::packet_core::ErrorMessage;

/// The attribute with the kernel's words.
const MESSAGE: u16 = 1;

/// The length of `struct nlmsghdr`, which begins with the length of what it is the header of.
const HEADER_LEN: usize = 16;

/// An answer that is no good one.
#[derive(Debug)]
pub(super) struct Refusal {
    error: io::Error,
    words: Option<String>,
}

impl Refusal {
    pub(super) fn raw_os_error(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Some(words) => write!(f, "{}: {words}", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { error, words: None }
    }
}

impl From<rtnetlink::Error> for Refusal {
    fn from(error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                Self { error: message.to_io(), words: words(&message) }
            }
            other => io::Error::other(other.to_string()).into(),
        }
    }
}

/// What follows the request that the answer repeats: attributes, each a length, a type and a value, four bytes aligned.
fn words(message: &ErrorMessage) -> Option<String> {
    let answer = &message.header;
    let length = u32::from_ne_bytes(*answer.first_chunk()?) as usize;
    let mut rest = answer.get(aligned(length.max(HEADER_LEN))..)?;
    while let Some((head, _)) = rest.split_first_chunk::<4>() {
        let [length, kind] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_ne_bytes);
        let value = rest.get(head.len()..length.into())?;
        if kind == MESSAGE {
            let text = value.split(|byte| *byte == 0).next().filter(|text| !text.is_empty())?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get(aligned(length.into())..)?;
    }
    None
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn answer(request: usize, attributes: &[Vec<u8>]) -> ErrorMessage {
        let mut message = ErrorMessage::default();
        message.code = std::num::NonZeroI32::new(-13);
        message.header = vec![0; aligned(request)];
        message.header[..4].copy_from_slice(&u32::try_from(request).unwrap().to_ne_bytes());
        message.header.extend(attributes.concat());
        message
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_request() {
        let (offset, said) = (attribute(2, &[9; 4]), attribute(MESSAGE, b"no IPv6 here\0"));
        for request in [16, 17, 40] {
            let refusal = Refusal::from(rtnetlink::Error::NetlinkError(answer(
                request,
                &[offset.clone(), said.clone()],
            )));
            assert_eq!(refusal.to_string(), "Permission denied (os error 13): no IPv6 here");
            assert_eq!(refusal.raw_os_error(), Some(13));
        }
        assert_eq!(words(&answer(16, &[offset])), None);
        assert_eq!(words(&answer(16, &[attribute(MESSAGE, b"\0")])), None);
    }

    #[test]
    fn an_answer_that_is_cut_off_or_lies_has_no_words() {
        let whole = answer(20, &[attribute(2, &[9; 4]), attribute(MESSAGE, b"words\0")]);
        for length in 0..whole.header.len() {
            let mut cut = whole.clone();
            cut.header.truncate(length);
            let _ = words(&cut);
            let mut lies = whole.clone();
            lies.header[length] = 0xff;
            let _ = words(&lies);
        }
        let mut endless = answer(16, &[]);
        endless.header.extend([0, 0, 9, 0, 0, 0, 0, 0]);
        assert_eq!(words(&endless), None, "an attribute of no length leads nowhere");
    }
}
