//! With how little the daemon starts, and with how little it runs.

mod common;

use std::{fs, time::Duration};

use common::{eventually, keys, lab, socket};
use nix::sys::signal::Signal;

/// `CAP_NET_ADMIN` and `CAP_NET_BIND_SERVICE` (linux/capability.h).
const KEPT: u64 = 1 << 12 | 1 << 10;

/// The sets of one thread: inheritable, permitted, effective, ambient; and whether it may gain more.
fn capabilities(status: &str) -> ([u64; 4], bool) {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().to_owned()
    };
    let set = |name: &str| u64::from_str_radix(&field(name), 16).expect("hex");
    ([set("CapInh:"), set("CapPrm:"), set("CapEff:"), set("CapAmb:")], field("NoNewPrivs:") == "0")
}

#[test]
fn every_thread_keeps_only_what_a_tunnel_needs() {
    lab(&["wg", "ip"], |lab| {
        let mut daemon = lab.daemon("wg0", &["--arrangement", "tun-threads"]);
        let threads: Vec<_> =
            fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("threads").collect();
        assert!(threads.len() > 1);
        for thread in threads {
            let path = thread.expect("a thread").path().join("status");
            let (sets, may_gain) = capabilities(&fs::read_to_string(path).expect("its status"));
            assert_eq!(sets, [0, KEPT, KEPT, 0]);
            assert!(!may_gain);
        }
        // What it still has to do works.
        lab.run("wg set wg0 fwmark 5 listen-port 53; ip link set wg0 up");
        assert_eq!(lab.run("wg show wg0 listen-port"), "53\n");
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.ends_within(Duration::from_millis(500)));
        assert!(!socket("wg0").exists(), "the socket can still be removed");
    });
}

#[test]
fn net_admin_alone_is_enough() {
    lab(&["wg", "ip", "setpriv"], |lab| {
        // A user of its own, and a directory that it may write to.
        lab.run("chown 65534:65534 /run/wireguard; cp $(command -v volley) /run/wireguard/volley");
        lab.run(
            "setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all,+net_admin \
             --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin /run/wireguard/volley wg0",
        );
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!("wg set wg0 private-key private fwmark 7 peer {peer} allowed-ips 10.0.0.0/8"));
        assert_eq!(lab.run("wg show wg0 fwmark; stat -c %u:%a /run/wireguard/wg0.sock"), "0x7\n65534:700\n");
        lab.run("ip link delete wg0");
        eventually("it ends", || !socket("wg0").exists());
    });
}

#[test]
fn as_a_containers_first_process_it_stays_and_obeys_signals() {
    lab(&["wg", "ip", "unshare", "pgrep"], |lab| {
        let volley = env!("CARGO_BIN_EXE_volley");
        let mut command = lab.command("unshare", &["--pid", "--fork", "--mount-proc", volley, "wg0"]);
        let mut container = command.spawn().expect("unshare runs");
        eventually("it answers", || lab.sh("wg show wg0").status.success());
        assert!(container.try_wait().expect("a child").is_none(), "the container lives on");
        let first = lab.run(&format!("pgrep -P {}", container.id()));
        lab.run(&format!("kill -TERM {}", first.trim()));
        eventually("it ends", || {
            container.try_wait().expect("a child").is_some_and(|status| status.success())
        });
        assert!(!socket("wg0").exists());
    });
}
