//! The handle: how the rest of the program speaks to a running data plane.

use tokio::sync::{mpsc, oneshot, watch};

use crate::{DeviceStatus, DeviceUpdate, Error, Stopped, UpdateError};

/// Commands waiting for the loop, at most. Callers past that wait; nothing is dropped.
pub(crate) const COMMAND_QUEUE: usize = 64;

/// What a handle asks of the loop.
#[derive(Debug)]
pub(crate) enum Command {
    Update(Box<DeviceUpdate>, oneshot::Sender<Result<(), UpdateError>>),
    Status(oneshot::Sender<Box<DeviceStatus>>),
    SetMtu(usize, oneshot::Sender<()>),
}

/// How the data plane ended; `None` while it runs.
pub(crate) type Outcome = Option<Result<(), Error>>;

/// Speaks to a running data plane. Cheap to clone; usable from any thread and any tokio runtime.
///
/// The data plane ends when [`shutdown`](Self::shutdown) is called, when the last handle is dropped, or
/// when its device is gone.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    stop: watch::Sender<bool>,
    outcome: watch::Receiver<Outcome>,
}

/// The loop's ends of a [`Handle`]'s channels.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) outcome: watch::Sender<Outcome>,
}

impl Handle {
    pub(crate) fn new() -> (Self, Control) {
        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let (stop, stopped) = watch::channel(false);
        let (outcome_sender, outcome) = watch::channel(None);
        let control = Control { commands: command_queue, stop: stopped, outcome: outcome_sender };
        (Self { commands, stop, outcome }, control)
    }

    /// Applies a whole update: the port, then the tunnel's part, then the mark. All of it or nothing.
    ///
    /// # Errors
    /// [`UpdateError`]; everything is as it was before then.
    pub async fn update(&self, update: DeviceUpdate) -> Result<(), UpdateError> {
        self.ask(|reply| Command::Update(Box::new(update), reply)).await?
    }

    /// Everything there is to know, at one instant.
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn status(&self) -> Result<DeviceStatus, Stopped> {
        self.ask(Command::Status).await.map(|status| *status)
    }

    /// Follows the interface's MTU.
    ///
    /// # Errors
    /// [`Stopped`] when the data plane has ended.
    pub async fn set_mtu(&self, mtu: usize) -> Result<(), Stopped> {
        self.ask(|reply| Command::SetMtu(mtu, reply)).await
    }

    /// Asks the data plane to end; [`finished`](Self::finished) tells when it has. Idempotent.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    /// Resolves when the data plane has ended and its threads are joined.
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
        answer.await.map_err(|_| Stopped)
    }
}
