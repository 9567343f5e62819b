//! Paced UDP datagrams, each sent singly as an application would, numbered so that loss and reordering show.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    sys::socket::{
        ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt,
    },
};

use crate::{clock, namespace::Host};

/// Datagrams per system call at both ends: the generator should be cheap beside the tunnel it measures.
const BURST: usize = 32;
/// Time between bursts when the rate asks for no more than one burst in it. Short, so that the tunnel's
/// device queue (500 packets by default) is never filled by the generator's own burstiness.
const TICK: Duration = Duration::from_micros(100);
/// The sink's socket buffer, bytes: losses should be the tunnel's.
const SINK_BUFFER: usize = 32 << 20;
/// The sink stops this long after the last datagram once the sender is done. Longer than any queue here drains.
const QUIET: Duration = Duration::from_millis(300);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct UdpPlan {
    /// UDP payload of each datagram, bytes; at least 8.
    pub size: usize,
    /// Datagrams per second.
    pub rate: u64,
    /// For how long.
    pub duration: Duration,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub struct UdpReport {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Datagrams that arrived after a later one.
    pub reordered: u64,
    /// How long sending took: longer than planned when the sender could not keep the rate.
    pub elapsed: Duration,
}

impl UdpReport {
    /// The share that did not arrive.
    pub fn loss(&self) -> f64 {
        self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64
    }

    /// Datagrams per second that were sent.
    pub fn sent_rate(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }
}

/// Sends paced datagrams from one host to an address of another and counts what arrives.
///
/// # Errors
/// When sockets fail. Losses are no error.
pub fn udp_stream(from: &Host, to: &Host, address: IpAddr, plan: UdpPlan) -> Result<UdpReport> {
    ensure!(plan.size >= 8, "a datagram carries its number: 8 bytes at least");
    ensure!(plan.rate > 0, "at least one datagram per second");
    let socket = to.run(move || UdpSocket::bind((address, 0))).context("the sink")?;
    let server = socket.local_addr()?;
    let done = Arc::new(AtomicBool::new(false));
    let sink = {
        let done = Arc::clone(&done);
        to.spawn_thread(move || sink(&socket, plan.size, &done))
    };
    let sender = from.spawn_thread(move || send(server, plan)).join();
    done.store(true, Ordering::Release);
    let sunk = sink.join().map_err(|_| anyhow!("the sink panicked"))?;
    let (sent, elapsed) = sender.map_err(|_| anyhow!("the sender panicked"))?.context("UDP sender")?;
    let (received, reordered) = sunk.context("UDP sink")?;
    Ok(UdpReport { sent, received, reordered, elapsed })
}

fn send(server: SocketAddr, plan: UdpPlan) -> Result<(u64, Duration)> {
    // Without this the kernel may stretch each short sleep by 50 µs (prctl(2), PR_SET_TIMERSLACK).
    nix::sys::prctl::set_timerslack(1_000)?;
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server).context("connect")?;
    let mut buffers = vec![vec![0_u8; plan.size]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let no_address = [None; BURST];
    let (start, mut sent) = (clock::now(), 0_u64);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= plan.duration {
            return Ok((sent, elapsed));
        }
        let due = (elapsed.as_secs_f64() * plan.rate as f64) as u64 + 1;
        let burst = usize::try_from(due.saturating_sub(sent)).unwrap_or(BURST).min(BURST);
        if burst == 0 {
            let next = Duration::from_secs_f64(sent as f64 / plan.rate as f64);
            thread::sleep(next.saturating_sub(elapsed).max(TICK).min(plan.duration - elapsed));
            continue;
        }
        for (number, buffer) in (sent..).zip(&mut buffers[..burst]) {
            buffer[..8].copy_from_slice(&number.to_le_bytes());
        }
        let slices: Vec<_> = buffers[..burst].iter().map(|buffer| [IoSlice::new(buffer)]).collect();
        let none: [ControlMessage<'_>; 0] = [];
        let outcome =
            sendmmsg(socket.as_raw_fd(), &mut headers, &slices, no_address, none, MsgFlags::empty());
        match outcome.map(Iterator::count) {
            Ok(count) => sent += count as u64,
            // The device's queue is full: the datagram is lost, as it would be for anyone.
            Err(Errno::ENOBUFS) => sent += 1,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("sendmmsg"),
        }
    }
}

fn sink(socket: &UdpSocket, size: usize, done: &AtomicBool) -> Result<(u64, u64)> {
    // Forcing needs privilege over the namespace, which the lab has; a smaller buffer is still a buffer.
    let _clamped = setsockopt(socket, sockopt::RcvBufForce, &SINK_BUFFER);
    socket.set_read_timeout(Some(QUIET))?;
    let mut buffers = vec![vec![0_u8; size]; BURST];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BURST, None);
    let (mut received, mut reordered, mut expected) = (0, 0, 0);
    loop {
        let finishing = done.load(Ordering::Acquire);
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let outcome = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None);
        let count = match outcome {
            Ok(messages) => messages.count(),
            Err(Errno::EAGAIN) if finishing => return Ok((received, reordered)),
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error).context("recvmmsg"),
        };
        for buffer in &buffers[..count] {
            let number = u64::from_le_bytes(*buffer.first_chunk().expect("8 bytes at least"));
            reordered += u64::from(number < expected);
            expected = expected.max(number + 1);
        }
        received += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Need;

    #[test]
    fn datagrams_are_counted_and_none_is_lost_on_loopback() {
        crate::require!(Need::Namespaces);
        let host = Host::new("a").unwrap();
        let plan = UdpPlan { size: 64, rate: 20_000, duration: Duration::from_millis(300) };
        let report = udp_stream(&host, &host, "127.0.0.1".parse().unwrap(), plan).unwrap();
        assert!(report.sent > 0);
        assert_eq!((report.sent, report.reordered), (report.received, 0));
    }
}
