//! The one writer to stdout and stderr. What a command was asked for goes to stdout, and the command fails if it cannot
//! be written. What people are told on the way goes to stderr if somebody reads it, and never stops, fails or delays
//! what is being done: an interface that is half set up is worse than a line that is lost.
//!
//! The macros of the standard library panic when they cannot write; lints forbid them in this crate.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    panic::PanicHookInfo,
    sync::atomic::{AtomicBool, Ordering},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use zeroize::Zeroizing;

use crate::{Trouble, WithFix};

/// How long a reader of stderr may sleep before the rest goes unread, milliseconds.
const PATIENCE: u16 = 1_000;

/// What a pipe that can be written to takes at once (linux/limits.h's `PIPE_BUF`), bytes.
const PIPE_BUF: usize = 4_096;

/// Prints one line of a command's result.
///
/// # Errors
/// As for [`write`].
pub(crate) fn print(line: &str) -> Result<(), Trouble> {
    let mut text = Zeroizing::new(Vec::with_capacity(line.len() + 1));
    text.extend_from_slice(line.as_bytes());
    text.push(b'\n');
    write(&text)
}

/// Writes a command's result to stdout.
///
/// # Errors
/// When it was not written whole: half a key in a file is worse than none. A reader that has seen enough (`| head`) is
/// not told why.
pub(crate) fn write(text: &[u8]) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Trouble::told()),
        written => written.or_trouble("cannot write to stdout"),
    }
}

/// Tells people a line on stderr.
pub(crate) fn notice(line: impl Display) {
    static ASLEEP: AtomicBool = AtomicBool::new(false);
    let patience = if ASLEEP.load(Ordering::Relaxed) { 0 } else { PATIENCE };
    if !offer(format!("{line}\n").as_bytes(), patience.into()) {
        ASLEEP.store(true, Ordering::Relaxed);
    }
}

/// Where log lines go. The data plane does not wait for whoever reads them.
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        offer(line, PollTimeout::ZERO);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a panic says, in place of the standard library's hook, which waits for readers that sleep.
pub(crate) fn panicked(panic: &PanicHookInfo<'_>) {
    notice(format_args!("volley: {panic}"));
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        notice(trace);
    }
}

/// True when what goes to `stream` may have colours.
pub(crate) fn is_styled(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes to stderr what can be written without waiting longer than `patience`; false if it was too long.
fn offer(text: &[u8], patience: PollTimeout) -> bool {
    let mut stderr = io::stderr().lock();
    for part in text.chunks(PIPE_BUF) {
        let ready = loop {
            match poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], patience) {
                Err(Errno::EINTR) => {}
                ready => break ready,
            }
        };
        if ready == Ok(0) {
            return false;
        }
        if stderr.write_all(part).is_err() {
            return true; // nobody is there: nothing to wait for
        }
    }
    true
}
