//! Where log lines go: stderr of a daemon in the foreground; the system's log socket of one in the background, whose
//! stderr is its caller's until it is ready, and has warnings alone. Never a file of our own, never a key.

mod limit;
mod syslog;

use std::{io::stderr, panic::PanicHookInfo};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use syslog::open as open_system_log;

use crate::output;

/// Sets up logging for the whole process: lines of at most `level`, and on stderr of at most `on_stderr`. A second call
/// changes nothing.
pub fn init(level: LevelFilter, on_stderr: LevelFilter) {
    let targets = Targets::new()
        .with_default(level)
        // Its lines are about every packet that fails; our counters say the same.
        .with_target("boringtun", LevelFilter::OFF)
        .with_target("netlink_proto", level.min(LevelFilter::WARN));
    let terminal = fmt::layer().with_writer(|| output::Log).with_target(false);
    let terminal = terminal.with_ansi(output::is_styled(&stderr()));
    // The journal stamps lines itself.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let terminal = if journal { terminal.without_time().boxed() } else { terminal.boxed() };
    let _ = tracing_subscriber::registry()
        .with(targets)
        .with(limit::RateLimit::default())
        .with(terminal.with_filter(on_stderr))
        .with(syslog::Syslog)
        .try_init();
}

/// The hook of panics: what they say goes where log lines go.
pub(crate) fn panicked(panic: &PanicHookInfo<'_>) {
    output::panicked(panic);
    syslog::send(Level::ERROR, panic);
}
