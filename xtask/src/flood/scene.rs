//! A running tunnel, its victim's end joined to networks of strangers.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use encrypt::PublicKey;
use netlab::{
    Amount, Host, Implementation, PingReport, Side, TcpPlan, TcpTransfer, Tunnel, TunnelBuilder, clock,
    ping_for,
};

use super::{
    attack::Flood,
    client::{Arrivals, Client, Crowd},
    strangers::Strangers,
};

/// Where a flood comes from: a part of the addresses for carrier-grade NAT (RFC 6598), as is the other.
const FLOODERS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Where honest clients come from.
const HONEST: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 0);

/// Between pings.
const PING_INTERVAL: Duration = Duration::from_millis(5);
/// Pings beside TCP start when its window has opened.
const WARM_UP: Duration = Duration::from_millis(500);
/// Two tries of a handshake, five seconds apart, and some time for the second.
pub(super) const TWO_TRIES: Duration = Duration::from_secs(8);
/// After that a client has not connected.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before a crowd comes: what its configuration caused is over.
const CALM: Duration = Duration::from_secs(2);

/// A running tunnel. Side B is the victim.
pub(super) struct Scene {
    tunnel: Tunnel,
    server: PublicKey,
    /// Bound, and never read.
    _deaf: UdpSocket,
}

/// What a tunnel did in some seconds.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    pub(super) bits_per_second: f64,
    pub(super) under_tcp: PingReport,
    pub(super) alone: PingReport,
    /// Datagrams per second that found a socket of the victim's full.
    pub(super) lost: f64,
    /// CPU seconds per second of the victim's daemon.
    pub(super) daemon: f64,
    /// Messages per second that the flood sent.
    pub(super) flood: Option<f64>,
}

impl Scene {
    /// The daemon's.
    pub(super) const PORT: u16 = 51820;
    /// One at which datagrams cost the kernel what they cost, and nobody else.
    pub(super) const DEAF_PORT: u16 = 51999;

    pub(super) fn start(implementation: &Implementation) -> Result<Self> {
        let tunnel = TunnelBuilder::new(implementation, implementation).start()?;
        let server = PublicKey::from_hex(Side::B.public_key())?;
        let deaf = tunnel.host(Side::B).run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, Self::DEAF_PORT)))?;
        Ok(Self { tunnel, server, _deaf: deaf })
    }

    pub(super) fn victim(&self) -> &Host {
        self.tunnel.host(Side::B)
    }

    fn strangers(&self, interface: &str, network: Ipv4Addr) -> Result<Strangers> {
        let std::net::IpAddr::V4(victim) = Side::B.outer_v4() else { unreachable!("it says v4") };
        Strangers::new(self.victim(), interface, network, victim)
    }

    pub(super) fn unproven(&self) -> Result<Flood> {
        Flood::unproven(self.strangers("flood", FLOODERS)?, &self.server)
    }

    pub(super) fn proven(&self, unproven: Flood) -> Result<Flood> {
        Flood::proven(unproven, &self.server, Self::PORT)
    }

    /// TCP towards the victim with pings beside it, then pings alone.
    pub(super) fn beside(&self, time: Duration) -> Result<Beside> {
        let (a, b) = (self.tunnel.host(Side::A), self.tunnel.host(Side::B));
        let address = Side::B.inner_v4();
        let began = clock::now();
        let before = (b.kernel_counters()?, self.daemon_cpu()?);
        let plan = TcpPlan { amount: Amount::For(time + WARM_UP * 2), streams: 1, verify: false };
        let transfer = TcpTransfer::start(a, b, address, plan)?;
        thread::sleep(WARM_UP);
        let under_tcp = ping_for(a, address, time, PING_INTERVAL)?;
        let bits_per_second = transfer.wait()?.bits_per_second();
        let seconds = began.elapsed().as_secs_f64();
        let lost = b.kernel_counters()?.since(&before.0).value("UdpRcvbufErrors") as f64 / seconds;
        let daemon = (self.daemon_cpu()? - before.1).as_secs_f64() / seconds;
        let alone = ping_for(a, address, time.min(Duration::from_secs(3)), PING_INTERVAL)?;
        Ok(Beside { bits_per_second, under_tcp, alone, lost, daemon, flood: None })
    }

    fn daemon_cpu(&self) -> Result<Duration> {
        netlab::process_cpu(self.tunnel.daemon(Side::B).pid())
    }

    fn configure(&self, lines: &str) -> Result<()> {
        let request = format!("set=1\n{lines}\n");
        self.tunnel.daemon(Side::B).uapi().request(self.victim(), &request).map(drop)
    }

    /// Clients that the victim knows: some at the endpoint that is configured, and as many of which it knows none.
    pub(super) fn good_clients(&self, of_each: u32) -> Result<GoodClients> {
        let network = self.strangers("good", HONEST)?;
        let client = |number| Client::new(&self.server, address(&network, number), number);
        let known: Vec<_> = (0..of_each).map(client).collect();
        let unknown: Vec<_> = (of_each..2 * of_each).map(client).collect();
        let lines: String = known.iter().map(|client| client.peer_lines(true)).collect();
        let more: String = unknown.iter().map(|client| client.peer_lines(false)).collect();
        self.configure(&(lines + &more))?;
        Ok(GoodClients { network, known, unknown })
    }

    /// Has so many clients of one address come at once.
    pub(super) fn crowd(&self, clients: u32) -> Result<Arrivals> {
        let mut network = self.strangers("good", HONEST)?;
        let one = network.address(7);
        let new = |number: u32| {
            Client::new(&self.server, SocketAddrV4::new(one, 1024 + (number % 60_000) as u16), number)
        };
        let mut crowd = Crowd::new((0..clients).map(new).collect());
        self.configure(&crowd.clients.iter().map(|client| client.peer_lines(false)).collect::<String>())?;
        thread::sleep(CALM);
        crowd.connect(&mut network, Self::PORT, PATIENCE)
    }

    /// Has so many peers rekey in the same second; gives the tunnel's pings before and meanwhile.
    pub(super) fn rekey(&self, peers: u32) -> Result<[PingReport; 2]> {
        const AT_ONCE: u32 = 250;
        let mut network = self.strangers("good", HONEST)?;
        let mut crowds = Vec::new();
        for first in (0..peers).step_by(AT_ONCE as usize) {
            let numbers = first..peers.min(first + AT_ONCE);
            let new = |number| Client::new(&self.server, address(&network, number), number);
            let mut crowd = Crowd::new(numbers.map(new).collect());
            self.configure(&crowd.clients.iter().map(|client| client.peer_lines(false)).collect::<String>())?;
            let arrivals = crowd.connect(&mut network, Self::PORT, PATIENCE)?;
            ensure!(
                arrivals.all_in().is_some(),
                "{} of {} connected",
                arrivals.times.len(),
                arrivals.clients
            );
            crowds.push(crowd);
        }
        let mut all = Crowd::new(crowds.into_iter().flat_map(|crowd| crowd.clients).collect());
        for client in &mut all.clients {
            client.prepare()?;
        }
        thread::sleep(CALM);
        let time = Duration::from_millis(1500);
        let pings = || ping_for(self.tunnel.host(Side::A), Side::B.inner_v4(), time, PING_INTERVAL);
        let before = pings()?;
        let meanwhile = thread::scope(|scope| {
            let pinging = scope.spawn(pings);
            let sent = all.spread(&mut network, Self::PORT, Duration::from_secs(1));
            let pings = pinging.join().map_err(|_| anyhow!("pinging panicked"))?;
            sent.and(pings)
        })?;
        let answered = all.count_responses(&mut network)?;
        ensure!(answered > 0, "none of {peers} was answered");
        tell!("{answered} of {peers} rekeyed at once");
        Ok([before, meanwhile])
    }
}

/// Each at an address of its own.
fn address(network: &Strangers, number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(network.address(number + 1), 51820)
}

/// Clients that will connect.
pub(super) struct GoodClients {
    network: Strangers,
    known: Vec<Client>,
    unknown: Vec<Client>,
}

/// Clients that connect on a thread of their own.
pub(super) struct Waiting(JoinHandle<Result<[Arrivals; 2]>>);

impl GoodClients {
    /// Starts to connect.
    pub(super) fn connect(self, scene: &Scene) -> Waiting {
        let Self { mut network, known, unknown } = self;
        let count = known.len();
        let mut crowd = Crowd::new(known.into_iter().chain(unknown).collect());
        Waiting(scene.victim().spawn_thread(move || {
            thread::sleep(WARM_UP * 2);
            crowd.connect(&mut network, Scene::PORT, PATIENCE)?;
            let (known, unknown) = crowd.clients.split_at(count);
            Ok([crowd.arrivals(known), crowd.arrivals(unknown)])
        }))
    }
}

impl Waiting {
    /// Waits for them: how long those at their endpoint took, and the others.
    pub(super) fn end(self) -> Result<[Arrivals; 2]> {
        self.0.join().map_err(|_| anyhow!("the clients panicked"))?
    }
}
