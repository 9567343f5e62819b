//! Cutting a stream of bytes into lines of bounded length, wherever the reads happen to end.

use zeroize::{Zeroize, Zeroizing};

use super::MAX_LINE_LEN;

/// Bytes taken from a client at once.
const CAPACITY: usize = 16 << 10;
const _: () = assert!(CAPACITY > MAX_LINE_LEN, "a longest line must fit beside its newline");

/// Received bytes that are not yet lines. Keys pass through here, so it never grows, and lines that were used are wiped
/// before more is waited for: a client may stay for days.
#[derive(Debug)]
pub(super) struct LineBuffer {
    bytes: Zeroizing<Vec<u8>>,
    /// `start..end` is waiting to become lines.
    start: usize,
    end: usize,
    /// Inside a line that is too long, and already told: its rest is dropped.
    skipping: bool,
}

/// A line, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Text(&'a [u8]),
    /// More than [`MAX_LINE_LEN`] bytes; this many came so far.
    TooLong(usize),
    /// This many more of a line that is too long: one that never ends can be counted.
    More(usize),
}

impl LineBuffer {
    pub(super) fn new() -> Self {
        Self { bytes: Zeroizing::new(vec![0; CAPACITY]), start: 0, end: 0, skipping: false }
    }

    /// True at the start of a line.
    pub(super) const fn is_empty(&self) -> bool {
        self.start == self.end && !self.skipping
    }

    /// Where the next bytes go: never empty once [`next`](Self::next) has given `None`.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// `count` bytes were put into [`space`](Self::space).
    pub(super) fn advance(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// The next line, or `None` if more bytes are needed.
    pub(super) fn next(&mut self) -> Option<Line<'_>> {
        loop {
            let (start, pending) = (self.start, self.end - self.start);
            let newline = self.bytes[start..self.end].iter().position(|byte| *byte == b'\n');
            let Some(length) = newline else {
                if pending <= MAX_LINE_LEN {
                    self.forget_lines();
                    return None;
                }
                self.start = self.end;
                let told = std::mem::replace(&mut self.skipping, true);
                return Some(if told { Line::More(pending) } else { Line::TooLong(pending) });
            };
            self.start += length + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let text = &self.bytes[start..start + length];
            return Some(if length > MAX_LINE_LEN { Line::TooLong(length) } else { Line::Text(text) });
        }
    }

    /// Only what is not yet a line stays, at the beginning.
    fn forget_lines(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        let pending = self.end - self.start;
        self.bytes[pending..self.end].zeroize();
        (self.start, self.end) = (0, pending);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in pieces of the given sizes, and gives the lines; `None` for those too long.
    fn lines(stream: &[u8], pieces: &[usize]) -> Vec<Option<Vec<u8>>> {
        let mut buffer = LineBuffer::new();
        let mut found = Vec::new();
        let mut sizes = pieces.iter().copied().cycle();
        let mut rest = stream;
        while !rest.is_empty() {
            let space = buffer.space();
            assert!(!space.is_empty());
            let count = sizes.next().unwrap_or(1).clamp(1, rest.len()).min(space.len());
            let (piece, after) = rest.split_at(count);
            space[..count].copy_from_slice(piece);
            buffer.advance(count);
            rest = after;
            while let Some(line) = buffer.next() {
                match line {
                    Line::Text(text) => found.push(Some(text.to_vec())),
                    Line::TooLong(_) => found.push(None),
                    Line::More(_) => {}
                }
            }
        }
        found
    }

    #[test]
    fn lines_that_were_used_are_wiped_while_a_client_stays() {
        let mut buffer = LineBuffer::new();
        buffer.space()[..14].copy_from_slice(b"secret\nanother");
        buffer.advance(14);
        assert_eq!(buffer.next(), Some(Line::Text(b"secret")));
        assert_eq!(buffer.next(), None);
        assert_eq!(buffer.bytes[..8], *b"another\0");
        buffer.space()[..1].copy_from_slice(b"\n");
        buffer.advance(1);
        assert_eq!(buffer.next(), Some(Line::Text(b"another")));
        assert_eq!(buffer.next(), None);
        assert!(buffer.bytes.iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_where_reads_end(
            parts in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..40), prop_oneof![9 => 0..40usize, 1 => 900..40_000usize]),
                0..12,
            ),
            pieces in proptest::collection::vec(prop_oneof![1..60usize, 1..20_000usize], 1..8),
        ) {
            let mut stream = Vec::new();
            for (bytes, run) in parts {
                stream.extend(bytes);
                stream.extend(std::iter::repeat_n(b'x', run));
                stream.push(b'\n');
            }
            let naive: Vec<_> = stream
                .strip_suffix(b"\n")
                .map(|whole| whole.split(|byte| *byte == b'\n').collect::<Vec<_>>())
                .unwrap_or_default()
                .into_iter()
                .map(|line| (line.len() <= MAX_LINE_LEN).then(|| line.to_vec()))
                .collect();
            prop_assert_eq!(lines(&stream, &pieces), naive);
        }
    }

    #[test]
    fn a_longest_line_is_text_and_one_byte_more_is_not() {
        let line = |length: usize| [vec![b'a'; length], b"\n".to_vec()].concat();
        assert_eq!(lines(&line(MAX_LINE_LEN), &[7]), [Some(vec![b'a'; MAX_LINE_LEN])]);
        assert_eq!(lines(&line(MAX_LINE_LEN + 1), &[7]), [None]);
    }
}
