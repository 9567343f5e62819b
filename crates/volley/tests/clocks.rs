//! Clocks that jump: a machine that sleeps, so that keys age while nothing runs, and a wall clock that is set.
//!
//! Both are simulated for one daemon: what is preloaded into it moves the clocks it reads. In a sleep `CLOCK_BOOTTIME`
//! and the wall clock go on, and `CLOCK_MONOTONIC` stops.

mod common;

use common::{Daemon, Lab, PATIENCE, clocks::Clocks, eventually, keys, lab};

const TOOLS: &[&str] = &["wg", "ip", "ping", "nsenter", "cc"];

/// `wg0` here goes by clocks that the test sets; `wg1`, in the namespace `far`, by the machine's.
struct Tunnel<'a> {
    lab: &'a Lab,
    clocks: Clocks,
    near: Option<Daemon>,
    far: Option<Daemon>,
    near_key: String,
    far_key: String,
}

impl<'a> Tunnel<'a> {
    fn new(lab: &'a Lab) -> Self {
        lab.run(
            "ip netns add far && ip link add near0 type veth peer name far0 netns far && \
             ip addr add 192.0.2.1/24 dev near0 && ip -n far addr add 192.0.2.2/24 dev far0 && \
             ip link set near0 up && ip -n far link set far0 up && ip -n far link set lo up",
        );
        let ((near_private, near_key), (far_private, far_key)) = (keys(lab), keys(lab));
        lab.file("near", &near_private);
        lab.file("far", &far_private);
        let mut tunnel = Self { lab, clocks: Clocks::make(lab), near: None, far: None, near_key, far_key };
        tunnel.start_far();
        tunnel.start_near();
        eventually("a ping is answered", || tunnel.ping(1));
        tunnel
    }

    /// A new one if there was one.
    fn start_near(&mut self) {
        end(self.near.take());
        self.near = Some(self.clocks.daemon(self.lab, self.lab.volley(&[]), "wg0"));
        self.lab.run(&format!(
            "wg set wg0 private-key near peer {} allowed-ips 10.5.0.2/32 endpoint 192.0.2.2:5001 && \
             ip addr add 10.5.0.1/24 dev wg0 && ip link set wg0 up",
            self.far_key
        ));
    }

    fn start_far(&mut self) {
        end(self.far.take());
        self.far = Some(self.lab.daemon_in("far", "wg1"));
        self.lab.run(&format!(
            "wg set wg1 private-key far listen-port 5001 peer {} allowed-ips 10.5.0.1/32 && \
             ip -n far addr add 10.5.0.2/24 dev wg1 && ip -n far link set wg1 up",
            self.near_key
        ));
    }

    /// One packet, and up to so many seconds for the answer.
    fn ping(&self, seconds: u32) -> bool {
        self.lab.sh(&format!("ping -c 1 -W {seconds} 10.5.0.2")).status.success()
    }

    fn handshake(&self) -> u64 {
        let line = self.lab.run("wg show wg0 latest-handshakes");
        line.split_whitespace().last().and_then(|time| time.parse().ok()).expect("a time")
    }
}

fn end(daemon: Option<Daemon>) {
    if let Some(mut daemon) = daemon {
        daemon.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(daemon.ends_within(PATIENCE));
    }
}

#[test]
fn the_first_packet_after_a_sleep_starts_a_handshake_and_none_goes_out_under_old_keys() {
    lab(TOOLS, |lab| {
        let mut tunnel = Tunnel::new(lab);
        let before = tunnel.handshake();
        tunnel.clocks.set(400, 400);
        let after = tunnel.handshake();
        assert!(after.abs_diff(before) <= 1, "a sleep moved the latest handshake from {before} to {after}");

        // The far side was awake, and its keys are gone: it is a new daemon.
        tunnel.start_far();
        assert!(tunnel.ping(10), "a packet under keys that the far side does not know is lost");
        assert!(tunnel.handshake().abs_diff(before + 400) < 60, "and it was a handshake in the present");
    });
}

/// A router without a battery, which gets the time from the network when it is up.
#[test]
fn a_wall_clock_that_is_set_after_the_start_is_right_in_the_next_retry() {
    lab(TOOLS, |lab| {
        let mut tunnel = Tunnel::new(lab);
        tunnel.clocks.set(0, -1_000_000_000);
        tunnel.start_near();
        assert!(!tunnel.ping(1), "an initiation from before the last one is a replay");
        tunnel.clocks.set(0, 0);
        assert!(tunnel.ping(10), "the retry comes after five seconds");
    });
}

#[test]
fn a_wall_clock_that_is_set_back_locks_nobody_out() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let before = tunnel.handshake();
        // The session ends by age, so that a handshake is due.
        tunnel.clocks.set(200, 200 - 1_000_000_000);
        assert!(tunnel.ping(10));
        assert!(tunnel.handshake() < before, "told by the clock as it is");
    });
}
