//! Light clients: each has a key, an address and a handshake, and nothing else of a tunnel.

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use encrypt::{
    DATA_OVERHEAD, INITIATION_LEN, Message, PrivateKey, PublicKey, REKEY_TIMEOUT,
    native::{Addressed, LocalIdentity, OsRng, PeerHandshake, RngCore},
};
use netlab::clock;

use super::strangers::Strangers;

/// What is added to the pause between two tries, at most (paper §6.4).
const JITTER: Duration = Duration::from_millis(333);

/// One client.
pub(super) struct Client {
    identity: LocalIdentity,
    server: PeerHandshake,
    pub(super) address: SocketAddrV4,
    index: u32,
    initiation: [u8; INITIATION_LEN],
    retry_at: Option<Instant>,
    has_cookie: bool,
    answered: Option<Instant>,
}

impl Client {
    pub(super) fn new(server: &PublicKey, address: SocketAddrV4, index: u32) -> Self {
        Self {
            identity: LocalIdentity::new(&PrivateKey::generate()),
            server: PeerHandshake::new(*server, None),
            address,
            index,
            initiation: [0; INITIATION_LEN],
            retry_at: None,
            has_cookie: false,
            answered: None,
        }
    }

    /// Writes the next initiation; with a mac2 if there is a cookie.
    pub(super) fn prepare(&mut self) -> Result<&[u8; INITIATION_LEN]> {
        self.index = self.index.wrapping_add(1 << 16);
        let (wall, now) = (clock::wall(), clock::now());
        self.server.initiate(&self.identity, self.index, wall, now, &mut OsRng, &mut self.initiation)?;
        Ok(&self.initiation)
    }

    /// The initiation that was prepared last.
    pub(super) const fn initiation(&self) -> &[u8; INITIATION_LEN] {
        &self.initiation
    }

    /// What sets it up as a peer of the server: a part of a UAPI request.
    pub(super) fn peer_lines(&self, known_endpoint: bool) -> String {
        let mut lines = format!("public_key={}\n", self.identity.public_key().to_hex());
        if known_endpoint {
            lines += &format!("endpoint={}\n", self.address);
        }
        lines
    }

    /// Takes a cookie, if that is what it is.
    pub(super) fn take_cookie(&mut self, answer: &[u8]) -> bool {
        let is_one = self.server.read_cookie_reply(answer, clock::now()).is_ok();
        self.has_cookie |= is_one;
        is_one
    }

    /// Takes a response, if that is what it is, and gives the keepalive that confirms it.
    fn take_response(&mut self, answer: &[u8]) -> Option<[u8; DATA_OVERHEAD]> {
        let Ok(Addressed::Response(response)) = self.identity.verify_mac1(answer) else { return None };
        let keys = self.server.read_response(&self.identity, &response).ok()?;
        let mut keepalive = [0; DATA_OVERHEAD];
        keys.keys().lease(1).ok()?.seal_train(&mut keepalive, DATA_OVERHEAD).ok()?;
        Some(keepalive)
    }
}

/// Clients that come together.
pub(super) struct Crowd {
    pub(super) clients: Vec<Client>,
    by_address: HashMap<SocketAddrV4, usize>,
    /// When they came, the last time.
    began: Option<Instant>,
}

/// How long each client took, in order of time; those that were never answered are not among them.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    pub(super) times: Vec<Duration>,
    /// How many were answered with a cookie first.
    pub(super) with_cookie: usize,
    pub(super) clients: usize,
}

impl Arrivals {
    /// When the last was in; `None` if some never was.
    pub(super) fn all_in(&self) -> Option<Duration> {
        (self.times.len() == self.clients).then(|| self.times.last().copied()).flatten()
    }

    pub(super) fn within(&self, time: Duration) -> usize {
        self.times.iter().filter(|answered| **answered <= time).count()
    }
}

impl Crowd {
    pub(super) fn new(clients: Vec<Client>) -> Self {
        let by_address = clients.iter().enumerate().map(|(at, client)| (client.address, at)).collect();
        Self { clients, by_address, began: None }
    }

    /// Has all of them shake hands at once, as clients do: each tries again after five seconds. Ends when all were answered, or
    /// when time is over.
    pub(super) fn connect(
        &mut self,
        network: &mut Strangers,
        port: u16,
        patience: Duration,
    ) -> Result<Arrivals> {
        for client in &mut self.clients {
            (client.answered, client.has_cookie) = (None, false);
            client.prepare()?;
        }
        let began = clock::now();
        self.send(network, port, |_| true, began)?;
        let mut left = self.clients.len();
        while left > 0 && began.elapsed() < patience {
            network.wait(Duration::from_millis(1))?;
            left -= self.read(network, port)?;
            let now = clock::now();
            let is_due = |client: &Client| client.retry_at.is_some_and(|at| at <= now);
            for client in self.clients.iter_mut().filter(|client| is_due(client)) {
                client.prepare()?;
            }
            self.send(network, port, is_due, now)?;
        }
        self.began = Some(began);
        Ok(self.arrivals(&self.clients))
    }

    /// How some of them fared the last time.
    pub(super) fn arrivals(&self, clients: &[Client]) -> Arrivals {
        let answered = clients.iter().filter_map(|client| client.answered.zip(self.began));
        let mut times: Vec<_> = answered.map(|(answered, began)| answered.duration_since(began)).collect();
        times.sort_unstable();
        let with_cookie = clients.iter().filter(|client| client.has_cookie).count();
        Arrivals { times, with_cookie, clients: clients.len() }
    }

    /// Sends the initiations of some.
    fn send(
        &mut self,
        network: &mut Strangers,
        port: u16,
        which: impl Fn(&Client) -> bool,
        now: Instant,
    ) -> Result<()> {
        for client in self.clients.iter_mut().filter(|client| which(client)) {
            network.send(client.address, port, &client.initiation)?;
            let jitter = JITTER.mul_f64(f64::from(OsRng.next_u32()) / f64::from(u32::MAX));
            client.retry_at = Some(now + REKEY_TIMEOUT + jitter);
        }
        Ok(())
    }

    /// Reads all answers there are. Gives how many more clients are in.
    fn read(&mut self, network: &mut Strangers, port: u16) -> Result<usize> {
        let mut more = 0;
        while let Some((to, answer)) = network.receive()? {
            let Some(client) = self.by_address.get(&to).and_then(|at| self.clients.get_mut(*at)) else {
                continue;
            };
            let now = clock::now();
            match Message::parse(answer) {
                Ok(Message::CookieReply { .. }) => {
                    client.take_cookie(answer);
                }
                Ok(Message::Response { .. }) => {
                    let Some(keepalive) = client.take_response(answer) else { continue };
                    more += usize::from(client.answered.is_none());
                    client.answered.get_or_insert(now);
                    client.retry_at = None;
                    network.send(to, port, &keepalive)?;
                }
                _ => {}
            }
        }
        Ok(more)
    }

    /// Sends one initiation of each client, evenly over `time`, and takes no notice of the answers. They are prepared before.
    pub(super) fn spread(&mut self, network: &mut Strangers, port: u16, time: Duration) -> Result<()> {
        let count = u32::try_from(self.clients.len()).context("so many clients")?;
        let began = clock::now();
        for (number, client) in (0..).zip(&self.clients) {
            let at = time * number / count;
            if at > began.elapsed() {
                std::thread::sleep(Duration::from_millis(1));
            }
            network.send(client.address, port, client.initiation())?;
        }
        Ok(())
    }

    /// Reads and forgets all answers there are; gives how many clients' responses were among them.
    pub(super) fn count_responses(&self, network: &mut Strangers) -> Result<usize> {
        let mut responses = 0;
        while let Some((_, answer)) = network.receive()? {
            responses += usize::from(matches!(Message::parse(answer), Ok(Message::Response { .. })));
        }
        Ok(responses)
    }
}
