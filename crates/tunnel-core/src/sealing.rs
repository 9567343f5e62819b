//! What is left to do to a batch of datagrams: sealing.

use encrypt::transport::Leases;
use gso_queue::Work;

/// The datagrams of a batch that are still plaintext, and the keys and counters that they are to be sealed with.
///
/// A tunnel lays packets into the batches of its [sink](gso_queue::DatagramSink) and leases counters for them; who takes a batch
/// out [finishes](gso_queue::Unfinished::finish) it, on whatever thread. Handshakes, and the data of backends that lend no keys,
/// are ready when they are laid.
#[derive(Debug, Default)]
pub struct Sealing(pub(crate) Leases);

impl Work for Sealing {
    fn finish(&mut self, datagrams: &mut [u8], segment_len: usize) {
        self.0.seal(datagrams, segment_len);
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
