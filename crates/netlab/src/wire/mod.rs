//! Is every packet that leaves a tunnel right? A tap behind the tunnel's interface reads each one, and a checker that
//! shares no code with any tunnel judges it.

mod check;

use std::{
    fmt,
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

pub use self::check::WireKind;
use self::check::{Fault, check};
use crate::{
    clock,
    namespace::Host,
    traffic::{Amount, Pattern, TcpPlan, TcpTransfer},
    tunnel::{Side, Tunnel},
};

/// The longest packet there can be, bytes: an IPv6 one with a full payload.
const MAX_PACKET: usize = 40 + 0xffff;
/// The tap's socket buffer, bytes: it holds a burst while the checker is not scheduled.
const TAP_BUFFER: usize = 64 << 20;
/// How often the tap looks whether it should end.
const ATTENTION: Duration = Duration::from_millis(50);
/// How often progress is told.
const FRAME: Duration = Duration::from_millis(50);
/// Traffic of which the tap sees nothing for this long has failed.
const STALLED: Duration = Duration::from_secs(20);
/// The first few faults are described; the others only counted.
const DESCRIBED: usize = 8;

/// What was seen of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireTally {
    /// Packets checked.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Packets with a wrong checksum or length.
    pub bad: u64,
}

/// What was seen of all kinds.
#[derive(Clone, Debug, Default)]
pub struct WireReport {
    tallies: [WireTally; WireKind::ALL.len()],
    faults: Vec<String>,
}

impl WireReport {
    /// What was seen of `kind`.
    pub const fn tally(&self, kind: WireKind) -> WireTally {
        self.tallies[kind as usize]
    }

    /// What was seen altogether.
    pub fn total(&self) -> WireTally {
        self.tallies.iter().fold(WireTally::default(), |sum, tally| WireTally {
            packets: sum.packets + tally.packets,
            bytes: sum.bytes + tally.bytes,
            bad: sum.bad + tally.bad,
        })
    }

    /// Whether all was well.
    ///
    /// # Errors
    /// When a packet was bad; the error describes the first ones.
    pub fn verdict(&self) -> Result<()> {
        let WireTally { packets, bad, .. } = self.total();
        ensure!(bad == 0, "{bad} of {packets} packets are bad, the first ones:\n{}", self.faults.join("\n"));
        Ok(())
    }

    fn add(&mut self, packet: &[u8]) {
        let (kind, outcome) = check(packet);
        let tally = &mut self.tallies[kind as usize];
        tally.packets += 1;
        tally.bytes += packet.len() as u64;
        if let Err(fault) = outcome {
            tally.bad += 1;
            if self.faults.len() < DESCRIBED {
                self.faults.push(Described { kind, fault, packet }.to_string());
            }
        }
    }
}

/// A bad packet, for people.
struct Described<'a> {
    kind: WireKind,
    fault: Fault,
    packet: &'a [u8],
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} bytes: {}:", self.kind.name(), self.packet.len(), self.fault)?;
        // Both headers.
        self.packet.iter().take(80).try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// Reads and checks every packet that arrives at a host through an interface. Dropping it ends it.
#[derive(Debug)]
pub struct WireTap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    report: Mutex<WireReport>,
}

impl WireTap {
    /// Taps `interface` of `host`.
    ///
    /// The daemon behind it must write packets one by one and finished (Volley's `--no-tun-offload`): from super-packets
    /// the kernel makes packets without checksums, which say nothing about the wire.
    ///
    /// # Errors
    /// Without such an interface, or the right to raw sockets.
    pub fn open(host: &Host, interface: &str) -> Result<Self> {
        let name = interface.to_owned();
        let socket = host.run(move || open(&name)).with_context(|| format!("cannot tap {interface}"))?;
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("wire tap".into()).spawn(move || watch(socket, &shared))?
        };
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What it saw so far.
    pub fn report(&self) -> WireReport {
        self.shared.report()
    }

    /// Ends it and gives what it saw.
    ///
    /// # Errors
    /// When reading failed.
    pub fn finish(mut self) -> Result<WireReport> {
        self.stop()?;
        Ok(self.report())
    }

    fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the tap panicked"))?
    }
}

impl Drop for WireTap {
    fn drop(&mut self) {
        let _told_in_finish = self.stop();
    }
}

impl Shared {
    fn report(&self) -> WireReport {
        self.report.lock().expect("nobody panics holding it").clone()
    }
}

/// A packet socket that hears one interface, and not what leaves through it.
fn open(interface: &str) -> Result<Socket> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    // ETH_P_ALL (linux/if_ether.h), in network byte order.
    let everything = Protocol::from(i32::from(3_u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(everything)).context("packet socket")?;
    // Forcing needs privilege over the machine's memory, which a user namespace lacks; a smaller buffer drops more,
    // and what is dropped does not count.
    if setsockopt(&socket, sockopt::RcvBufForce, &TAP_BUFFER).is_err() {
        socket.set_recv_buffer_size(TAP_BUFFER)?;
    }
    socket.attach_filter(&arriving_through(index)).context("filter")?;
    // Between its birth and the filter it heard all interfaces.
    socket.set_nonblocking(true)?;
    let mut packet = [0];
    while (&socket).read(&mut packet).is_ok() {}
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(ATTENTION))?;
    Ok(socket)
}

/// A classic BPF program (linux/filter.h): the whole of each packet that arrived through the interface with this index,
/// nothing of others.
fn arriving_through(index: u32) -> [SockFilter; 6] {
    /// `BPF_LD | BPF_W | BPF_ABS`
    const LOAD: u16 = 0x20;
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    const JUMP_IF_EQUAL: u16 = 0x15;
    /// `BPF_RET | BPF_K`
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_PKTTYPE`
    const PACKET_TYPE: u32 = (-0x1000_i32 + 4) as u32;
    /// `SKF_AD_OFF + SKF_AD_IFINDEX`
    const INTERFACE: u32 = (-0x1000_i32 + 8) as u32;
    /// `PACKET_OUTGOING` (linux/if_packet.h)
    const OUTGOING: u32 = 4;
    [
        SockFilter::new(LOAD, 0, 0, INTERFACE),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, index),
        SockFilter::new(LOAD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, OUTGOING),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn watch(mut socket: Socket, shared: &Shared) -> Result<()> {
    let mut buffer = vec![0; MAX_PACKET];
    while !shared.stop.load(Ordering::Relaxed) {
        match socket.read(&mut buffer) {
            Ok(len) => shared.report.lock().expect("nobody panics holding it").add(&buffer[..len]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // The interface went down, or away.
            Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => return Ok(()),
            Err(error) => return Err(error).context("tap"),
        }
    }
    Ok(())
}

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
    use crate::Need;

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

    #[test]
    fn a_tap_hears_what_arrives_through_its_interface_and_nothing_else() {
        crate::require!(Need::Namespaces);
        let (a, b) = (Host::new("a").unwrap(), Host::new("b").unwrap());
        crate::connect(&a, "x", &b, "x", 1500).unwrap();
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        a.add_address("x", here, 24).unwrap();
        b.add_address("x", there, 24).unwrap();
        let (tap, elsewhere) = (WireTap::open(&b, "x").unwrap(), WireTap::open(&b, "lo").unwrap());
        let report = crate::ping(&a, there, 5, Duration::ZERO).unwrap();
        assert_eq!(report.received(), 5);
        let is_seen = || tap.report().total().bytes >= 5 * 84;
        let deadline = clock::now() + STALLED;
        while !is_seen() && clock::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(is_seen());
        assert_eq!(elsewhere.finish().unwrap().total(), WireTally::default());
    }

    #[test]
    fn a_bad_packet_is_described() {
        let mut report = WireReport::default();
        report.add(&[0x45, 0, 0, 20]);
        let error = report.verdict().unwrap_err().to_string();
        assert!(error.contains("1 of 1 packets") && error.contains("45 00 00 14"), "{error}");
    }
}
