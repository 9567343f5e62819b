//! Waiting for descriptors, in the way that costs least.
//!
//! Descriptors are registered for readability alone: with a standing interest in writability, every
//! datagram that the network card is done with would wake the loop. Writability is asked for when a send
//! has found the socket full, by a registration of its own that goes away afterwards.
//!
//! Registrations are edge-triggered. So the loop reads until a source is drained, and only then waits.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A registration for readability. It holds a duplicate of the descriptor.
#[derive(Debug)]
pub(crate) struct Readable(AsyncFd<OwnedFd>);

impl Readable {
    pub(crate) fn new(fd: impl AsFd) -> io::Result<Self> {
        let duplicate = fd.as_fd().try_clone_to_owned()?;
        // A deleted TUN interface is an error condition and nothing else, see `poll`.
        register(duplicate, Interest::READABLE | Interest::ERROR).map(Self)
    }

    /// Ready when there is something to read, or the descriptor has failed. Forgets that at once: what
    /// comes after this moment makes it ready again, so read until nothing is left.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let readable = match self.0.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                true
            }
            Poll::Ready(Err(_)) => true, // the runtime is shutting down
            Poll::Pending => false,
        };
        // Without an interest in writability, the one thing that makes this ready is EPOLLERR or EPOLLHUP.
        let failed = match self.0.poll_write_ready(cx) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                true
            }
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if readable || failed { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A registration for writability, to be dropped once it is ready.
#[derive(Debug)]
pub(crate) struct Writable(AsyncFd<OwnedFd>);

impl Writable {
    pub(crate) fn new(fd: impl AsFd) -> io::Result<Self> {
        let duplicate = fd.as_fd().try_clone_to_owned()?;
        register(duplicate, Interest::WRITABLE).map(Self)
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.0.poll_write_ready(cx));
        Poll::Ready(())
    }
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and the same while it is registered. `AsyncFd` owns it, drops
    // it only after deregistering, and we never take it out; an `OwnedFd` never changes its number.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write as _, net::UdpSocket, os::unix::net::UnixStream, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_there_makes_it_ready_once() {
        run(async {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let readable = Readable::new(&theirs).unwrap();
            ours.write_all(b"x").unwrap();
            timeout(LIMIT, poll_fn(|cx| readable.poll(cx))).await.unwrap();
            assert!(timeout(Duration::ZERO, poll_fn(|cx| readable.poll(cx))).await.is_err());
            ours.write_all(b"y").unwrap();
            timeout(LIMIT, poll_fn(|cx| readable.poll(cx))).await.unwrap();
        });
    }

    #[test]
    fn a_hang_up_makes_it_ready() {
        run(async {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let readable = Readable::new(&theirs).unwrap();
            drop(ours);
            timeout(LIMIT, poll_fn(|cx| readable.poll(cx))).await.unwrap();
        });
    }

    #[test]
    fn a_socket_with_room_is_writable_at_once() {
        run(async {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            let writable = Writable::new(&socket).unwrap();
            timeout(LIMIT, poll_fn(|cx| writable.poll(cx))).await.unwrap();
        });
    }
}
