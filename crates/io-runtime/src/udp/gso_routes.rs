//! Which routes cannot take GSO, and when to ask them again.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use crate::rest::Rest;

/// Routes remembered at most. Past it the one due soonest is forgotten: it would be asked again anyway.
const MAX_ROUTES: usize = 1024;

/// Routes on which GSO sends failed while plain ones went through, keyed by the peer's address: what
/// decides is the device the route leaves by, and that can change any time.
#[derive(Debug, Default)]
pub(crate) struct GsoRoutes {
    broken: HashMap<IpAddr, Rest>,
}

/// How to send a batch to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// As one train.
    Gso,
    /// As one train, although the last one failed: its pause is over.
    Probe,
    /// Datagram by datagram.
    Plain,
}

impl GsoRoutes {
    pub(crate) fn choose(&self, remote: IpAddr, now: Instant) -> Choice {
        if self.broken.is_empty() {
            return Choice::Gso;
        }
        match self.broken.get(&remote) {
            None => Choice::Gso,
            Some(rest) if rest.is_over(now) => Choice::Probe,
            Some(_) => Choice::Plain,
        }
    }

    /// A GSO send went through.
    pub(crate) fn worked(&mut self, remote: IpAddr) {
        self.broken.remove(&remote);
    }

    /// A GSO send failed, and its datagrams went through one by one. True if this is news.
    pub(crate) fn failed(&mut self, remote: IpAddr, now: Instant) -> bool {
        let known = self.broken.get(&remote).copied();
        if known.is_none() && self.broken.len() >= MAX_ROUTES {
            self.forget_one();
        }
        self.broken.insert(remote, Rest::after(known, now));
        known.is_none()
    }

    fn forget_one(&mut self) {
        let soonest = self.broken.iter().min_by_key(|(_, rest)| rest.until()).map(|(&remote, _)| remote);
        if let Some(remote) = soonest {
            self.broken.remove(&remote);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::rest::{FIRST_PAUSE, LONGEST_PAUSE};

    const ROUTE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_broken_route_is_probed_after_ever_longer_pauses() {
        let mut routes = GsoRoutes::default();
        let mut now = crate::clock::now();
        let mut pause = FIRST_PAUSE;
        for attempt in 0..12 {
            assert_eq!(routes.failed(ROUTE, now), attempt == 0);
            assert_eq!(routes.choose(ROUTE, now + pause - Duration::from_millis(1)), Choice::Plain);
            now += pause;
            assert_eq!(routes.choose(ROUTE, now), Choice::Probe);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        routes.worked(ROUTE);
        assert_eq!(routes.choose(ROUTE, now), Choice::Gso);
    }

    #[test]
    fn other_routes_keep_gso() {
        let mut routes = GsoRoutes::default();
        let now = crate::clock::now();
        routes.failed(ROUTE, now);
        assert_eq!(routes.choose(Ipv4Addr::new(192, 0, 2, 1).into(), now), Choice::Gso);
    }

    #[test]
    fn memory_is_bounded() {
        let mut routes = GsoRoutes::default();
        let now = crate::clock::now();
        for i in 0..3 * MAX_ROUTES as u32 {
            routes.failed(Ipv4Addr::from_bits(i).into(), now);
        }
        assert_eq!(routes.broken.len(), MAX_ROUTES);
    }
}
