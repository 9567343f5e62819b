//! No line of the program may flood the log, whatever the network does to us.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::{Layer, layer::Context};

/// Lines that one place in the code may log per [`WINDOW`]; more are swallowed.
const LINES: u32 = 20;

/// The span of time that [`LINES`] is about.
const WINDOW: Duration = Duration::from_secs(10);

/// Limits each place in the code. Debug and trace lines are not limited: who asks for them wants them all.
#[derive(Default)]
pub(super) struct RateLimit {
    places: Mutex<HashMap<Identifier, Place>>,
}

/// One place's lines in the current window.
struct Place {
    since: Instant,
    lines: u32,
}

impl RateLimit {
    fn allows(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(place).or_insert(Place { since: now, lines: 0 });
        if now.saturating_duration_since(place.since) >= WINDOW {
            *place = Place { since: now, lines: 0 };
        }
        place.lines = place.lines.saturating_add(1);
        place.lines <= LINES
    }
}

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || self.allows(metadata.callsite(), io_runtime::clock::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Callsite, Metadata, subscriber::Interest};

    use super::*;

    /// Not empty, so that it has an address of its own.
    struct Somewhere(u8);

    impl Callsite for Somewhere {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only its identity counts, not {}", self.0)
        }
    }

    #[test]
    fn a_place_is_silenced_for_the_rest_of_its_window() {
        static HERE: Somewhere = Somewhere(0);
        let here = || Identifier(&HERE);
        let limit = RateLimit::default();
        let start = io_runtime::clock::now();
        let allowed = (0..100).filter(|_| limit.allows(here(), start)).count();
        assert_eq!(allowed, 20);
        assert!(!limit.allows(here(), start + WINDOW / 2));
        assert!(limit.allows(here(), start + WINDOW));
    }
}
