//! The load of an end that sends: packets into its tunnel's interface, as cheaply as a kernel takes them.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendmsg},
};
use tun_device::{LinuxTun, TunDevice};

use super::{
    FULL_TRAIN, far,
    frames::{InnerProtocol, super_packet},
    pace::Pace,
};
use crate::clock;

/// Lone packets per system call.
const BURST: usize = 32;
/// RFC 863's port.
const DISCARD: u16 = 9;

/// What goes out, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// UDP: the kernel cuts trains itself (UDP GSO) or gives the daemon super-packets; it is what `UDP_SEGMENT` makes
    /// of an application's datagrams. TCP: super-packets as a kernel with TSO gives them, forwarded from another interface.
    pub protocol: InnerProtocol,
    /// Packets handed over together, to one peer. 1 to [`FULL_TRAIN`]; TCP's are full.
    pub train: usize,
    /// How many peers take turns. TCP goes to one.
    pub peers: usize,
    /// Inner bits per second.
    pub rate: f64,
    /// For how long.
    pub time: Duration,
}

impl Outgoing {
    pub(super) fn check(&self, peers: usize) -> Result<()> {
        ensure!((1..=FULL_TRAIN).contains(&self.train), "a train has 1 to {FULL_TRAIN} packets");
        ensure!((1..=peers).contains(&self.peers), "there are {peers} peers");
        ensure!(self.rate > 0.0, "no load at all");
        let is_one_stream = self.train == FULL_TRAIN && self.peers == 1;
        ensure!(self.protocol == InnerProtocol::Udp || is_one_stream, "TCP goes to one peer, in full trains");
        Ok(())
    }
}

/// Where packets are put in.
pub(super) enum Entry<'a> {
    /// A socket whose packets are routed into the tunnel.
    Socket(Sender<'a>),
    /// Another interface, whose packets are forwarded into it.
    Interface { tun: &'a LinuxTun, frame: Vec<u8> },
}

pub(super) struct Sender<'a> {
    socket: &'a UdpSocket,
    train: usize,
    payload: Vec<u8>,
    peers: Vec<SockaddrStorage>,
    next: usize,
    headers: MultiHeaders<SockaddrStorage>,
}

impl<'a> Entry<'a> {
    pub(super) fn new(socket: &'a UdpSocket, tun: &'a LinuxTun, from: Ipv4Addr, load: &Outgoing) -> Self {
        match load.protocol {
            InnerProtocol::Udp => Self::Socket(Sender {
                socket,
                train: load.train,
                payload: vec![0x5a; load.train * InnerProtocol::Udp.payload_len()],
                peers: (0..load.peers)
                    .map(|number| SocketAddrV4::new(far::inner_address(number), DISCARD).into())
                    .collect(),
                next: 0,
                headers: MultiHeaders::preallocate(BURST, None),
            }),
            InnerProtocol::Tcp => {
                Self::Interface { tun, frame: super_packet(from, far::inner_address(0), load.train) }
            }
        }
    }

    /// Keeps the rate for the time. Gives how many packets were put in.
    pub(super) fn run(&mut self, load: &Outgoing) -> Result<u64> {
        let mut pace = Pace::new(load.rate / (super::PACKET_LEN * 8) as f64);
        let (start, mut sent) = (clock::now(), 0);
        loop {
            let elapsed = start.elapsed();
            if elapsed >= load.time {
                return Ok(sent);
            }
            if !pace.is_due(load.train, elapsed) {
                pace.wait_for(load.train, elapsed);
                continue;
            }
            let mut trains = 1;
            pace.sent(load.train);
            // Lone packets are due by the dozen, and their sender's cost should not be the limit.
            while load.train == 1 && trains < BURST && pace.is_due(1, elapsed) {
                trains += 1;
                pace.sent(1);
            }
            self.put(trains)?;
            sent += (trains * load.train) as u64;
        }
    }

    /// Puts that many trains in. What finds the interface's queue full is lost, as it is for any application.
    fn put(&mut self, trains: usize) -> Result<()> {
        match self {
            Self::Socket(sender) if sender.train == 1 => sender.send_lone(trains),
            Self::Socket(sender) => (0..trains).try_for_each(|_| sender.send_train()),
            Self::Interface { tun, frame } => {
                (0..trains).try_for_each(|_| tun.send(frame)).context("cannot put packets in")
            }
        }
    }
}

impl Sender<'_> {
    fn next_peer(&mut self) -> SockaddrStorage {
        let peer = self.peers[self.next];
        self.next = (self.next + 1) % self.peers.len();
        peer
    }

    fn send_train(&mut self) -> Result<()> {
        let peer = self.next_peer();
        let segment = InnerProtocol::Udp.payload_len() as u16;
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let slices = [IoSlice::new(&self.payload)];
        match sendmsg(self.socket.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&peer)) {
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error).context("cannot put packets in"),
        }
    }

    fn send_lone(&mut self, packets: usize) -> Result<()> {
        let mut peers = [None; BURST];
        peers[..packets].fill_with(|| Some(self.next_peer()));
        let payload = std::mem::take(&mut self.payload);
        let slices = [[IoSlice::new(&payload)]; BURST];
        let none: [ControlMessage<'_>; 0] = [];
        let outcome = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            &slices[..packets],
            peers,
            none,
            MsgFlags::empty(),
        )
        .map(Iterator::count);
        self.payload = payload;
        match outcome {
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error).context("cannot put packets in"),
        }
    }
}
