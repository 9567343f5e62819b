//! ICMP echo: round-trip times without `ping`.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{clock, namespace::Host};

/// An answer later than this counts as lost.
const LATE: Duration = Duration::from_secs(1);
/// Payload of each request, bytes: `ping`'s default.
const PAYLOAD: usize = 56;
const HEADER: usize = 8;

/// Round-trip times, in order of size.
#[derive(Clone, Debug)]
pub struct PingReport {
    times: Vec<Duration>,
    sent: usize,
}

impl PingReport {
    /// Requests sent.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Requests answered.
    pub fn received(&self) -> usize {
        self.times.len()
    }

    /// The round-trip time that `percent` of the answers did not exceed; `None` without answers.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        self.times.get(rank - 1).copied()
    }

    /// The same over all requests: the unanswered ones took longer than any answer, so `None` when the rank falls
    /// among them.
    pub fn percentile_of_sent(&self, percent: usize) -> Option<Duration> {
        let rank = (self.sent * percent).div_ceil(100).max(1);
        self.times.get(rank - 1).copied()
    }
}

/// Sends `count` ICMP echo requests, one per `interval` (or later, when an answer takes longer).
///
/// # Errors
/// When the address cannot be reached at all. Lost requests are no error.
pub fn ping(from: &Host, to: IpAddr, count: usize, interval: Duration) -> Result<PingReport> {
    let more = move |sent, _elapsed| sent < count;
    from.spawn_thread(move || ping_here(to, interval, more)).join().expect("pinging does not panic")
}

/// The same for a time instead of a number.
///
/// # Errors
/// As [`ping`].
pub fn ping_for(from: &Host, to: IpAddr, time: Duration, interval: Duration) -> Result<PingReport> {
    let more = move |_sent, elapsed| elapsed < time;
    from.spawn_thread(move || ping_here(to, interval, more)).join().expect("pinging does not panic")
}

/// Sends one ICMP echo request; whether the answer came within `patience`.
pub(crate) fn answers(from: &Host, to: IpAddr, patience: Duration) -> Result<bool> {
    from.run(move || {
        let mut socket = open(to)?;
        let time = exchange(&mut socket, &echo_request(to, 0), patience)?;
        Ok(time.is_some())
    })
}

fn ping_here(to: IpAddr, interval: Duration, more: impl Fn(usize, Duration) -> bool) -> Result<PingReport> {
    let mut socket = open(to)?;
    let mut report = PingReport { times: Vec::new(), sent: 0 };
    let began = clock::now();
    while more(report.sent, began.elapsed()) {
        let started = clock::now();
        let request = echo_request(to, report.sent as u16);
        report.sent += 1;
        report.times.extend(exchange(&mut socket, &request, LATE)?);
        thread::sleep(interval.saturating_sub(started.elapsed()));
    }
    report.times.sort_unstable();
    Ok(report)
}

fn open(to: IpAddr) -> Result<Socket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("raw ICMP socket")?;
    socket.connect(&SocketAddr::new(to, 0).into()).with_context(|| format!("no route to {to}"))?;
    Ok(socket)
}

/// Sends `request` and waits for its answer; `None` when that is late.
fn exchange(socket: &mut Socket, request: &[u8], patience: Duration) -> Result<Option<Duration>> {
    let started = clock::now();
    match socket.send(request) {
        Ok(_) => answer(socket, request, started, patience),
        // The device's queue is full, or no session yet: a lost request.
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(None),
        Err(error) => Err(error).context("send"),
    }
}

/// Waits for the answer to `request`; `None` when it is late.
fn answer(
    socket: &mut Socket,
    request: &[u8],
    started: Instant,
    patience: Duration,
) -> Result<Option<Duration>> {
    let mut buffer = [0; 1500];
    loop {
        let left = patience.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let len = match socket.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("receive"),
        };
        if is_answer(&buffer[..len], request) {
            return Ok(Some(started.elapsed()));
        }
    }
}

fn echo_request(to: IpAddr, sequence: u16) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0x5a; HEADER + PAYLOAD];
    packet[0] = if to.is_ipv4() { 8 } else { 128 };
    packet[1] = 0;
    packet[2..4].fill(0);
    // Other pings of this process have other threads: a per-thread identifier keeps answers apart.
    let identifier = nix::unistd::gettid().as_raw() as u16;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    if to.is_ipv4() {
        // ICMPv6's is the kernel's work (RFC 3542, section 3.1).
        let checksum = internet_checksum(&packet);
        packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// Whether a received message (with its IPv4 header, without an IPv6 one) answers `request`.
fn is_answer(message: &[u8], request: &[u8]) -> bool {
    let version = message.first().map_or(0, |byte| byte >> 4);
    let (header, reply_type) = if request[0] == 8 { (20, 0) } else { (0, 129) };
    let Some(icmp) = message.get(header..) else { return false };
    let family = header == 0 || version == 4;
    let echo = icmp.first() == Some(&reply_type);
    let same = icmp.get(4..) == request.get(4..);
    family && echo && same
}

/// RFC 1071.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_by_nearest_rank() {
        let times = (1..=100).map(Duration::from_millis).collect();
        let report = PingReport { times, sent: 100 };
        assert_eq!(report.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(report.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(PingReport { times: Vec::new(), sent: 3 }.percentile(50), None);
        let lossy = PingReport { sent: 102, ..report };
        assert_eq!(lossy.percentile_of_sent(50), Some(Duration::from_millis(51)));
        assert_eq!(lossy.percentile_of_sent(99), None);
    }

    #[test]
    fn a_checksummed_request_sums_to_zero() {
        assert_eq!(internet_checksum(&echo_request([127, 0, 0, 1].into(), 3)), 0);
    }
}
