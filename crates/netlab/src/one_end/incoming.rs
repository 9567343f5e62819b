//! The load of an end that receives: everything is sealed beforehand, so that while it is sent nobody encrypts.

use std::time::Duration;

use anyhow::{Result, ensure};
use encrypt::transport::{DATA_HEADER_LEN, DATA_TAG_LEN, TransportKeys};
use std::sync::Arc;

use super::{
    FULL_TRAIN, FarCipher,
    far::FarEnd,
    frames::{InnerProtocol, PACKET_LEN, Packets},
    meter::DATAGRAM_LEN,
    pace::Pace,
};
use crate::clock;

/// One train, bytes: what one send may carry over IPv4 is 65,507.
const TRAIN_LEN: usize = FULL_TRAIN * DATAGRAM_LEN;

/// What comes in, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// What the inner packets are: a daemon may join those of either protocol before it hands them on.
    pub protocol: InnerProtocol,
    /// Inner bits per second.
    pub rate: f64,
    /// For how long. What does not fit into the memory is sealed and sent in several goes; the pauses between them do
    /// not count.
    pub time: Duration,
    /// How much may be sealed beforehand, bytes.
    pub memory: usize,
}

impl Incoming {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.rate > 0.0, "no load at all");
        ensure!(self.memory >= TRAIN_LEN, "not even one train of {TRAIN_LEN} bytes can be sealed beforehand");
        Ok(())
    }

    fn packets_per_second(&self) -> f64 {
        self.rate / (PACKET_LEN * 8) as f64
    }

    /// How many trains are sealed at once in each go.
    pub(super) fn goes(&self) -> impl Iterator<Item = usize> {
        let trains = self.time.as_secs_f64() * self.packets_per_second() / FULL_TRAIN as f64;
        let (all, most) = (trains.ceil() as usize, self.memory / TRAIN_LEN);
        (0..all).step_by(most).map(move |before| most.min(all - before))
    }
}

/// Trains of one session, ready to be sent.
#[derive(Default)]
pub(super) struct Sealed {
    /// Kept from one load to the next: its pages are there then.
    bytes: Vec<u8>,
}

impl Sealed {
    /// Lays out and seals `trains` trains of the next packets.
    pub(super) fn prepare(
        &mut self,
        packets: &mut Packets,
        keys: &Arc<TransportKeys>,
        cipher: FarCipher,
        trains: usize,
    ) -> Result<()> {
        self.bytes.resize(trains * TRAIN_LEN, 0);
        for train in self.bytes.chunks_exact_mut(TRAIN_LEN) {
            for datagram in train.chunks_exact_mut(DATAGRAM_LEN) {
                packets.write_next(&mut datagram[DATA_HEADER_LEN..][..PACKET_LEN]);
            }
            let lease = keys.lease(FULL_TRAIN)?;
            match cipher {
                FarCipher::WireGuard => lease.seal_train(train, DATAGRAM_LEN)?,
                FarCipher::None => {
                    for (datagram, counter) in train.chunks_exact_mut(DATAGRAM_LEN).zip(lease.counters()) {
                        leave_open(datagram, keys.remote_index(), counter);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends all of it at the rate. Gives how many packets that was.
    pub(super) fn send(&self, far: &FarEnd, load: &Incoming) -> Result<u64> {
        let mut pace = Pace::new(load.packets_per_second());
        let start = clock::now();
        for train in self.bytes.chunks_exact(TRAIN_LEN) {
            loop {
                let elapsed = start.elapsed();
                if pace.is_due(FULL_TRAIN, elapsed) {
                    break;
                }
                pace.wait_for(FULL_TRAIN, elapsed);
            }
            far.send_train(0, train, Some(DATAGRAM_LEN as u16))?;
            pace.sent(FULL_TRAIN);
        }
        Ok((self.bytes.len() / DATAGRAM_LEN) as u64)
    }
}

/// The form of a data message (§5.4.6) and nothing of its protection. Only a daemon that was built without a cipher
/// takes it.
fn leave_open(datagram: &mut [u8], receiver: u32, counter: u64) {
    datagram[..4].copy_from_slice(&4_u32.to_le_bytes());
    datagram[4..8].copy_from_slice(&receiver.to_le_bytes());
    datagram[8..16].copy_from_slice(&counter.to_le_bytes());
    let tag = datagram.len() - DATA_TAG_LEN;
    datagram[tag..].fill(0);
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use encrypt::transport::KeyPair;

    use super::*;
    use crate::wire::{WireKind, check_packet};

    const LOAD: Incoming =
        Incoming { protocol: InnerProtocol::Tcp, rate: 1e9, time: Duration::from_secs(1), memory: 1 << 20 };

    #[test]
    fn no_more_is_sealed_than_the_memory_holds_or_the_time_takes() {
        let goes: Vec<_> = LOAD.goes().collect();
        assert_eq!(goes.iter().sum::<usize>(), 1957);
        assert_eq!(goes[0], (1 << 20) / TRAIN_LEN);
        assert!(goes[..goes.len() - 1].iter().all(|trains| *trains == goes[0]), "{goes:?}");
        assert_eq!(Incoming { memory: 1 << 30, ..LOAD }.goes().collect::<Vec<_>>(), [1957]);
        assert!(Incoming { memory: TRAIN_LEN - 1, ..LOAD }.check().is_err());
    }

    #[test]
    fn what_is_sealed_opens_as_the_packets_it_was_made_of_each_counter_once() {
        let ours = KeyPair::new(1, 2, &[1; 32], &[2; 32]);
        let mut theirs = KeyPair::new(2, 1, &[2; 32], &[1; 32]);
        let mut packets = Packets::new(LOAD.protocol, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        let mut sealed = Sealed::default();
        for _ in 0..2 {
            sealed.prepare(&mut packets, ours.keys(), FarCipher::WireGuard, 3).unwrap();
            for datagram in sealed.bytes.chunks_exact_mut(DATAGRAM_LEN) {
                let opened = theirs.keys().open(datagram).unwrap();
                assert!(!theirs.commit(opened).unwrap().is_keepalive());
                let packet = &datagram[DATA_HEADER_LEN..][..PACKET_LEN];
                assert_eq!(check_packet(packet), (WireKind::TcpV4, Ok(())));
            }
        }
        assert_eq!(ours.keys().leased(), 2 * 3 * FULL_TRAIN as u64);
    }

    #[test]
    fn without_a_cipher_the_packets_lie_open_under_the_same_headers() {
        let ours = KeyPair::new(1, 2, &[1; 32], &[2; 32]);
        let mut packets = Packets::new(LOAD.protocol, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        let mut sealed = Sealed::default();
        sealed.prepare(&mut packets, ours.keys(), FarCipher::None, 2).unwrap();
        for (counter, datagram) in (0..).zip(sealed.bytes.chunks_exact(DATAGRAM_LEN)) {
            let message = encrypt::Message::parse(datagram).unwrap();
            assert_eq!(message, encrypt::Message::Data { receiver: 2, counter });
            assert_eq!(check_packet(&datagram[DATA_HEADER_LEN..][..PACKET_LEN]).1, Ok(()));
        }
    }
}
