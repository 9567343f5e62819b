//! Somebody on the path: he sees everything, changes it, and sends it again from anywhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tunnel_core::Arrival;

use crate::{netem::Random, world::Datagram};

const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66)), 666);

/// How much he remembers, which at a hundred datagrams goes back for hours.
const MEMORY: u64 = 100;

#[derive(Default)]
pub(crate) struct Attacker {
    seen: Vec<Datagram>,
}

impl Attacker {
    pub(crate) fn sees(&mut self, datagram: Datagram, random: &mut Random) {
        if (self.seen.len() as u64) < MEMORY {
            self.seen.push(datagram);
        } else if random.below(4) == 0 {
            self.seen[random.below(MEMORY) as usize] = datagram;
        }
    }

    /// Something to send, and how it arrives.
    pub(crate) fn strikes(&self, random: &mut Random) -> Option<(Vec<u8>, Arrival)> {
        if self.seen.is_empty() {
            return None;
        }
        let Datagram { from, bytes, .. } = &self.seen[random.below(self.seen.len() as u64) as usize];
        let mut bytes = bytes.clone();
        match random.below(5) {
            0 => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            1 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            2 => bytes[4..].iter_mut().for_each(|byte| *byte = random.below(256) as u8),
            _ => {}
        }
        let from = if random.below(2) == 0 { *from } else { ELSEWHERE };
        Some((bytes, Arrival::from(from)))
    }
}
