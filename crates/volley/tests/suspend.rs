//! A machine that sleeps: keys age meanwhile, as the peer's do.
//!
//! Sleep is simulated for one daemon: what is preloaded into it moves the clocks that go on in a sleep, `CLOCK_BOOTTIME`
//! and the wall clock, and leaves `CLOCK_MONOTONIC`, which stops.

mod common;

use std::os::unix::fs::FileExt as _;

use common::{Daemon, Lab, PATIENCE, eventually, keys, lab};

const TOOLS: &[&str] = &["wg", "ip", "ping", "nsenter", "cc"];

/// Seconds asleep are the eight bytes of the file `asleep`, shared by mapping it.
const SHIM: &str = r#"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long *asleep;

__attribute__((constructor)) static void map(void) {
    int file = open(getenv("ASLEEP"), O_RDONLY);
    asleep = mmap(NULL, sizeof *asleep, PROT_READ, MAP_SHARED, file, 0);
    if (asleep == MAP_FAILED)
        abort();
    close(file);
    unsetenv("LD_PRELOAD");
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_BOOTTIME || clock == CLOCK_REALTIME))
        time->tv_sec += *asleep;
    return result;
}
"#;

/// A daemon that believes it has slept for as long as it is told to.
struct Sleeper {
    _daemon: Daemon,
    asleep: std::fs::File,
}

impl Sleeper {
    fn start(lab: &Lab, name: &str, args: &[&str]) -> Self {
        lab.file("shim.c", SHIM);
        lab.run("cc -shared -fPIC -o shim.so shim.c");
        let path = lab.file("asleep", &"\0".repeat(8));
        let asleep = std::fs::File::options().write(true).open(&path).expect("a file");
        let mut command = lab.volley(args);
        command.env("ASLEEP", path).env("LD_PRELOAD", lab.dir.join("shim.so"));
        let daemon = lab.daemon_from(command, name);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).expect("its mappings");
        assert!(maps.contains("shim.so"), "the shim is not loaded");
        Self { _daemon: daemon, asleep }
    }

    fn sleep(&self, seconds: i64) {
        self.asleep.write_all_at(&seconds.to_ne_bytes(), 0).expect("written");
    }
}

fn handshake(lab: &Lab, interface: &str) -> u64 {
    let line = lab.run(&format!("wg show {interface} latest-handshakes"));
    line.split_whitespace().last().and_then(|time| time.parse().ok()).expect("a time")
}

#[test]
fn the_first_packet_after_a_sleep_starts_a_handshake_and_none_goes_out_under_old_keys() {
    lab(TOOLS, |lab| {
        lab.run(
            "ip netns add far && ip link add near0 type veth peer name far0 netns far && \
             ip addr add 192.0.2.1/24 dev near0 && ip -n far addr add 192.0.2.2/24 dev far0 && \
             ip link set near0 up && ip -n far link set far0 up && ip -n far link set lo up",
        );
        let near = Sleeper::start(lab, "wg0", &["--listen-port", "5000"]);
        let mut far = lab.daemon_in("far", "wg1");
        let ((near_private, near_key), (far_private, far_key)) = (keys(lab), keys(lab));
        lab.file("near", &near_private);
        lab.file("far", &far_private);
        let set_up_far = format!(
            "wg set wg1 private-key far listen-port 5001 peer {near_key} allowed-ips 10.5.0.1/32 && \
             ip -n far addr add 10.5.0.2/24 dev wg1 && ip -n far link set wg1 up"
        );
        lab.run(&set_up_far);
        lab.run(&format!(
            "wg set wg0 private-key near peer {far_key} allowed-ips 10.5.0.2/32 endpoint 192.0.2.2:5001 && \
             ip addr add 10.5.0.1/24 dev wg0 && ip link set wg0 up"
        ));
        eventually("a ping is answered", || lab.sh("ping -c 1 -W 1 10.5.0.2").status.success());
        let first = handshake(lab, "wg0");

        near.sleep(400);
        let after = handshake(lab, "wg0");
        assert!(
            after.abs_diff(first) <= 1,
            "a sleep of 400 s moved the latest handshake from {first} to {after}"
        );

        // The far side was awake, and its keys are gone: it is a new daemon.
        far.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(far.ends_within(PATIENCE));
        far = lab.daemon_in("far", "wg1");
        lab.run(&set_up_far);
        // Sealed under keys that the far side does not know, this one packet would be lost.
        lab.run("ping -c 1 -W 10 10.5.0.2");
        assert!(handshake(lab, "wg0").abs_diff(first + 400) < 60, "and it was a handshake in the present");
        drop(far);
    });
}
