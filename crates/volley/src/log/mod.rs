//! Where log lines go: stderr while somebody may be looking, the system's log socket once the daemon has
//! left its terminal. Never a file of our own, never a key.

mod limit;
mod syslog;

use std::{io::stderr, panic::PanicHookInfo};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use syslog::leave_terminal;

use crate::output;

/// Sets up logging for the whole process. A second call changes nothing.
pub fn init(level: LevelFilter) {
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
        .with(terminal)
        .with(syslog::Syslog)
        .try_init();
}

/// The hook of panics: what they say goes where log lines go.
pub(crate) fn panicked(panic: &PanicHookInfo<'_>) {
    output::panicked(panic);
    syslog::send(Level::ERROR, panic);
}
