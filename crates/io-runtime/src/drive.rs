//! The drive loop: run to completion, and sleep only when every source is drained.

mod egress;
mod jobs;
mod link;
mod wait;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use encrypt::Identity;
use gso_queue::{DEFAULT_SEGMENTS, GsoQueue, QueueConfig};
use tunnel_core::{MAX_ICMP_ERROR_LEN, Tunnel, TunnelConfig};

use self::{
    jobs::{Outlet, Queue, Works},
    link::Link,
};
use crate::{
    DeviceSecrets, DeviceStatus, DeviceUpdate, Error, Features, IoCounters, PinnedSource, RuntimeConfig,
    Stopped, UpdateError,
    alarm::Alarm,
    clock,
    handle::{COMMAND_QUEUE, Command, Requests},
    poller::{Poller, Ready},
    scheduling::Scheduling,
    tun::TunPort,
    udp::{self, Family, Receiver, Sender, Sockets, Train, UdpSocket},
};

/// A loop that never sleeps asks the others this often whether they have something: long enough that the
/// question costs next to nothing, short beside a wake-up.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

/// What one socket gives in one turn, as bytes of [`Receiver::last_cost`]: four full trains. More would make what leaves wait behind
/// what arrives. Lone datagrams are taken by the hundred: a flood of them must not push the packets out of the socket's buffer.
const INGRESS_COST: usize = 256 << 10;

/// Pause after a receive that failed: the socket may still have what it had, and does not say so again.
const RECEIVE_AGAIN: Duration = Duration::from_millis(1);

/// Everything that moves packets. Lives on one thread.
pub(crate) struct DataPlane<I: Identity, P> {
    tunnel: Tunnel<I>,
    tun: P,
    queue: Queue,
    works: Works,
    /// While the interface is up.
    sender: Option<Sender<UdpSocket>>,
    receiver: Receiver,
    poller: Poller,
    alarm: Arc<Alarm>,
    ready: Ready,
    /// A receive has failed: try again then.
    receive_at: Option<Instant>,
    /// When the loop last learned which sources are ready.
    looked: Instant,
    scheduling: Scheduling,
    /// Where an ICMP error is made while the frame that causes it is still in use.
    icmp: [u8; MAX_ICMP_ERROR_LEN],
    requests: Requests,
    config: RuntimeConfig,
    features: Features,
    link: Link,
    port: u16,
    counters: IoCounters,
}

/// What a turn found at one of its sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Nothing is left: sleep until there is.
    Drained,
    /// There may be more.
    More,
    /// There is more, or may be, but it has nowhere to go.
    Held,
    /// There may be more, and it waits until the interface is up.
    Down,
}

impl<I: Identity, P: TunPort> DataPlane<I, P> {
    /// For the calling thread.
    pub(crate) fn new(
        tun: P,
        sockets: Sockets,
        config: RuntimeConfig,
        features: Features,
        alarm: Arc<Alarm>,
        requests: Requests,
    ) -> Result<Self, Error> {
        let link = Link { is_up: false, reopen_at: None, any_port: config.listen_port == 0 };
        let poller = wait::poller(&alarm, &tun).map_err(|error| Error::Start(error.into()))?;
        let works = Works::start(features.crew, &alarm, config.sched_batch);
        let works = works.map_err(|error| Error::Start(error.into()))?;
        let now = clock::now();
        let (is_up, port) = (config.link_up, sockets.port);
        let mut plane = Self {
            tunnel: Tunnel::new(TunnelConfig {
                mtu: config.mtu,
                icmp_unreachable: config.icmp_unreachable,
                ..TunnelConfig::default()
            }),
            tun,
            queue: GsoQueue::new(QueueConfig {
                max_segments: max_segments(&features),
                ..QueueConfig::DEFAULT
            }),
            works,
            sender: None,
            receiver: Receiver::new(features.udp_gro.is_on(), config.mtu, config.batch),
            poller,
            alarm,
            ready: Ready::ALL,
            receive_at: None,
            looked: now,
            scheduling: Scheduling::start(config.sched_batch, now),
            icmp: [0; MAX_ICMP_ERROR_LEN],
            requests,
            config,
            features,
            link,
            port,
            counters: IoCounters::default(),
        };
        plane.tunnel.link_down(now);
        plane.ready.no_sockets();
        plane.start_link(is_up, sockets, now).map_err(|error| Error::Start(error.into()))?;
        Ok(plane)
    }

    /// Runs until it is asked to end.
    pub(crate) fn run(&mut self) -> Result<(), Error> {
        loop {
            let now = clock::now();
            self.counters.traffic.ticks += 1;

            self.retry_backlog(now);
            let egress = self.egress(now)?;
            self.flush(self.left_while(egress), now);
            let ingress = self.ingress(now)?;
            self.tun.flush(now, &mut self.counters)?;
            self.handle_timeouts(now);
            self.reopen(now);
            let mut is_busy = egress == Source::More || ingress == Source::More;
            match is_busy {
                true => self.flush(self.works.helpers(), now),
                false => self.settle(now),
            }
            is_busy |= ingress != Source::Held && self.works.opened().is_some();
            self.works.check()?;
            if let Some(error) = self.sender.as_mut().and_then(Sender::take_end) {
                return Err(Error::Send(error.into()));
            }

            if self.alarm.take_asked() && self.serve(now) == Err(Stopped) {
                let (works, mut out) = self.out(now);
                works.flush_and_wait(true, &mut out); // what was sealed before
                return Ok(());
            }
            if !is_busy {
                self.wait(now, egress, ingress)?;
            } else if now.duration_since(self.looked) >= LOOK_AGAIN {
                self.look(now)?;
            }
        }
    }

    /// Ends the TUN's threads.
    pub(crate) fn close(self) -> Result<(), Error> {
        self.tun.close()
    }

    /// UDP → tunnel → coalescer: of each socket what it has, up to the turn's share.
    fn ingress(&mut self, now: Instant) -> Result<Source, Error> {
        let mut found = Source::Drained;
        self.receive_at = None;
        if !self.deliver(now)? {
            return Ok(Source::Held);
        }
        for family in [Family::V4, Family::V6] {
            let mut taken = 0;
            while *self.ready.socket(family) {
                let socket = self.sender.as_ref().and_then(|sender| sender.socket(family));
                let Some(socket) = socket else { break };
                // Otherwise helpers are at all of them.
                let has_room = self.receiver.has_buffers();
                if taken >= INGRESS_COST || !has_room {
                    found = Source::More;
                    break;
                }
                match self.receiver.receive(socket, &mut self.counters) {
                    Ok(drained) => *self.ready.socket(family) = !drained,
                    Err(error) if udp::is_refused(&error) => return Err(Error::Receive(error.into())),
                    Err(error) => {
                        if self.counters.traffic.udp_recv_errors == 0 {
                            tracing::warn!(
                                ?family,
                                "a UDP receive failed: {error}; others are counted, and not told"
                            );
                        }
                        self.counters.traffic.udp_recv_errors += 1;
                        self.receive_at = Some(now + RECEIVE_AGAIN);
                        break;
                    }
                }
                taken += self.receiver.last_cost();
                let more = if *self.ready.socket(family) { Source::More } else { found };
                let left = self.left_while(more);
                let Self { works, queue, sender, tunnel, receiver, counters, .. } = self;
                works.open(receiver, left, &mut Outlet { queue, sender, tunnel, counters, now });
                if !self.deliver(now)? {
                    return Ok(Source::Held);
                }
            }
        }
        Ok(found)
    }

    /// Takes what was received and is opened, datagram by datagram, in order. False if the TUN took no more before the end; the
    /// rest stays where it is.
    fn deliver(&mut self, now: Instant) -> Result<bool, Error> {
        let Self { tunnel, tun, queue, works, receiver, counters, .. } = self;
        while let Some(received) = works.opened() {
            while let Some(Train { arrival, bytes, opening, .. }) = received.train() {
                while !opening.is_done() {
                    let Some(coalescer) = tun.output(now, counters)? else { return Ok(false) };
                    if let Some(packet) = tunnel.commit(bytes, opening, arrival, now, queue) {
                        let pushed = coalescer.push(packet);
                        debug_assert!(pushed.is_ok(), "output() gives a coalescer with room");
                    }
                }
                received.advance();
            }
            works.give_back(receiver);
        }
        Ok(true)
    }

    /// What waits for a full socket is tried again first thing every turn, before more is taken from the TUN.
    fn retry_backlog(&mut self, now: Instant) {
        if let Some(sender) = &mut self.sender {
            sender.retry();
            self.flush(self.works.helpers(), now);
        }
    }

    /// How many jobs the loop leaves to its helpers for now, so that they do not run out of work while it sees to others.
    fn left_while(&self, source: Source) -> usize {
        if source == Source::More { self.works.helpers() } else { 0 }
    }

    /// [`Works::flush`].
    fn flush(&mut self, left: usize, now: Instant) {
        let (works, mut out) = self.out(now);
        works.flush(left, &mut out);
    }

    /// [`Works::settle`].
    fn settle(&mut self, now: Instant) {
        let (works, mut out) = self.out(now);
        works.settle(&mut out);
    }

    fn out(&mut self, now: Instant) -> (&mut Works, Outlet<'_, I>) {
        let Self { works, queue, sender, tunnel, counters, .. } = self;
        (works, Outlet { queue, sender, tunnel, counters, now })
    }

    fn handle_timeouts(&mut self, now: Instant) {
        if self.tunnel.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.tunnel.handle_timeout(now, &mut self.queue);
        }
    }

    /// Does what was asked for, oldest first.
    fn serve(&mut self, now: Instant) -> Result<(), Stopped> {
        for _ in 0..COMMAND_QUEUE {
            let Some(request) = self.requests.next() else { return Ok(()) };
            self.obey(request?, now);
        }
        self.alarm.ask(); // there may be more, but packets come first
        Ok(())
    }

    fn obey(&mut self, command: Command, now: Instant) {
        // Whoever asked may have gone away; that is no reason not to do it.
        match command {
            Command::Update(update, reply) => {
                let result = self.update(*update, now);
                self.flush(0, now);
                let _ = reply.send(result);
            }
            Command::Status(reply) => {
                let _ = reply.send(Box::new(self.status(now)));
            }
            Command::StatusWithSecrets(reply) => {
                let _ = reply.send(Box::new((self.status(now), self.secrets())));
            }
            Command::SetMtu(mtu, reply) => {
                self.config.mtu = mtu;
                self.tunnel.set_mtu(mtu);
                self.receiver.set_mtu(mtu);
                let _ = reply.send(());
            }
            Command::PinnedSources(reply) => {
                let pinned = self.tunnel.pinned_sources();
                let _ = reply.send(pinned.map(|(remote, source)| PinnedSource { remote, source }).collect());
            }
            Command::ForgetSources(sources, reply) => {
                self.tunnel
                    .forget_sources(|remote, source| sources.contains(&PinnedSource { remote, source }));
                let _ = reply.send(());
            }
            Command::SetLink(is_up, reply) => {
                self.set_link(is_up, now);
                let _ = reply.send(());
            }
        }
    }

    /// All of it or nothing: what can fail comes first, and is undone if something after it fails.
    fn update(&mut self, update: DeviceUpdate, now: Instant) -> Result<(), UpdateError> {
        let DeviceUpdate { listen_port, fwmark, tunnel } = update;
        let fwmark = fwmark.filter(|&mark| mark != self.config.fwmark);
        let new_mark = fwmark.unwrap_or(self.config.fwmark);

        let rebound = match listen_port.filter(|&port| port != self.port) {
            None => None,
            Some(port) => Some(self.bind(port, new_mark)?),
        };
        if let Some(mark) = fwmark {
            if self.sender.is_none() && rebound.is_none() {
                self.bind(0, mark)?; // to learn whether we may
            }
            self.mark_sockets(mark)?;
        }
        if let Err(error) = self.tunnel.update(tunnel, now, &mut self.queue) {
            if fwmark.is_some() {
                self.mark_sockets(self.config.fwmark)?;
            }
            return Err(error.into());
        }
        self.config.fwmark = new_mark;
        if rebound.is_some() || fwmark.is_some() {
            // Routes may depend on the mark; and whoever changes the port may mean that nothing gets through. The
            // kernel's WireGuard starts afresh with both, too.
            self.tunnel.forget_sources(|_, _| true);
        }
        if let Some(port) = listen_port {
            self.link.any_port = port == 0;
        }
        if let Some(sockets) = rebound {
            self.take_sockets(sockets, now);
        }
        Ok(())
    }

    /// Sets SO_MARK on the live sockets, or on none.
    fn mark_sockets(&self, mark: u32) -> io::Result<()> {
        let Some(sender) = &self.sender else { return Ok(()) };
        let sockets = [Family::V4, Family::V6].into_iter().filter_map(|family| sender.socket(family));
        for socket in sockets.clone() {
            if let Err(error) = socket.set_fwmark(mark) {
                for marked in sockets {
                    let _ = marked.set_fwmark(self.config.fwmark);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn secrets(&self) -> DeviceSecrets {
        DeviceSecrets {
            private_key: self.tunnel.private_key().cloned(),
            preshared_keys: self.tunnel.preshared_keys().map(Option::<&_>::cloned).collect(),
        }
    }

    fn status(&mut self, now: Instant) -> DeviceStatus {
        self.tun.settle(now, &mut self.counters);
        self.counters.traffic.jobs_helped = self.works.helped();
        let (tcp_rests, udp_rests) = self.tun.resting();
        DeviceStatus {
            public_key: self.tunnel.public_key(),
            listen_port: self.port,
            fwmark: self.config.fwmark,
            mtu: self.config.mtu,
            link_up: self.link.is_up,
            peers: self.tunnel.peers().collect(),
            now,
            core: *self.tunnel.counters(),
            io: self.counters,
            features: Features {
                tun_coalesce_tcp: self.features.tun_coalesce_tcp.or_resting(tcp_rests),
                tun_coalesce_udp: self.features.tun_coalesce_udp.or_resting(udp_rests),
                sched_batch: self.scheduling.feature(),
                ..self.features.clone()
            },
        }
    }
}

fn sender(v4: UdpSocket, v6: Option<UdpSocket>, features: &Features) -> Sender<UdpSocket> {
    Sender::new(v4, v6, features.udp_gso.is_on(), max_segments(features))
}

/// Without GSO, batches keep datagrams together in memory all the same.
fn max_segments(features: &Features) -> usize {
    if features.udp_gso.is_on() { features.udp_gso_segments } else { DEFAULT_SEGMENTS }
}

#[cfg(test)]
mod tests;
