//! Traffic of every size past a tap, until it has seen enough.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::{WireKind, WireReport, WireTap};
use crate::{
    clock,
    traffic::{Amount, Pattern, TcpPlan, TcpTransfer},
    tunnel::{Side, Tunnel},
};

/// How often progress is told.
const FRAME: Duration = Duration::from_millis(50);
/// Traffic of which the tap sees nothing for this long has failed.
const STALLED: Duration = Duration::from_secs(20);

/// Sends TCP and UDP of many sizes over both families from side A to side B until a tap behind B's interface has checked
/// `bytes` of inner packets, at least a quarter of them of each kind. `progress` is told the bytes checked so far.
///
/// TCP goes as the kernel likes it, and is compared byte by byte too; UDP goes as super-packets with every segment
/// length from one byte to what the MTU takes. Both reach a daemon with TUN offloads unsegmented and without checksums.
///
/// # Errors
/// When traffic fails, or a packet is bad, or a byte wrong.
pub fn carry_checked(tunnel: &Tunnel, bytes: u64, mut progress: impl FnMut(u64)) -> Result<WireReport> {
    let tap = WireTap::open(tunnel.host(Side::B), Tunnel::INTERFACE)?;
    let outcome = carry_all(tunnel, &tap, bytes.div_ceil(4), &mut progress);
    let report = tap.finish()?;
    // Bad packets come first: traffic that stalls is their consequence.
    report.verdict()?;
    outcome?;
    Ok(report)
}

fn carry_all(tunnel: &Tunnel, tap: &WireTap, share: u64, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let (v4, v6) = (Side::B.inner_v4(), Side::B.inner_v6());
    carry_tcp(tunnel, tap, (WireKind::TcpV4, v4), share, progress).context("TCP over IPv4")?;
    carry_udp(tunnel, tap, (WireKind::UdpV4, v4), share, progress).context("UDP over IPv4")?;
    carry_tcp(tunnel, tap, (WireKind::TcpV6, v6), share, progress).context("TCP over IPv6")?;
    carry_udp(tunnel, tap, (WireKind::UdpV6, v6), share, progress).context("UDP over IPv6")
}

fn carry_tcp(
    tunnel: &Tunnel,
    tap: &WireTap,
    (kind, address): (WireKind, IpAddr),
    share: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    /// Streams that are one short packet, or end in one.
    const SHORT: [u64; 6] = [1, 2, 999, 1_381, 4_097, 70_001];
    /// What the tap missed is sent again, but not in crumbs.
    const LEAST: u64 = 1 << 20;
    let mut carry = |bytes, streams| -> Result<()> {
        let plan = TcpPlan { amount: Amount::Bytes(bytes), streams, verify: true };
        let transfer = TcpTransfer::start(tunnel.host(Side::A), tunnel.host(Side::B), address, plan)?;
        while !transfer.is_finished() {
            thread::sleep(FRAME);
            progress(tap.report().total().bytes);
        }
        let received = transfer.wait()?.bytes;
        ensure!(received == bytes, "{received} bytes of {bytes} arrived");
        Ok(())
    };
    SHORT.into_iter().try_for_each(|bytes| carry(bytes, 1))?;
    for round in 0.. {
        let missing = share.saturating_sub(tap.report().tally(kind).bytes);
        if missing == 0 {
            break;
        }
        // Odd, so that streams end in short packets too.
        carry(missing.max(LEAST) | 1, 1 + round % 3)?;
    }
    Ok(())
}

fn carry_udp(
    tunnel: &Tunnel,
    tap: &WireTap,
    (kind, address): (WireKind, IpAddr),
    share: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let shared = Arc::clone(&tap.shared);
    // Never read: what it cannot hold is dropped after the tap has seen it. Without it B would answer each datagram.
    let sink = tunnel.host(Side::B).run(move || UdpSocket::bind((address, 0))).context("the sink")?;
    let to = sink.local_addr()?;
    let sender = tunnel.host(Side::A).spawn_thread(move || {
        let checked = || shared.report().tally(kind).bytes;
        send_super_packets(to, share, checked)
    });
    while !sender.is_finished() {
        thread::sleep(FRAME);
        progress(tap.report().total().bytes);
    }
    sender.join().map_err(|_| anyhow!("the sender panicked"))?
}

/// Sends until `checked` says `goal`, with pauses so that most of it is seen.
fn send_super_packets(to: SocketAddr, goal: u64, checked: impl Fn() -> u64) -> Result<()> {
    /// Sends between two looks at what arrived: some 1 MB, which every queue on the way holds.
    const BURST: usize = 32;
    /// A burst that has not been seen whole by now has lost something.
    const LATE: Duration = Duration::from_millis(20);
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to).context("connect")?;
    // The most an MTU of 1420 takes beside the IP and UDP headers.
    let largest = if to.is_ipv4() { 1420 - 28 } else { 1420 - 48 };
    let pattern = Pattern::new(u64::from(to.port()));
    let mut sizes = (0..).map(|number| Shape::numbered(number, largest));
    let (mut offset, mut seen, mut progressed) = (0, 0, clock::now());
    while seen < goal {
        let mut sent = 0;
        for shape in sizes.by_ref().take(BURST) {
            sent += shape.send(&socket, pattern.after(offset, shape.total))?;
            offset += 7_919; // another prime: the same bytes rarely meet the same shape again
        }
        let burst_began = clock::now();
        let before = seen;
        while seen < before + sent && burst_began.elapsed() < LATE {
            thread::sleep(Duration::from_micros(200));
            seen = checked();
        }
        if seen > before {
            progressed = clock::now();
        }
        ensure!(progressed.elapsed() < STALLED, "nothing arrives any more");
    }
    Ok(())
}

/// How one send is cut.
struct Shape {
    segment: usize,
    total: usize,
}

impl Shape {
    /// Large and middling ones in turn with every length there is, whole and with a short last one.
    fn numbered(number: usize, largest: usize) -> Self {
        /// `UDP_MAX_SEGMENTS` before Linux 6.9, and what fits an IPv4 datagram.
        const MOST: (usize, usize) = (64, 65_507);
        let segment = match number % 4 {
            0 => largest,
            1 => largest - 1 - number / 4 % 64,
            2 => 512 + number / 4 % 512,
            _ => 1 + number / 4 % largest,
        };
        let segments = (MOST.1 / segment).min(MOST.0).saturating_sub(number % 5 * 9).max(1);
        let missing_from_last = number % 3 * (segment / 3);
        Self { segment, total: segment * segments - missing_from_last }
    }

    /// Gives the payload bytes sent; none when the device's queue is full.
    fn send(&self, socket: &UdpSocket, payload: &[u8]) -> Result<u64> {
        // A single datagram must be a plain send.
        let segment = if self.segment < self.total { self.segment } else { 0 };
        let segment = i32::try_from(segment).context("a segment length")?;
        setsockopt(socket, sockopt::UdpGsoSegment, &segment).context("UDP_SEGMENT")?;
        match nix::sys::socket::send(socket.as_raw_fd(), payload, nix::sys::socket::MsgFlags::empty()) {
            Ok(sent) => Ok(sent as u64),
            Err(Errno::ENOBUFS | Errno::EINTR) => Ok(0),
            Err(error) => Err(error).context("send"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_fit_the_kernel_and_come_in_every_length() {
        let largest = 1392;
        let mut lengths = vec![false; largest + 1];
        for shape in (0..4 * largest).map(|number| Shape::numbered(number, largest)) {
            assert!((1..=largest).contains(&shape.segment));
            assert!((1..=65_507).contains(&shape.total) && shape.total.div_ceil(shape.segment) <= 64);
            lengths[shape.segment] = true;
        }
        assert!(lengths[1..].iter().all(|&seen| seen));
    }
}
