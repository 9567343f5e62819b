//! Work that is left for later: a batch's datagrams are laid out now and made ready in one go.

/// What is still to be done to a batch's bytes before they may leave: encryption, say, or checksums. The queue
/// knows nothing of what it is.
///
/// Whoever appends a datagram notes in its batch's `Work` what that datagram needs ([`Slot::work`]), and
/// [`Unfinished::finish`](crate::Unfinished::finish) does it for the whole batch, once, on whatever thread the batch
/// was moved to. A queue whose datagrams are ready when they are written has `()` for its work.
///
/// The values are pooled with the buffers and used again, so those that allocate should keep what they have
/// allocated. At most one note per datagram keeps them bounded as the queue is.
pub trait Work: Default + Send {
    /// Does all that is left to do. `datagrams` are those of the batch, back to back, `segment_len` bytes each but for
    /// the last, which may be shorter. Afterwards nothing is left.
    fn finish(&mut self, datagrams: &mut [u8], segment_len: usize);

    /// Forgets what is left to do: the datagrams are given up.
    fn clear(&mut self);
}

/// Nothing is left to do.
impl Work for () {
    fn finish(&mut self, _: &mut [u8], _: usize) {}

    fn clear(&mut self) {}
}

/// The place of a datagram in its batch, for whoever writes it.
#[derive(Debug)]
pub struct Slot<'a, W = ()> {
    /// The datagram: as many bytes as were asked for, of unspecified content.
    pub bytes: &'a mut [u8],
    /// Its number in the batch: `work` finds it there, at `segment` times the batch's segment length.
    pub segment: usize,
    /// What is left to do to this batch. To be changed last, once nothing can fail.
    pub work: &'a mut W,
}
