//! A link with a distance: two TUN devices, one in each host, and a thread between them that delays, loses, reorders
//! and limits what passes.
//!
//! It carries IP packets as a wire would, of at most the link's MTU: the devices are opened without segmentation
//! offloads, so the kernel cuts TCP and UDP super-packets before they get here, and nothing joins them again on the far
//! side (a TUN device does no GRO). Only checksums stay unfinished, as they do on a veth pair.

mod path;

use std::{
    io::ErrorKind,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use tun_device::{LinuxTun, MAX_FRAME_LEN, Offloads, TunDevice, TunOptions};

use self::path::Path;
pub use self::path::{Impairment, PathCounters};
use crate::{clock, namespace::Host};

/// Packets that may wait for us inside a TUN device. The kernel drops what does not fit, and such drops would be
/// nobody's choice: at full-sized packets this is 15 MB, tens of milliseconds of any rate we can carry.
const DEVICE_QUEUE: u32 = 10_000;
/// Packets taken from one side before the other gets its turn.
const BURST: usize = 128;
/// Packets due within this time leave together: one wake-up for all of them. Late by at most this.
const GRAIN: Duration = Duration::from_micros(100);
/// How often the thread looks whether it should end.
const ATTENTION: Duration = Duration::from_millis(50);

/// An emulated link between two hosts. Dropping it takes the link away.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    counters: Mutex<[PathCounters; 2]>,
}

impl Emulator {
    /// Connects two hosts by interfaces of the same name, up, with the given MTU. Each direction does `each_way` to its
    /// packets, with a seed of its own.
    ///
    /// # Errors
    /// When the devices cannot be made.
    pub fn connect(a: &Host, b: &Host, interface: &str, mtu: u32, each_way: Impairment) -> Result<Self> {
        let devices = [device(a, interface, mtu)?, device(b, interface, mtu)?];
        let backwards = Impairment { seed: !each_way.seed, ..each_way };
        let shared = Arc::new(Shared::default());
        let paths = [Path::new(each_way), Path::new(backwards)];
        let link = Link { devices, paths, buffer: vec![0; MAX_FRAME_LEN], shared: Arc::clone(&shared) };
        let thread = thread::Builder::new().name("emulator".into()).spawn(move || link.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What happened to packets from the first host to the second, and back.
    pub fn counters(&self) -> [PathCounters; 2] {
        *self.shared.counters.lock().expect("nobody panics holding it")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn device(host: &Host, interface: &str, mtu: u32) -> Result<LinuxTun> {
    let name = interface.to_owned();
    let options =
        TunOptions { offload: false, mtu: Some(usize::try_from(mtu)?), tx_queue_len: Some(DEVICE_QUEUE) };
    let device = host
        .run(move || LinuxTun::create(&name, &options))
        .with_context(|| format!("{interface} in {}", host.name()))?;
    // With unfinished checksums allowed the kernel does UDP GSO on the device at all, also before Linux 6.11.
    device.set_offloads(Offloads { checksum: true, ..Offloads::NONE })?;
    host.set_up(interface)?;
    Ok(device)
}

/// What the thread owns.
struct Link {
    devices: [LinuxTun; 2],
    /// From the first device to the second, and back.
    paths: [Path; 2],
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Link {
    fn run(mut self) {
        // Without this the kernel may stretch each short wait by 50 µs (prctl(2), PR_SET_TIMERSLACK).
        let _only_less_exact = nix::sys::prctl::set_timerslack(1_000);
        while !self.shared.stop.load(Ordering::Relaxed) {
            // An error here means that the hosts are gone, or about to be.
            if self.turn().is_err() {
                break;
            }
        }
    }

    fn turn(&mut self) -> Result<()> {
        let now = clock::now();
        let read = [self.read(0, now)?, self.read(1, now)?];
        self.deliver(0, now)?;
        self.deliver(1, now)?;
        *self.shared.counters.lock().expect("nobody panics holding it") =
            [self.paths[0].counters, self.paths[1].counters];
        let more_at_once = read.contains(&BURST);
        if !more_at_once {
            self.wait(now)?;
        }
        Ok(())
    }

    /// Takes what a device has, into the path that starts there.
    fn read(&mut self, side: usize, now: Instant) -> Result<usize> {
        for count in 0..BURST {
            match self.devices[side].recv(&mut self.buffer) {
                Ok(len) => self.paths[side].push(&self.buffer[..len], now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(count),
                Err(error) if error.kind() == ErrorKind::NetworkDown => return Ok(count),
                Err(error) => bail!(error),
            }
        }
        Ok(BURST)
    }

    /// Hands over what is due at the end of the path from `side`.
    fn deliver(&mut self, side: usize, now: Instant) -> Result<()> {
        while let Some(frame) = self.paths[side].pop_due(now) {
            match self.devices[1 - side].send(&frame) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => bail!(error),
                // An interface that is down, or a packet that its kernel finds odd: as on a wire, nobody answers.
                _ => {}
            }
        }
        Ok(())
    }

    /// Until there is something to read or to deliver.
    fn wait(&self, now: Instant) -> Result<()> {
        let next = self.paths.iter().filter_map(Path::next_due).min();
        let time = next.map_or(ATTENTION, |due| due.saturating_duration_since(now).clamp(GRAIN, ATTENTION));
        let [a, b] = &self.devices;
        let mut devices = [a, b].map(|device| PollFd::new(device.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut devices, Some(TimeSpec::from_duration(time)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => bail!(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Need, TcpPlan, TcpTransfer, ping};

    fn linked(each_way: Impairment) -> (Host, Host, Emulator) {
        let (a, b) = (Host::new("a").unwrap(), Host::new("b").unwrap());
        let emulator = Emulator::connect(&a, &b, "wire", 1500, each_way).unwrap();
        for (host, v4, v6) in [(&a, "192.0.2.1", "2001:db8::1"), (&b, "192.0.2.2", "2001:db8::2")] {
            host.add_address("wire", v4.parse().unwrap(), 24).unwrap();
            host.add_address("wire", v6.parse().unwrap(), 64).unwrap();
        }
        (a, b, emulator)
    }

    #[test]
    fn both_families_take_the_delay_both_ways() {
        crate::require!(Need::Namespaces);
        let delay = Duration::from_millis(10);
        let (a, _b, _emulator) = linked(Impairment { delay, ..Impairment::default() });
        for address in ["192.0.2.2", "2001:db8::2"] {
            let report = ping(&a, address.parse().unwrap(), 5, Duration::ZERO).unwrap();
            assert_eq!(report.received(), 5);
            assert!(report.percentile(0).unwrap() >= 2 * delay, "{report:?}");
        }
    }

    #[test]
    fn tcp_gets_every_byte_through_loss_and_reordering() {
        crate::require!(Need::Namespaces);
        let rules = Impairment {
            delay: Duration::from_millis(1),
            loss: 0.01,
            reorder: 0.01,
            held_back: Duration::from_millis(2),
            ..Impairment::default()
        };
        let (a, b, emulator) = linked(rules);
        let bytes = 2 << 20;
        let transfer =
            TcpTransfer::start(&a, &b, "192.0.2.2".parse().unwrap(), TcpPlan::bytes(bytes)).unwrap();
        assert_eq!(transfer.wait().unwrap().bytes, bytes);
        assert!(a.kernel_counters().unwrap().value("TcpRetransSegs") > 0);
        assert!(b.kernel_counters().unwrap().value("TcpExtTCPOFOQueue") > 0);
        let [there, back] = emulator.counters();
        assert!(there.lost > 0 && there.held_back > 0 && there.overflowed == 0, "{there:?}");
        // Super-packets are cut: 2 MiB are at least 1,436 packets of at most 1,500 bytes.
        assert!(there.delivered > 1_436 && back.delivered > 0, "{there:?} {back:?}");
    }
}
