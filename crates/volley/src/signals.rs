//! The signals that ask a program to end, where ending means undoing first.
//!
//! They are listened to before anything is made. Before that, a signal ends the program and leaves nothing; but a
//! container's first process gets none that it does not listen for, and does not get it later either.

use std::{
    fmt::{self, Display},
    fs, io,
};

use nix::sys::signal::{
    SigSet, SigmaskHow,
    Signal::{SIGHUP, SIGINT, SIGTERM},
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{Trouble, WithFix};

/// An event loop on this thread, and the signals that end what runs in it.
pub(crate) fn event_loop() -> Result<(Runtime, EndSignals), Trouble> {
    let started: io::Result<_> = Builder::new_current_thread().enable_all().build();
    let runtime = started.or_trouble("cannot start the event loop")?;
    let signals = {
        let _context = runtime.enter();
        EndSignals::listen()?
    };
    Ok((runtime, signals))
}

/// Listens for SIGTERM, and for SIGINT and SIGHUP unless whoever started us has told the kernel to drop them, as
/// `nohup` does and a shell in front of `&`.
pub(crate) struct EndSignals {
    terminate: Signal,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

/// What asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndSignal {
    Terminate,
    Interrupt,
    Hangup,
}

impl EndSignals {
    /// From now on they end nothing by themselves. To be called within an event loop.
    pub(crate) fn listen() -> Result<Self, Trouble> {
        const WHAT: &str = "cannot listen for signals";
        // Registering takes several steps, and a signal between two of them would do nothing at all.
        let all: SigSet = [SIGTERM, SIGINT, SIGHUP].into_iter().collect();
        let before = all.thread_swap_mask(SigmaskHow::SIG_BLOCK).or_trouble(WHAT)?;
        let listening = Self::register().or_trouble(WHAT);
        before.thread_set_mask().or_trouble(WHAT)?;
        listening
    }

    fn register() -> io::Result<Self> {
        let unless_ignored =
            |kind: SignalKind| if is_ignored(kind) { Ok(None) } else { signal(kind).map(Some) };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: unless_ignored(SignalKind::interrupt())?,
            hangup: unless_ignored(SignalKind::hangup())?,
        })
    }

    /// Resolves when one comes, or has come since the beginning.
    pub(crate) async fn any(&mut self) -> EndSignal {
        tokio::select! {
            _ = self.terminate.recv() => EndSignal::Terminate,
            () = received(&mut self.interrupt) => EndSignal::Interrupt,
            () = received(&mut self.hangup) => EndSignal::Hangup,
        }
    }

    /// The end of `work`. If a signal comes first, or has come, `work` is dropped where it is.
    pub(crate) async fn unless<T>(
        &mut self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        tokio::select! {
            biased;
            signal = self.any() => Err(Trouble::new(signal.reason())),
            done = work => done,
        }
    }
}

impl EndSignal {
    /// What a person reads who may or may not have sent it.
    const fn reason(self) -> &'static str {
        match self {
            Self::Terminate => "terminated",
            Self::Interrupt => "interrupted",
            Self::Hangup => "interrupted: the terminal is gone",
        }
    }
}

impl Display for EndSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Hangup => "SIGHUP",
        })
    }
}

/// True when whoever started us has told the kernel to drop it.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (kind.as_raw_value() - 1) & 1 == 1) // signal 1 is the lowest bit
}

/// Resolves when the signal comes; never if we do not listen for it.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}
