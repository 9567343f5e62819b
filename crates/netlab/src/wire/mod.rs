//! Is every packet that leaves a tunnel right? A tap behind the tunnel's interface reads each one, and a checker that
//! shares no code with any tunnel judges it. What it is shown is sent from a room of its own.

mod carry;
mod check;

use std::{
    fmt,
    io::{ErrorKind, Read},
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

#[cfg(test)]
pub(crate) use self::check::check as check_packet;
use self::check::{Fault, check};
pub(crate) use self::check::{fold, pseudo_header, sum};
pub use self::{carry::carry_checked, check::WireKind};
use crate::namespace::Host;

/// The longest packet there can be, bytes: an IPv6 one with a full payload.
const MAX_PACKET: usize = 40 + 0xffff;
/// The tap's socket buffer, bytes: it holds a burst while the checker is not scheduled.
const TAP_BUFFER: usize = 64 << 20;
/// How often the tap looks whether it should end.
const ATTENTION: Duration = Duration::from_millis(50);
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{Need, clock};

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
        let deadline = clock::now() + Duration::from_secs(20);
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
