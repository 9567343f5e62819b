//! What commands say. The macros of the standard library panic when nobody reads, in the middle of a measurement or with
//! namespaces in place; lints forbid them here.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

static LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line of a command's result. If it cannot be written, the command goes on, and fails at its end.
macro_rules! say {
    () => { $crate::output::say("") };
    ($($line:tt)+) => { $crate::output::say(format_args!($($line)+)) };
}

/// Tells something on the way, on stderr.
macro_rules! tell {
    ($($line:tt)+) => { $crate::output::tell(format_args!($($line)+)) };
}

pub(crate) fn say(line: impl Display) {
    let _ = writeln!(Results, "{line}");
}

pub(crate) fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// True when some of the results was not written.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Where results go. Writing never fails.
pub(crate) struct Results;

impl Write for Results {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut stdout = io::stdout().lock();
        if stdout.write_all(text).and_then(|()| stdout.flush()).is_err() {
            LOST.store(true, Ordering::Relaxed);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
