//! The floods themselves.

use std::{
    net::SocketAddrV4,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use encrypt::{INITIATION_LEN, PublicKey};
use netlab::{Host, clock};

use super::{client::Client, strangers::Strangers};

/// Initiations that an unproven flood repeats, each time from another address.
const TEMPLATES: u32 = 1024;
/// Addresses of the proven flood.
const PROVEN: u32 = 1000;
/// What a sender that was held up sends at once, in time: more would be lost before it gets there.
const CATCH_UP: Duration = Duration::from_millis(10);
/// Between bursts.
const PAUSE: Duration = Duration::from_micros(500);
/// How long cookies are asked for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Each initiation comes from another address, and its sender sees no answer.
    Unproven,
    /// A thousand senders with a cookie each, whose keys are no peer's.
    Proven,
}

/// The datagrams of a flood, made beforehand.
pub(super) struct Flood {
    kind: Kind,
    messages: Vec<(SocketAddrV4, [u8; INITIATION_LEN])>,
    network: Strangers,
}

/// A flood that runs. Dropping it does not end it.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<Flood>>,
    began: std::time::Instant,
}

fn client(network: &Strangers, server: &PublicKey, number: u32) -> Client {
    let port = 1024 + (number % 60_000) as u16;
    Client::new(server, SocketAddrV4::new(network.address(number), port), number)
}

impl Flood {
    pub(super) fn unproven(network: Strangers, server: &PublicKey) -> Result<Self> {
        let messages = (0..TEMPLATES).map(|number| {
            let mut client = client(&network, server, number);
            Ok((client.address, *client.prepare()?))
        });
        Ok(Self { kind: Kind::Unproven, messages: messages.collect::<Result<_>>()?, network })
    }

    /// Floods the server without proof until it gives cookies to all.
    pub(super) fn proven(unproven: Self, server: &PublicKey, port: u16) -> Result<Self> {
        let Self { messages: others, mut network, .. } = unproven;
        // Not the first addresses: these are the others'.
        let mut clients: Vec<_> =
            (0..PROVEN).map(|number| client(&network, server, Strangers::ADDRESSES / 2 + number)).collect();
        let mut has_cookie = vec![false; clients.len()];
        let deadline = clock::now() + PATIENCE;
        for client in &mut clients {
            client.prepare()?;
        }
        while has_cookie.contains(&false) {
            ensure!(clock::now() < deadline, "the server gives no cookies");
            for (from, message) in &others {
                network.send(*from, port, message)?;
            }
            let missing = clients.iter().zip(&has_cookie).filter(|(_, has_one)| !**has_one);
            for (client, _) in missing {
                network.send(client.address, port, client.initiation())?;
            }
            network.wait(Duration::from_millis(20))?;
            thread::sleep(Duration::from_millis(20));
            let first = clients[0].address.ip().to_bits();
            while let Some((to, answer)) = network.receive()? {
                let at = to.ip().to_bits().wrapping_sub(first) as usize;
                if let Some(client) = clients.get_mut(at)
                    && client.take_cookie(answer)
                {
                    has_cookie[at] = true;
                    client.prepare()?;
                }
            }
        }
        let messages = clients.iter().map(|client| (client.address, *client.initiation())).collect();
        Ok(Self { kind: Kind::Proven, messages, network })
    }

    /// Sends so many a second to this port of the victim, until it is stopped.
    pub(super) fn start(mut self, host: &Host, port: u16, rate: u32) -> Running {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            host.spawn_thread(move || self.run(port, rate, &stop, &sent).map(|()| self))
        };
        Running { stop, sent, thread, began: clock::now() }
    }

    fn run(&mut self, port: u16, rate: u32, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
        let mut last = clock::now();
        let mut serial: u32 = 0;
        while !stop.load(Ordering::Relaxed) {
            let now = clock::now();
            let time = now.duration_since(last).min(CATCH_UP);
            let due = (time.as_secs_f64() * f64::from(rate)) as u32;
            last = now;
            for _ in 0..due {
                let at = serial as usize % self.messages.len();
                let (mut from, message) = self.messages[at];
                if self.kind == Kind::Unproven {
                    from = SocketAddrV4::new(self.network.address(serial), from.port());
                }
                self.network.send(from, port, &message)?;
                serial = serial.wrapping_add(1);
            }
            sent.fetch_add(due.into(), Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Running {
    /// Ends it; gives the flood, to be started again, and how many a second were sent.
    pub(super) fn stop(self) -> Result<(Flood, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        let rate = self.sent.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64();
        let flood = self.thread.join().map_err(|_| anyhow!("the flood panicked"))??;
        Ok((flood, rate))
    }
}
