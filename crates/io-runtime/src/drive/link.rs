//! The interface is set down and up. Only while it is up is the port open, as the kernel's WireGuard has it.

use std::{
    io,
    time::{Duration, Instant},
};

use encrypt::Identity;

use super::DataPlane;
use crate::{UpdateError, tun::TunPort, udp::Sockets};

/// How often a port is tried that somebody else has taken while the interface was down.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Whether the interface is up, and what is to become of the port.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) is_up: bool,
    /// It is up, but the port could not be opened: try again then.
    pub(super) reopen_at: Option<Instant>,
    /// Nobody asked for the very port that we have.
    pub(super) any_port: bool,
}

impl<I: Identity, P: TunPort> DataPlane<I, P> {
    /// As it is at the start, with the sockets that were bound then.
    pub(super) fn start_link(&mut self, is_up: bool, sockets: Sockets, now: Instant) -> io::Result<()> {
        self.link.is_up = is_up;
        if is_up {
            self.poller.add_sockets(&sockets)?;
        }
        self.take_sockets(sockets, now);
        Ok(())
    }

    pub(super) fn set_link(&mut self, is_up: bool, now: Instant) {
        if self.link.is_up == is_up {
            return;
        }
        self.link.is_up = is_up;
        if is_up {
            self.open(now);
        } else {
            self.close_sockets(now);
        }
        self.flush(0, now);
    }

    /// Opens the port again, if it is time to.
    pub(super) fn reopen(&mut self, now: Instant) {
        if self.link.reopen_at.is_some_and(|at| at <= now) {
            self.open(now);
        }
    }

    /// Sockets for the port and the mark, for a trial while the interface is down.
    pub(super) fn bind(&mut self, port: u16, mark: u32) -> Result<Sockets, UpdateError> {
        let sockets = Sockets::bind(port, mark, self.config.socket_options())?;
        if self.link.is_up {
            self.poller.add_sockets(&sockets)?;
        }
        Ok(sockets)
    }

    /// Has these sockets from now on; while the interface is down, only their port.
    pub(super) fn take_sockets(&mut self, sockets: Sockets, now: Instant) {
        let Sockets { v4, v6, port } = sockets;
        self.features.ipv6 = v6.is_some();
        self.port = port;
        if !self.link.is_up {
            return;
        }
        match &mut self.sender {
            Some(sender) => sender.replace_sockets(v4, v6),
            None => self.sender = Some(super::sender(v4, v6, &self.features)),
        }
        self.ready.all_sockets();
        self.link.reopen_at = None;
        self.tunnel.link_up(now, &mut self.queue);
    }

    fn open(&mut self, now: Instant) {
        let mark = self.config.fwmark;
        let bound = match self.bind(self.port, mark) {
            Err(UpdateError::AddrInUse(_)) if self.link.any_port => self.bind(0, mark),
            other => other,
        };
        match bound {
            Ok(sockets) => {
                self.take_sockets(sockets, now);
                tracing::debug!(port = self.port, "the interface is up: the port is open");
            }
            Err(error) => {
                if self.link.reopen_at.is_none() {
                    let port = self.port;
                    tracing::error!(
                        "nothing is sent or received until UDP port {port} can be opened: {error}"
                    );
                }
                self.link.reopen_at = Some(now + REOPEN_PAUSE);
            }
        }
    }

    fn close_sockets(&mut self, now: Instant) {
        let (works, mut out) = self.out(now);
        works.flush_and_wait(true, &mut out); // what was sealed before
        self.tunnel.link_down(now);
        self.sender = None;
        self.link.reopen_at = None;
        self.ready.no_sockets(); // what was received from them is dropped and counted in its turn
        tracing::debug!(port = self.port, "the interface is down: the port is closed");
    }
}
