//! Asking a running daemon: the other end of [`super::server`].

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use encrypt::{PresharedKey, PrivateKey, PublicKey};
use io_runtime::{DeviceUpdate, clock};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    Device, Peer, Status,
    lines::{Line, LineBuffer},
    print_set,
};

/// How long a daemon may take for everything, from being reached to the end of its answer. `get` of 10,000 peers takes
/// milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer, bytes: more is no daemon of ours.
const MAX_ANSWER_LEN: usize = 256 << 20;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No daemon answers on the socket.
    #[error("cannot reach the daemon: {0}")]
    Connection(io::Error),
    /// The daemon refused, with this errno.
    #[error("the daemon refused: {}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// The answer makes no sense.
    #[error("the daemon's answer is not understood")]
    Answer,
    /// It has not answered in time: it is stopped, stuck or overloaded.
    #[error("the daemon does not answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Timeout,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // How the kernel tells that a socket's own limit of time is over.
        if error.kind() == io::ErrorKind::WouldBlock { Self::Timeout } else { Self::Connection(error) }
    }
}

impl Error {
    /// True when there may be a daemon, and this user may not speak to it.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Connection(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Asks for everything `wg show` knows.
///
/// # Errors
/// [`Error`].
pub fn get(socket: &Path) -> Result<Device, Error> {
    let mut reader = DeviceReader::default();
    ask(socket, "get=1\n\n", |line| reader.line(line))?;
    Ok(reader.finish())
}

/// Asks for features and counters. Other daemons than ours refuse.
///
/// # Errors
/// [`Error`].
pub fn status(socket: &Path) -> Result<Status, Error> {
    let mut status = Status::default();
    ask(socket, "volley=1\n\n", |line| status.read_line(line))?;
    Ok(status)
}

/// Applies an update.
///
/// # Errors
/// [`Error`]; nothing was changed if the daemon refused.
pub fn set(socket: &Path, update: &DeviceUpdate) -> Result<(), Error> {
    ask(socket, &print_set(update), |_| None)
}

/// Sends one request and hands each line of the answer to `accept`, which gives `None` for a line that
/// makes no sense.
fn ask(socket: &Path, request: &str, accept: impl FnMut(&str) -> Option<()>) -> Result<(), Error> {
    ask_within(ANSWER_TIMEOUT, socket, request, accept)
}

fn ask_within(
    limit: Duration,
    socket: &Path,
    request: &str,
    mut accept: impl FnMut(&str) -> Option<()>,
) -> Result<(), Error> {
    let mut stream = Timed::connect(socket, clock::now() + limit)?;
    stream.write_all(request.as_bytes())?;
    stream.stream.shutdown(Shutdown::Write)?;

    let (mut lines, mut length) = (LineBuffer::new(), 0);
    while length < MAX_ANSWER_LEN {
        match stream.read(lines.space()) {
            Ok(0) => break,
            Ok(received) => {
                lines.advance(received);
                length += received;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(line) = lines.next() {
            let Line::Text(text) = line else { return Err(Error::Answer) };
            let text = str::from_utf8(text).map_err(|_| Error::Answer)?;
            if let Some(errno) = text.strip_prefix("errno=") {
                return match errno.parse::<i32>().map_err(|_| Error::Answer)? {
                    0 => Ok(()),
                    errno => Err(Error::Refused(errno.saturating_abs())),
                };
            }
            accept(text).ok_or(Error::Answer)?;
        }
    }
    Err(Error::Answer)
}

/// A connection whose every step fails with `WouldBlock` after `deadline`.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    /// Waits for a place in the daemon's queue, if that is full.
    fn connect(path: &Path, deadline: Instant) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_write_timeout(Some(left(deadline)?))?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(Self { stream: OwnedFd::from(socket).into(), deadline })
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buf)
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(clock::now());
    // The kernel takes 0 for no limit, and what is less than its microsecond for 0.
    if left < Duration::from_micros(1) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(left) }
}

/// Collects a [`Device`] from the lines of a `get` answer.
#[derive(Debug, Default)]
pub struct DeviceReader {
    device: Device,
}

impl DeviceReader {
    /// Takes one line; `None` if a known key has a senseless value. Unknown keys are skipped, so that
    /// newer daemons can be asked.
    pub fn line(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        if key == "public_key" {
            self.device.peers.push(Peer::new(PublicKey::from_hex(value).ok()?));
            return Some(());
        }
        let Some(peer) = self.device.peers.last_mut() else {
            match key {
                "private_key" => {
                    self.device.private_key =
                        unless_zero(PrivateKey::from_hex(value).ok()?, PrivateKey::is_zero);
                }
                "listen_port" => self.device.listen_port = value.parse().ok()?,
                "fwmark" => self.device.fwmark = value.parse().ok()?,
                _ => {}
            }
            return Some(());
        };
        let handshake = &mut peer.last_handshake;
        match key {
            "preshared_key" => {
                peer.preshared_key = unless_zero(PresharedKey::from_hex(value).ok()?, PresharedKey::is_zero);
            }
            "endpoint" => peer.endpoint = Some(value.parse().ok()?),
            "last_handshake_time_sec" => {
                *handshake = Duration::new(value.parse().ok()?, handshake.subsec_nanos());
            }
            "last_handshake_time_nsec" => {
                let nanos = value.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
                *handshake = Duration::new(handshake.as_secs(), nanos);
            }
            "tx_bytes" => peer.tx_bytes = value.parse().ok()?,
            "rx_bytes" => peer.rx_bytes = value.parse().ok()?,
            "persistent_keepalive_interval" => peer.persistent_keepalive = value.parse().ok()?,
            "allowed_ip" => peer.allowed_ips.push(value.parse().ok()?),
            _ => {}
        }
        Some(())
    }

    /// What was told.
    pub fn finish(self) -> Device {
        self.device
    }
}

/// A key of zeros means that there is none.
fn unless_zero<K>(key: K, is_zero: fn(&K) -> bool) -> Option<K> {
    (!is_zero(&key)).then_some(key)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixListener,
        sync::mpsc::{Receiver, RecvTimeoutError, channel},
        thread,
    };

    use super::*;
    use crate::uapi::{is_alive, socket::tests::directory};

    const LIMIT: Duration = Duration::from_millis(100);

    /// How asking ends when `serve` is on the other side of the socket. It is told when asking has ended.
    fn asked(request: &str, serve: impl FnOnce(UnixStream, Receiver<()>) + Send + 'static) -> Error {
        let directory = directory();
        std::fs::create_dir_all(&directory.0).unwrap();
        let path = directory.0.join("wg0.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (over, is_over) = channel();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0, is_over));
        let error = ask_within(LIMIT, &path, request, |_| Some(())).unwrap_err();
        drop(over);
        server.join().unwrap();
        error
    }

    #[test]
    fn a_daemon_that_does_nothing_is_given_up_however_long_the_request() {
        for repeated in [1, 1 << 20] {
            let error = asked(&"get=1\n\n".repeat(repeated), |_stream, is_over| {
                let _ = is_over.recv();
            });
            assert!(matches!(error, Error::Timeout), "{error:?}");
        }
    }

    #[test]
    fn a_daemon_that_never_comes_to_an_end_is_given_up() {
        let error = asked("get=1\n\n", |mut stream, is_over| {
            // Something always comes in time.
            while is_over.recv_timeout(LIMIT / 20) == Err(RecvTimeoutError::Timeout) {
                let _ = stream.write_all(b"fwmark=1\n");
            }
        });
        assert!(matches!(error, Error::Timeout), "{error:?}");
    }

    #[test]
    fn a_daemon_that_takes_nobody_is_given_up_and_alive() {
        let directory = directory();
        std::fs::create_dir_all(&directory.0).unwrap();
        let path = directory.0.join("wg0.sock");
        let stuck = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        stuck.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        stuck.listen(0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let error = ask_within(LIMIT, &path, "get=1\n\n", |_| Some(())).unwrap_err();
        assert!(matches!(error, Error::Timeout), "{error:?}");
        assert!(is_alive(&path), "and nobody waits to see that");
    }
}
