//! What keeps keys from being left behind in memory, and memory from being told to others.

use std::{
    fmt,
    io::{self, Read},
    ops::Deref,
};

use nix::sys::prctl::set_dumpable;
use zeroize::Zeroizing;

use crate::output;

/// No core of this process is dumped, and no program of its user without `CAP_SYS_PTRACE` reads or traces it (prctl(2),
/// `PR_SET_DUMPABLE`): what is under `/proc/PID` is root's. The programs that it starts are as they always are.
pub(crate) fn close_memory() {
    if let Err(error) = set_dumpable(false) {
        output::notice(format_args!(
            "volley: warning: a core dump, or another program of this user, may tell keys: {error}"
        ));
    }
}

/// Text with secrets in it. Every place that it has been in is wiped when it leaves it: the last one when dropped, and
/// those that it has grown out of.
#[derive(Debug, Default)]
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(String::with_capacity(bytes)))
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        let len = self.0.len() + text.len();
        if len > self.0.capacity() {
            let mut larger = Self::with_capacity(len.max(2 * self.0.capacity()));
            larger.0.push_str(&self.0);
            *self = larger;
        }
        self.0.push_str(text);
    }
}

impl Deref for SecretText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Write for SecretText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push_str(text);
        Ok(())
    }
}

/// Reads what has a secret in it to its end: some `expected` bytes, and `limit` at most.
///
/// # Errors
/// It cannot be read, or is longer.
pub(crate) fn read_to_end(
    mut from: impl Read,
    expected: usize,
    limit: usize,
) -> io::Result<Zeroizing<Vec<u8>>> {
    // One byte more than there is, in which the end shows.
    let mut bytes = Zeroizing::new(vec![0; expected.min(limit) + 1]);
    let mut len = 0;
    loop {
        match from.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if len > limit {
            return Err(io::Error::other("it is too large"));
        }
        if len == bytes.len() {
            let mut larger = Zeroizing::new(vec![0; 2 * len]);
            larger[..len].copy_from_slice(&bytes);
            bytes = larger;
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn text_grows_as_a_string_does() {
        let (mut text, mut naive) = (SecretText::with_capacity(3), String::new());
        for number in 0..500 {
            write!(text, "{number},é").unwrap();
            write!(naive, "{number},é").unwrap();
        }
        assert_eq!(*text, naive);
    }

    #[test]
    fn all_of_a_file_is_read_whatever_was_expected_and_none_past_the_limit() {
        let content: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        for expected in [0, 1, 9_999, 10_000, 10_001, usize::MAX] {
            assert_eq!(*read_to_end(&content[..], expected, 10_000).unwrap(), content, "{expected}");
            assert!(read_to_end(&content[..], expected, 9_999).is_err(), "{expected}");
        }
        assert_eq!(*read_to_end(&content[..0], 0, 10).unwrap(), [0; 0]);
    }
}
