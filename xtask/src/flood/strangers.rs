//! Hosts at any number of addresses, behind one TUN device of the victim's: what is written there arrives from whatever
//! address it says, and answers can be read.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use netlab::Host;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tun_device::{LinuxTun, MAX_FRAME_LEN, TunDevice, TunOptions, VNET_HEADER_LEN};

const IP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;
/// What is in front of a payload.
const HEADERS_LEN: usize = VNET_HEADER_LEN + IP_HEADER_LEN + UDP_HEADER_LEN;
/// The longest payload that is sent: a handshake initiation.
const MAX_PAYLOAD: usize = 148;
/// Answers that may wait to be read.
const QUEUE: u32 = 10_000;

/// A network of strangers.
pub(super) struct Strangers {
    tun: LinuxTun,
    network: Ipv4Addr,
    victim: Ipv4Addr,
    frame: [u8; HEADERS_LEN + MAX_PAYLOAD],
    answer: Vec<u8>,
}

impl Strangers {
    /// How many addresses each network has.
    pub(super) const ADDRESSES: u32 = 1 << (32 - Self::PREFIX_LEN);
    const PREFIX_LEN: u8 = 11;

    /// Joins `network` to `host` by an interface of this name.
    pub(super) fn new(host: &Host, interface: &str, network: Ipv4Addr, victim: Ipv4Addr) -> Result<Self> {
        let options = TunOptions { offload: false, mtu: Some(1500), tx_queue_len: Some(QUEUE) };
        let name = interface.to_owned();
        let tun = host.run(move || LinuxTun::create(&name, &options)).context("TUN device of the flood")?;
        host.set_up(interface)?;
        host.add_route(network.into(), Self::PREFIX_LEN, interface)?;
        let answer = vec![0; MAX_FRAME_LEN];
        Ok(Self { tun, network, victim, frame: [0; HEADERS_LEN + MAX_PAYLOAD], answer })
    }

    /// The address of one of them.
    pub(super) fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() + number % Self::ADDRESSES)
    }

    /// Sends a datagram from any address to a port of the victim.
    pub(super) fn send(&mut self, from: SocketAddrV4, port: u16, payload: &[u8]) -> Result<()> {
        let frame = &mut self.frame[..HEADERS_LEN + payload.len()];
        let (headers, body) = frame.split_at_mut(HEADERS_LEN);
        body.copy_from_slice(payload);
        let (ip, udp) = headers[VNET_HEADER_LEN..].split_at_mut(IP_HEADER_LEN);
        write_udp(udp, from.port(), port, payload.len())?;
        write_ip(ip, *from.ip(), self.victim, UDP_HEADER_LEN + payload.len())?;
        match self.tun.send(frame) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()), // lost, as anywhere
            Err(error) => Err(error).context("send a stranger's datagram"),
        }
    }

    /// The next answer, and whom it is for. `None` when there is none.
    pub(super) fn receive(&mut self) -> Result<Option<(SocketAddrV4, &[u8])>> {
        loop {
            let len = match self.tun.recv(&mut self.answer) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => bail!("receive a stranger's answer: {error}"),
            };
            let Some(to) = destination(&self.answer[..len]) else { continue };
            return Ok(Some((to, &self.answer[HEADERS_LEN..len])));
        }
    }

    /// Waits until there may be an answer, at most so long.
    pub(super) fn wait(&self, time: Duration) -> Result<()> {
        let mut sources = [PollFd::new(self.tun.as_fd(), PollFlags::POLLIN)];
        poll(&mut sources, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX))?;
        Ok(())
    }
}

/// Over IPv4, UDP needs no checksum.
fn write_udp(header: &mut [u8], from: u16, to: u16, payload: usize) -> Result<()> {
    let len = u16::try_from(UDP_HEADER_LEN + payload)?;
    header[..2].copy_from_slice(&from.to_be_bytes());
    header[2..4].copy_from_slice(&to.to_be_bytes());
    header[4..6].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

fn write_ip(header: &mut [u8], from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Result<()> {
    let len = u16::try_from(IP_HEADER_LEN + payload)?;
    header.fill(0);
    header[0] = 0x45;
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// Where a frame with a UDP datagram goes; `None` for anything else.
fn destination(frame: &[u8]) -> Option<SocketAddrV4> {
    let headers = frame.get(VNET_HEADER_LEN..HEADERS_LEN)?;
    if headers[0] != 0x45 || headers[9] != 17 {
        return None;
    }
    let address: [u8; 4] = headers[16..20].try_into().ok()?;
    Some(SocketAddrV4::new(address.into(), u16::from_be_bytes([headers[22], headers[23]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_sums_to_zero_and_tells_its_destination() {
        let mut frame = [0; HEADERS_LEN + 4];
        let (ip, udp) = frame[VNET_HEADER_LEN..].split_at_mut(IP_HEADER_LEN);
        write_ip(ip, Ipv4Addr::new(100, 64, 255, 255), Ipv4Addr::new(192, 0, 2, 2), 12).unwrap();
        write_udp(udp, 1, 51820, 4).unwrap();
        let sum: u32 = ip.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(destination(&frame), Some("192.0.2.2:51820".parse().unwrap()));
        assert_eq!(destination(&frame[..20]), None);
    }
}
