//! With how little the daemon starts, and with how little it runs.

mod common;

use std::{fs, process::Stdio, time::Duration};

use common::{NOBODY, environment::first_process, eventually, keys, lab, socket};
use netlab::Environment;
use nix::sys::signal::Signal;

// linux/capability.h
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

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
        // It keeps nothing that it did not have.
        let may_bind_services = Environment::current() != Some(Environment::NetAdmin);
        let kept = CAP_NET_ADMIN | if may_bind_services { CAP_NET_BIND_SERVICE } else { 0 };
        for thread in threads {
            let path = thread.expect("a thread").path().join("status");
            let (sets, may_gain) = capabilities(&fs::read_to_string(path).expect("its status"));
            assert_eq!(sets, [0, kept, kept, 0]);
            assert!(!may_gain);
        }
        // What it still has to do works.
        lab.run("wg set wg0 fwmark 5 listen-port 5300 && ip link set wg0 up");
        let moved = lab.sh("wg set wg0 listen-port 53");
        let (port, said) = if may_bind_services { ("53\n", "") } else { ("5300\n", "Permission denied") };
        assert!(String::from_utf8_lossy(&moved.stderr).contains(said), "{moved:?}");
        assert_eq!((moved.status.success(), &*lab.run("wg show wg0 listen-port")), (may_bind_services, port));
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.ends_within(Duration::from_millis(500)));
        assert!(!socket("wg0").exists(), "the socket can still be removed");
    });
}

#[test]
fn net_admin_alone_is_enough() {
    lab(&["wg", "ip", "setpriv"], |lab| {
        // A user of its own, and a directory that it may write to.
        lab.run("chown 65534:65534 /run/wireguard");
        let net_admin = format!(
            "{NOBODY} --bounding-set=-all,+net_admin --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin"
        );
        lab.run(&format!("{} wg0", lab.volley_with(&net_admin)));
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
    lab(&["wg", "ip", "unshare"], |lab| {
        let mut container = lab.container(&["wg0"]).stderr(Stdio::null()).spawn().expect("unshare runs");
        eventually("it answers", || lab.sh("wg show wg0").status.success());
        assert!(container.try_wait().expect("a child").is_none(), "the container lives on");
        lab.run(&format!("kill -TERM {}", first_process(container.id())));
        eventually("it ends", || {
            container.try_wait().expect("a child").is_some_and(|status| status.success())
        });
        assert!(!socket("wg0").exists());
    });
}

#[test]
fn as_a_containers_first_process_up_stays_until_it_is_asked_or_its_daemon_ends() {
    lab(&["ip", "bash", "unshare"], |lab| {
        let hooks = "PostUp = (true) & touch $DIR/up\nPostDown = touch $DIR/down";
        let private = keys(lab).0;
        lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.1/24\n{hooks}"));
        let ends = [("kill -TERM", true), ("kill -INT", true), ("ip link delete wg0; :", false)];
        for (end, takes_down) in ends {
            let up = lab.container(&["up", "./wg0.conf"]).stderr(Stdio::null()).spawn();
            let mut container = up.expect("unshare runs");
            eventually("it is up", || lab.dir.join("up").exists());
            assert!(container.try_wait().expect("a child").is_none(), "the container lives on");
            lab.run(&format!(
                "ip addr show wg0 | grep -q 10.7.0.1 && {end} {}",
                first_process(container.id())
            ));
            eventually(end, || container.try_wait().expect("a child").is_some_and(|status| status.success()));
            assert!(!socket("wg0").exists() && !lab.sh("ip link show wg0").status.success());
            assert_eq!(lab.sh("rm up && rm down").status.success(), takes_down, "{end}");
        }
    });
}
