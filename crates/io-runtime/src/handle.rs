//! The handle: how the rest of the program speaks to a running data plane.

use std::{
    collections::HashSet,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};

use crate::{
    DeviceSecrets, DeviceStatus, DeviceUpdate, Error, Stopped, UpdateError,
    alarm::{Alarm, Bell},
};

/// Commands waiting for the loop, at most. Callers past that wait; nothing is dropped.
pub(crate) const COMMAND_QUEUE: usize = 64;

/// What a handle asks of the loop.
#[derive(Debug)]
pub(crate) enum Command {
    Update(Box<DeviceUpdate>, oneshot::Sender<Result<(), UpdateError>>),
    Status(oneshot::Sender<Box<DeviceStatus>>),
    StatusWithSecrets(oneshot::Sender<Box<(DeviceStatus, DeviceSecrets)>>),
    SetMtu(usize, oneshot::Sender<()>),
    SetLink(bool, oneshot::Sender<()>),
    PinnedSources(oneshot::Sender<Vec<PinnedSource>>),
    ForgetSources(HashSet<PinnedSource>, oneshot::Sender<()>),
}

/// A peer's endpoint, and the local address that what goes there leaves from: the one that the peer last spoke to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinnedSource {
    /// Where to.
    pub remote: SocketAddr,
    /// Where from.
    pub source: IpAddr,
}

/// How the data plane ended; `None` while it runs.
pub(crate) type Outcome = Option<Result<(), Error>>;

/// Speaks to a running data plane. Cheap to clone; usable from any thread and any async runtime.
///
/// The data plane ends when [`shutdown`](Self::shutdown) is called, when the last handle is dropped, or
/// when its device is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    stop: mpsc::Sender<()>,
    outcome: watch::Receiver<Outcome>,
    /// Behind the others: a handle that goes away may have been the last.
    bell: Bell,
}

/// The data plane's ends of a [`Handle`]'s channels.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) requests: Requests,
    pub(crate) outcome: watch::Sender<Outcome>,
}

impl Handle {
    /// Requests ring `alarm`.
    pub(crate) fn new(alarm: Arc<Alarm>) -> (Self, Control) {
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let (stop, stopped) = mpsc::channel(1);
        let (outcome_sender, outcome) = watch::channel(None);
        let requests = Requests { commands: command_queue, stop: stopped };
        (
            Self { commands, stop, outcome, bell: Bell::for_requests(alarm) },
            Control { requests, outcome: outcome_sender },
        )
    }

    /// Applies a whole update: the port, then the mark, then the tunnel's part. All of it or nothing.
    ///
    /// # Errors
    /// [`UpdateError`]; everything is as it was before then.
    pub async fn update(&self, update: DeviceUpdate) -> Result<(), UpdateError> {
        self.ask(|reply| Command::Update(Box::new(update), reply)).await?
    }

    /// Everything there is to know that is no secret, at one instant.
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn status(&self) -> Result<DeviceStatus, Stopped> {
        self.ask(Command::Status).await.map(|status| *status)
    }

    /// The same with every key, for who has to tell or keep them. They are wiped when dropped.
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn status_with_secrets(&self) -> Result<(DeviceStatus, DeviceSecrets), Stopped> {
        self.ask(Command::StatusWithSecrets).await.map(|both| *both)
    }

    /// Follows the interface's MTU.
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn set_mtu(&self, mtu: usize) -> Result<(), Stopped> {
        self.ask(|reply| Command::SetMtu(mtu, reply)).await
    }

    /// Which local addresses are pinned for which endpoints. For someone who watches routes: see
    /// [`forget_sources`](Self::forget_sources).
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn pinned_sources(&self) -> Result<Vec<PinnedSource>, Stopped> {
        self.ask(Command::PinnedSources).await
    }

    /// Leaves it to the route where datagrams leave from for these, until the peer is heard from again. What is not
    /// pinned so any more stays as it is.
    ///
    /// The kernel's WireGuard does so when the route to a peer leads through another interface than before: from an
    /// address of the old one no answer might come back. The data plane cannot see that; it notices only that an
    /// address is gone, and that a peer does not answer handshakes.
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn forget_sources(&self, sources: HashSet<PinnedSource>) -> Result<(), Stopped> {
        self.ask(|reply| Command::ForgetSources(sources, reply)).await
    }

    /// The interface was set up or down. Down, as in the kernel, the UDP port is closed, sessions and timers end, and
    /// nothing is sent; what the device still gives waits. Up, the same port is opened again (another, if it was not
    /// asked for and is taken), and peers with a persistent keepalive are sent one. If the port that was asked for is
    /// taken, it is tried again every second. Whether it is up at the start, [`RuntimeConfig::link_up`] says.
    ///
    /// [`RuntimeConfig::link_up`]: crate::RuntimeConfig::link_up
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn set_link_up(&self, is_up: bool) -> Result<(), Stopped> {
        self.ask(|reply| Command::SetLink(is_up, reply)).await
    }

    /// Asks the data plane to end; [`finished`](Self::finished) tells when it has. Idempotent.
    pub fn shutdown(&self) {
        // Full: somebody else has asked. Closed: it has ended already.
        let _ = self.stop.try_send(());
        self.bell.ring();
    }

    /// Resolves when the data plane has ended: its threads are joined, its sockets and its device closed.
    ///
    /// # Errors
    /// Why it ended, when nobody asked it to.
    pub async fn finished(&self) -> Result<(), Error> {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone().unwrap_or(Ok(())),
            Err(_) => Err(Error::Panicked("its thread is gone".into())),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopped)?;
        self.bell.ring();
        // A command that comes while the data plane ends may stay in the channel, unanswered, as long as there are handles.
        let (mut answer, mut end) = (pin!(answer), pin!(self.finished()));
        poll_fn(|context| match answer.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(answer.map_err(|_| Stopped)),
            Poll::Pending => end.as_mut().poll(context).map(|_| Err(Stopped)),
        })
        .await
    }
}

/// What the handles ask for.
#[derive(Debug)]
pub(crate) struct Requests {
    commands: mpsc::Receiver<Command>,
    stop: mpsc::Receiver<()>,
}

impl Requests {
    /// The next command, or [`Stopped`] when it is time to end: somebody said so, or no handle is left.
    pub(crate) fn next(&mut self) -> Option<Result<Command, Stopped>> {
        match self.stop.try_recv() {
            Ok(()) | Err(TryRecvError::Disconnected) => return Some(Err(Stopped)),
            Err(TryRecvError::Empty) => {}
        }
        self.commands.try_recv().ok().map(Ok)
    }
}

/// Usable from anywhere.
const _: () = {
    const fn anywhere<T: Send + Sync + Clone + 'static>() {}
    anywhere::<Handle>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_the_end_has_overtaken_is_not_waited_for() {
        let (handle, control) = Handle::new(Arc::new(Alarm::new().unwrap()));
        let asked = handle.set_link_up(false);
        let ends = async {
            while control.requests.commands.is_empty() {
                tokio::task::yield_now().await;
            }
            control.outcome.send_replace(Some(Err(Error::DeviceGone)));
        };
        assert_eq!(tokio::join!(asked, ends).0, Err(Stopped));
        assert_eq!(control.requests.commands.len(), 1, "nobody has taken it");
    }
}
