//! The signals that ask a program to end, where ending means undoing first.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Trouble, WithFix, daemon::is_ignored};

/// Those that whoever started us has not told the kernel to drop.
pub(super) struct EndSignals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl EndSignals {
    /// From now on they end nothing by themselves.
    pub(super) fn listen() -> Result<Self, Trouble> {
        let listen = |kind: SignalKind| {
            let listening = (!is_ignored(kind)).then(|| signal(kind));
            listening.transpose().or_trouble("cannot listen for signals")
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Resolves when one comes, and says how.
    pub(super) async fn any(&mut self) -> &'static str {
        tokio::select! {
            () = received(&mut self.interrupt) => "interrupted",
            () = received(&mut self.terminate) => "terminated",
            () = received(&mut self.hangup) => "interrupted: the terminal is gone",
        }
    }

    /// The end of `work`; if a signal comes first, it is dropped where it is.
    pub(super) async fn unless<T>(
        &mut self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        tokio::select! {
            biased;
            asked = self.any() => Err(Trouble::new(asked)),
            done = work => done,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
