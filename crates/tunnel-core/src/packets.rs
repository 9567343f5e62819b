//! Packets that are routed together.

/// Packets that go the same way: those that one super-packet from the TUN was cut up into. Their IP headers agree in all
/// but length, identification and checksum.
pub trait Packets {
    /// The packet at hand; `None` after the last.
    fn packet(&self) -> Option<&[u8]>;

    /// Goes on to the next one.
    fn advance(&mut self);
}

/// One packet.
impl Packets for Option<&[u8]> {
    fn packet(&self) -> Option<&[u8]> {
        *self
    }

    fn advance(&mut self) {
        *self = None;
    }
}
