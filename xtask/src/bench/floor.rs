//! The floor: what encryption and the system calls alone cost, in a straight line on one thread.
//!
//! Each step handles as much at once as the data plane can: 64 KiB super-packets at the TUN, trains of full datagrams
//! at UDP. The step's time is scaled to 64 KiB of inner packets.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use encrypt::{
    DATA_OVERHEAD, INITIATION_LEN, Identity, MAX_CONTROL_LEN, Opened, PeerIndex, PrivateKey, Session,
    SessionConfig, boring::BoringIdentity,
};
use netlab::{Host, PACKET_LEN, Side, clock, super_packet};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tun_device::{LinuxTun, MAX_FRAME_LEN, TunDevice, TunOptions, VNET_HEADER_LEN};

use crate::table::Table;

/// Inner MTU, and the packets that fill it, bytes.
const PACKET: usize = PACKET_LEN;
/// A data message of such a packet, padded to 16 bytes but never past the MTU.
const DATAGRAM: usize = PACKET + DATA_OVERHEAD;
/// As many as one send takes: 65,507 bytes over IPv4.
const TRAIN: usize = 65_507 / DATAGRAM;
/// Inner IPv4 and TCP headers.
const HEADERS: usize = 40;
/// Packets of the longest super-packet.
const SUPER: usize = (65_535 - HEADERS) / (PACKET - HEADERS);
/// Whose packets are forwarded, and to whom.
const ENTRY: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 2);
const EXIT: Ipv4Addr = Ipv4Addr::new(10, 78, 2, 2);
/// Repetitions; the median of them counts, so an interruption does not.
const REPETITIONS: usize = 400;

/// What each step costs per [`Self::BYTES`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    pub(super) tun_read: Duration,
    pub(super) seal: Duration,
    pub(super) udp_send: Duration,
    pub(super) udp_receive: Duration,
    pub(super) open: Duration,
    pub(super) tun_write: Duration,
}

impl Floor {
    /// What the figures are for: 64 KiB of inner packets.
    pub(super) const BYTES: usize = 64 * 1024;

    /// Measures each step, in under a second.
    pub(super) fn measure() -> Result<Self> {
        let (seal, open) = aead()?;
        let (udp_send, udp_receive) = udp()?;
        let (tun_write, tun_read) = tun()?;
        Ok(Self { tun_read, seal, udp_send, udp_receive, open, tun_write })
    }

    /// The median of each step.
    pub(super) fn median(floors: &[Self]) -> Option<Self> {
        let middle = |step: fn(&Self) -> Duration| median(floors.iter().map(step).collect());
        Some(Self {
            tun_read: middle(|floor| floor.tun_read)?,
            seal: middle(|floor| floor.seal)?,
            udp_send: middle(|floor| floor.udp_send)?,
            udp_receive: middle(|floor| floor.udp_receive)?,
            open: middle(|floor| floor.open)?,
            tun_write: middle(|floor| floor.tun_write)?,
        })
    }

    fn egress(&self) -> Duration {
        self.tun_read + self.seal + self.udp_send
    }

    fn ingress(&self) -> Duration {
        self.udp_receive + self.open + self.tun_write
    }

    /// Both ends together.
    pub(super) fn total(&self) -> Duration {
        self.egress() + self.ingress()
    }

    pub(super) fn table(&self) -> Table {
        let mut table = Table::new(["step", "µs per 64 KiB"]);
        for (step, cost) in [
            ("TUN read, super-packet", self.tun_read),
            ("seal", self.seal),
            ("UDP send, GSO", self.udp_send),
            ("UDP receive, GRO", self.udp_receive),
            ("open", self.open),
            ("TUN write, super-packet", self.tun_write),
            ("one end sends", self.egress()),
            ("the other receives", self.ingress()),
            ("both together", self.total()),
        ] {
            table.row([step.to_owned(), format!("{:.1}", cost.as_secs_f64() * 1e6)]);
        }
        table
    }
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// The median of the repetitions, scaled from `bytes` to [`Floor::BYTES`].
fn per_64_kib(times: Vec<Duration>, bytes: usize) -> Result<Duration> {
    let time = median(times).context("no repetitions")?;
    Ok(time.mul_f64(Floor::BYTES as f64 / bytes as f64))
}

/// Sealing and opening a train's worth of full packets.
fn aead() -> Result<(Duration, Duration)> {
    let now = clock::now();
    let (mut left, mut right, mut identity) = connected(now)?;
    let packet = super_packet(ENTRY, EXIT, 1);
    let packet = &packet[VNET_HEADER_LEN..];
    let mut train = vec![0; TRAIN * DATAGRAM];
    let (mut seals, mut opens) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let started = clock::now();
        for datagram in train.chunks_exact_mut(DATAGRAM) {
            left.seal(packet, datagram, started)?;
        }
        seals.push(started.elapsed());
        let started = clock::now();
        for datagram in train.chunks_exact_mut(DATAGRAM) {
            match right.open(&mut identity, datagram, started)? {
                Opened::Packet { len, .. } => ensure!(len == PACKET, "a packet of {len} bytes"),
                other => bail!("{other:?}"),
            }
        }
        opens.push(started.elapsed());
    }
    Ok((per_64_kib(seals, TRAIN * PACKET)?, per_64_kib(opens, TRAIN * PACKET)?))
}

type BoringSession = <BoringIdentity as Identity>::Session;

/// Two sessions that have shaken hands, and the identity of the one that opens.
fn connected(now: Instant) -> Result<(BoringSession, BoringSession, BoringIdentity)> {
    let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
    let index = PeerIndex::new(1).context("a small index")?;
    let [mut left, mut right] = keys.each_ref().map(|key| BoringIdentity::new(key, now));
    let config = |peer| SessionConfig { peer, preshared_key: None, index };
    let mut left_session = left.session(config(right.public_key()), now);
    let mut right_session = right.session(config(left.public_key()), now);
    let mut initiation = [0; INITIATION_LEN];
    left_session.initiate(&mut left, &mut initiation, now).context("no initiation")?;
    let (_, claim) = right.claim(&initiation)?;
    let (mut response, mut confirmation) = ([0; MAX_CONTROL_LEN], [0; MAX_CONTROL_LEN]);
    let len = right_session.answer(&mut right, &initiation, claim, &mut response, now)?;
    let len = left_session.read_response(&mut left, &response[..len], &mut confirmation, now)?;
    right_session.open(&mut right, &mut confirmation[..len], now)?;
    Ok((left_session, right_session, right))
}

/// Sending a train across a veth pair, and receiving it whole.
fn udp() -> Result<(Duration, Duration)> {
    let (a, b) = (Host::new("floor a")?, Host::new("floor b")?);
    netlab::connect(&a, "link", &b, "link", 1500)?;
    for (host, side) in [(&a, Side::A), (&b, Side::B)] {
        host.add_address("link", side.outer_v4(), 24)?;
    }
    let bind = |host: &Host, side: Side| host.run(move || UdpSocket::bind((side.outer_v4(), 0)));
    let (sender, receiver) = (bind(&a, Side::A)?, bind(&b, Side::B)?);
    let to = SockaddrStorage::from(receiver.local_addr()?);
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    setsockopt(&receiver, sockopt::UdpGroSegment, &true).context("UDP_GRO")?;

    let train = vec![0x5a; TRAIN * DATAGRAM];
    let mut buffer = vec![0; 1 << 16];
    let segment = u16::try_from(DATAGRAM)?;
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let slices = [IoSlice::new(&train)];
        let started = clock::now();
        sendmsg(sender.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&to)).context("UDP send")?;
        let sent = clock::now();
        let mut received = 0;
        while received < train.len() {
            received += receive(&receiver, &mut buffer)?;
        }
        receives.push(sent.elapsed());
        sends.push(sent - started);
    }
    Ok((per_64_kib(sends, TRAIN * PACKET)?, per_64_kib(receives, TRAIN * PACKET)?))
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<usize> {
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())
            .context("UDP receive")?;
    let stride = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::UdpGroSegments(size) => Some(size),
        _ => None,
    });
    ensure!(stride.is_none_or(|stride| stride == DATAGRAM as i32), "datagrams of {stride:?} bytes");
    Ok(message.bytes)
}

/// Writing a super-packet to one TUN and reading it from another, the kernel forwarding between them.
fn tun() -> Result<(Duration, Duration)> {
    let host = Host::new("floor")?;
    let create = |name: &'static str| {
        host.run(move || LinuxTun::create(name, &TunOptions { mtu: Some(PACKET), ..TunOptions::default() }))
    };
    let (entry, exit) = (create("in")?, create("out")?);
    ensure!(exit.offloads().tso, "this kernel's TUN has no TSO");
    for (name, address) in [("in", [10, 78, 1, 1]), ("out", [10, 78, 2, 1])] {
        host.add_address(name, address.into(), 24)?;
        host.set_up(name)?;
    }
    host.sysctl("net/ipv4/ip_forward", "1")?;

    let frame = super_packet(ENTRY, EXIT, SUPER);
    let mut buffer = vec![0; MAX_FRAME_LEN];
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        let started = clock::now();
        entry.send(&frame).context("TUN write")?;
        writes.push(started.elapsed());
        // Forwarding ends within the write or just after it; only the read that finds the packet counts. Others (the
        // kernel announces itself to routers) are not ours.
        let deadline = clock::now() + Duration::from_secs(1);
        loop {
            let started = clock::now();
            ensure!(started < deadline, "the kernel forwards no super-packet");
            if exit.recv(&mut buffer).is_ok_and(|len| len == frame.len()) {
                reads.push(started.elapsed());
                break;
            }
        }
    }
    let bytes = frame.len() - VNET_HEADER_LEN;
    Ok((per_64_kib(writes, bytes)?, per_64_kib(reads, bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_measured_without_losing_a_byte() {
        netlab::require!(netlab::Need::Namespaces);
        let floor = Floor::measure().unwrap();
        assert!(floor.seal > Duration::ZERO && floor.tun_read > Duration::ZERO);
        assert_eq!(floor.total(), floor.egress() + floor.ingress());
    }
}
