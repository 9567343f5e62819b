//! TCP streams: every byte checked where it arrives, or thrown away at the least cost.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{MsgFlags, recv};

use super::pattern::{CHUNK, Pattern};
use crate::{clock, namespace::Host};

/// A stream that moves nothing for this long has failed: far beyond any retransmission that recovers.
const STALLED: Duration = Duration::from_secs(20);

/// How much to send.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// This many bytes over all streams.
    Bytes(u64),
    /// As much as goes in this time.
    For(Duration),
}

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct TcpPlan {
    /// How much.
    pub amount: Amount,
    /// Streams at once.
    pub streams: usize,
    /// Compare every byte with what was sent, at some cost in CPU time. Else they are only counted.
    pub verify: bool,
}

impl TcpPlan {
    /// One verified stream of this many bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self { amount: Amount::Bytes(bytes), streams: 1, verify: true }
    }
}

/// What arrived.
#[derive(Clone, Copy, Debug)]
pub struct TcpReport {
    /// Bytes received, all streams together; verified if the plan says so.
    pub bytes: u64,
    /// From the first connection to the last byte.
    pub elapsed: Duration,
}

impl TcpReport {
    /// Payload bits per second.
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64()
    }
}

/// Streams under way from one host to another.
#[derive(Debug)]
pub struct TcpTransfer {
    received: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
    sender: JoinHandle<Result<()>>,
    receiver: JoinHandle<Result<Instant>>,
    started: Instant,
}

impl TcpTransfer {
    /// Starts streams from `from` to `address`, which must be one of `to`'s.
    ///
    /// # Errors
    /// When `to` cannot listen there. A failure to connect shows in [`Self::wait`].
    pub fn start(from: &Host, to: &Host, address: IpAddr, plan: TcpPlan) -> Result<Self> {
        ensure!(plan.streams > 0, "at least one stream");
        let listener = to
            .run(move || TcpListener::bind((address, 0)))
            .with_context(|| format!("{} cannot listen on {address}", to.name()))?;
        let server = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let failed = Arc::new(AtomicBool::new(false));
        let started = clock::now();
        let receiver = {
            let (received, failed) = (Arc::clone(&received), Arc::clone(&failed));
            to.spawn_thread(move || {
                let outcome = receive_all(&listener, plan, &received, &failed);
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                outcome
            })
        };
        let sender = {
            let failed = Arc::clone(&failed);
            from.spawn_thread(move || {
                let outcome = send_all(server, plan);
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                outcome
            })
        };
        Ok(Self { received, failed, sender, receiver, started })
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether [`Self::wait`] would answer at once.
    pub fn is_finished(&self) -> bool {
        self.sender.is_finished() && self.receiver.is_finished()
    }

    /// Waits for the last byte.
    ///
    /// # Errors
    /// When a stream fails or stalls, or a byte is not the one sent.
    pub fn wait(self) -> Result<TcpReport> {
        let _ = self.failed;
        let received = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let ended = match (received, sent) {
            (Ok(ended), Ok(())) => ended,
            (Err(receiver), Ok(())) => return Err(receiver.context("TCP receiver")),
            (_, Err(sender)) => return Err(sender.context("TCP sender")),
        };
        let bytes = self.received.load(Ordering::Relaxed);
        Ok(TcpReport { bytes, elapsed: ended.duration_since(self.started) })
    }
}

fn send_all(server: SocketAddr, plan: TcpPlan) -> Result<()> {
    let deadline = match plan.amount {
        Amount::For(time) => Some(clock::now() + time),
        Amount::Bytes(_) => None,
    };
    let streams: Vec<_> = (0..plan.streams)
        .map(|number| {
            let bytes = share(plan, number);
            thread::spawn(move || send(server, number as u64, bytes, deadline, plan.verify))
        })
        .collect();
    join_all(streams)
}

fn send(server: SocketAddr, number: u64, bytes: u64, deadline: Option<Instant>, verify: bool) -> Result<()> {
    let pattern = Pattern::new(number);
    let mut stream = TcpStream::connect_timeout(&server, STALLED).context("connect")?;
    stream.set_write_timeout(Some(STALLED))?;
    stream.write_all(&number.to_le_bytes())?;
    let mut sent = 0;
    while sent < bytes && deadline.is_none_or(|deadline| clock::now() < deadline) {
        let room = usize::try_from(bytes - sent).unwrap_or(CHUNK);
        // Bytes that nobody looks at are always the same ones, which stay in the processor's cache.
        let offset = if verify { sent } else { 0 };
        let written = stream.write(pattern.after(offset, room)).context("write")?;
        sent += written as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The receiver answers with its count: the stream is over when both agree on it.
    stream.set_read_timeout(Some(STALLED))?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("the receiver's count")?;
    let count = u64::from_le_bytes(count);
    ensure!(count == sent, "stream {number}: {sent} bytes sent, {count} received");
    Ok(())
}

fn receive_all(
    listener: &TcpListener,
    plan: TcpPlan,
    received: &Arc<AtomicU64>,
    failed: &AtomicBool,
) -> Result<Instant> {
    listener.set_nonblocking(true)?;
    let deadline = clock::now() + STALLED;
    let mut streams = Vec::new();
    while streams.len() < plan.streams {
        match listener.accept() {
            Ok((stream, _)) => {
                let received = Arc::clone(received);
                streams.push(thread::spawn(move || receive(stream, plan.verify, &received)));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(!failed.load(Ordering::Relaxed), "the sender failed");
                ensure!(clock::now() < deadline, "no connection in {STALLED:?}");
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => bail!("accept: {error}"),
        }
    }
    let ends: Vec<Instant> = join_each(streams)?;
    ends.into_iter().max().context("at least one stream")
}

fn receive(mut stream: TcpStream, verify: bool, received: &AtomicU64) -> Result<Instant> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STALLED))?;
    let mut number = [0; 8];
    stream.read_exact(&mut number).context("the stream's number")?;
    let pattern = verify.then(|| Pattern::new(u64::from_le_bytes(number)));
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let len = match verify {
            true => stream.read(&mut buffer).context("read")?,
            false => discard(&stream, &mut buffer).context("read")?,
        };
        if len == 0 {
            break;
        }
        if let Some(pattern) = &pattern {
            ensure!(buffer[..len] == *pattern.after(offset, len), "wrong bytes after {offset}");
        }
        offset += len as u64;
        received.fetch_add(len as u64, Ordering::Relaxed);
    }
    let ended = clock::now();
    stream.write_all(&offset.to_le_bytes()).context("answer with the count")?;
    Ok(ended)
}

/// Takes as much as there is room for without copying it (`MSG_TRUNC`, tcp(7)): what is measured is the tunnel, not
/// the generators.
fn discard(stream: &TcpStream, room: &mut [u8]) -> std::io::Result<usize> {
    Ok(recv(stream.as_raw_fd(), room, MsgFlags::MSG_TRUNC)?)
}

/// One stream's part of the whole.
fn share(plan: TcpPlan, number: usize) -> u64 {
    let Amount::Bytes(bytes) = plan.amount else { return u64::MAX };
    let (streams, number) = (plan.streams as u64, number as u64);
    bytes / streams + u64::from(number < bytes % streams)
}

fn join_all(threads: Vec<JoinHandle<Result<()>>>) -> Result<()> {
    join_each(threads).map(|_units| ())
}

fn join_each<T>(threads: Vec<JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a stream panicked"))?).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Need;

    #[test]
    fn streams_arrive_whole_and_are_counted() {
        crate::require!(Need::Namespaces);
        let host = Host::new("a").unwrap();
        for verify in [true, false] {
            let plan = TcpPlan { amount: Amount::Bytes(10_000_001), streams: 3, verify };
            let report =
                TcpTransfer::start(&host, &host, "127.0.0.1".parse().unwrap(), plan).unwrap().wait().unwrap();
            assert_eq!(report.bytes, 10_000_001);
        }
    }

    #[test]
    fn a_wrong_byte_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut bytes = Pattern::new(0).after(0, 100).to_vec();
        bytes[50] ^= 1;
        stream.write_all(&0_u64.to_le_bytes()).unwrap();
        stream.write_all(&bytes).unwrap();
        drop(stream);
        let error = receive(accepted, true, &AtomicU64::new(0)).unwrap_err();
        assert!(error.to_string().contains("wrong bytes"), "{error}");
    }

    #[test]
    fn a_connection_to_nowhere_is_an_error_not_a_hang() {
        crate::require!(Need::Namespaces);
        let (a, b) = (Host::new("a").unwrap(), Host::new("b").unwrap());
        b.add_address("lo", "192.0.2.1".parse().unwrap(), 32).unwrap();
        let plan = TcpPlan::bytes(1);
        let transfer = TcpTransfer::start(&a, &b, "192.0.2.1".parse().unwrap(), plan).unwrap();
        let error = transfer.wait().unwrap_err();
        assert!(format!("{error:#}").contains("connect"), "{error:#}");
    }

    #[test]
    fn shares_add_up() {
        let plan = TcpPlan { amount: Amount::Bytes(11), streams: 4, verify: false };
        assert_eq!((0..4).map(|number| share(plan, number)).sum::<u64>(), 11);
    }
}
