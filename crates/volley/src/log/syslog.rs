//! The system's log socket, `/dev/log`: what is left to a daemon that has no stderr. The journal and every
//! syslog daemon listen there (RFC 3164's local form).

use std::{
    fmt::{Debug, Display, Write},
    os::unix::net::UnixDatagram,
    sync::OnceLock,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

const SOCKET: &str = "/dev/log";

/// Facility "system daemons" (RFC 3164 §4.1.1), shifted to its place.
const FACILITY: u8 = 3 << 3;

static LOG: OnceLock<UnixDatagram> = OnceLock::new();

/// From now on, log to the system's socket too, if there is one.
pub fn open() {
    let Ok(socket) = UnixDatagram::unbound() else { return };
    // A log daemon that does not keep up must not stop the tunnel.
    if socket.connect(SOCKET).is_ok() && socket.set_nonblocking(true).is_ok() {
        let _ = LOG.set(socket);
    }
}

/// Sends every event to [`SOCKET`], once it is [`open`].
pub(super) struct Syslog;

impl<S: Subscriber> Layer<S> for Syslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if LOG.get().is_none() {
            return;
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        send(*event.metadata().level(), line.0);
    }
}

/// Sends a line, once it is [`open`].
pub(super) fn send(level: Level, line: impl Display) {
    let Some(socket) = LOG.get() else { return };
    let priority = FACILITY | severity(level);
    let line = format!("<{priority}>volley[{}]: {line}", std::process::id());
    let _ = socket.send(line.as_bytes());
}

const fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}
