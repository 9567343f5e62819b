//! With how little the daemon starts, and with how little it runs.

mod common;

use std::{
    fs,
    os::unix::net::{UnixDatagram, UnixStream},
    process::Stdio,
    time::Duration,
};

use common::{NOBODY, PATIENCE, SOCKET_DIR, environment::first_process, eventually, keys, lab, socket};
use netlab::Environment;
use nix::sys::{
    signal::Signal,
    socket::{getsockopt, sockopt::PeerCredentials},
};

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

/// Another user who has nothing but `CAP_NET_ADMIN`, in `setpriv`'s words.
const NET_ADMIN_ALONE: &str = "--reuid 65534 --regid 65534 --clear-groups --bounding-set=-all,+net_admin \
                               --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin";

#[test]
fn net_admin_alone_is_enough_where_the_device_opens_and_elsewhere_the_device_is_named() {
    lab(&["wg", "ip", "setpriv"], |lab| {
        // A directory that the user may write to.
        lab.run("chown 65534:65534 /run/wireguard");
        let start = format!("{} wg0", lab.volley_with(NET_ADMIN_ALONE));
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.with_either_device(|mode| {
            if mode == 0o600 {
                let refused = lab.sh(&start);
                let said = String::from_utf8_lossy(&refused.stderr);
                assert_eq!(refused.status.code(), Some(1), "{said}");
                assert_eq!(
                    said,
                    "volley: /dev/net/tun is closed to this process: its mode is 0600, its owner user 0 and group 0\n  \
                     to mend it: chmod 0666 /dev/net/tun, as udev does (making interfaces takes CAP_NET_ADMIN all the \
                     same), or run as its owner\n"
                );
                return;
            }
            lab.run(&start);
            lab.run(&format!("wg set wg0 private-key private fwmark 7 peer {peer} allowed-ips 10.0.0.0/8"));
            assert_eq!(
                lab.run("wg show wg0 fwmark; stat -c %u:%a /run/wireguard/wg0.sock"),
                "0x7\n65534:700\n"
            );
            lab.run("ip link delete wg0");
            eventually("it ends", || !socket("wg0").exists());
        });
    });
}

#[test]
fn a_device_that_its_owner_is_given_opens_for_its_owner() {
    lab(&["ip", "setpriv"], |lab| {
        lab.run("chown 65534:65534 /run/wireguard && chown 65534 /dev/net/tun");
        lab.run(&format!("{} wg0 && ip link delete wg0", lab.volley_with(NET_ADMIN_ALONE)));
        eventually("it ends", || !socket("wg0").exists());
    });
}

/// Its user may have other programs that are not to be trusted with keys.
#[test]
fn other_programs_of_its_user_cannot_read_its_memory() {
    lab(&["ip", "setpriv"], |lab| {
        lab.run("chown 65534:65534 /run/wireguard; chmod 666 /dev/net/tun");
        lab.run(&format!("{} wg0", lab.volley_with(NET_ADMIN_ALONE)));
        let client = UnixStream::connect(socket("wg0")).expect("connected");
        let daemon = getsockopt(&client, PeerCredentials).expect("who listens").pid();
        let owner = |what: &str| lab.run(&format!("stat -c %u /proc/{daemon}/{what}"));
        assert_eq!((&*owner(""), &*owner("mem")), ("65534\n", "0\n"));
        for secret in ["maps", "mem", "environ"] {
            let read = lab.sh(&format!("setpriv {NET_ADMIN_ALONE} head -c1 /proc/{daemon}/{secret}"));
            let said = String::from_utf8_lossy(&read.stderr);
            assert!(!read.status.success() && said.contains("Permission denied"), "{secret}: {said}");
        }
        lab.run("ip link delete wg0");
        eventually("it ends", || !socket("wg0").exists());
    });
}

/// What hooks, nft and resolvconf may do is what `volley` may do: without that a default route is half made.
#[test]
fn programs_that_are_run_may_do_what_volley_may() {
    lab(&["wg", "ip", "bash", "nft", "setpriv", "python3"], |lab| {
        lab.run("chmod 666 /dev/net/tun; chown 65534:65534 /run/wireguard . && chmod 755 .");
        let private = keys(lab).0;
        let hook = "PostUp = ip route add 198.51.100.0/24 dev %i && sed -n 's/^CapEff:.//p' /proc/self/status > told";
        let peer = format!("[Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0", keys(lab).1);
        let interface =
            format!("[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.1/24, fd07::1/64\n{hook}");
        lab.file("wg0.conf", &format!("{interface}\n{peer}\n"));
        lab.run("chown 65534:65534 wg0.conf");
        let volley = lab.volley_with(NOBODY);
        // linux/capability.h: VFS_CAP_REVISION_2 with VFS_CAP_FLAGS_EFFECTIVE, then the permitted and inheritable sets.
        let capability = format!("struct.pack('<5I', 0x2000001, {CAP_NET_ADMIN}, 0, 0, 0)");
        let file = format!("'{SOCKET_DIR}/volley', 'security.capability'");
        lab.run(&format!("python3 -c \"import os, struct; os.setxattr({file}, {capability})\""));

        let before = lab.run("ip rule; ip -6 rule; nft list ruleset");
        lab.run(&format!("{volley} up ./wg0.conf"));
        assert_eq!(lab.run("cat told"), format!("{CAP_NET_ADMIN:016x}\n"));
        assert!(lab.run("nft list ruleset").contains("10.7.0.1"));
        lab.run(&format!("{volley} down ./wg0.conf"));
        assert_eq!(lab.run("ip rule; ip -6 rule; nft list ruleset"), before);
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
        let path = lab.dir.join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // When the interface goes by itself, what else was made is undone all the same.
        for end in ["kill -TERM", "kill -INT", "kill -HUP", "ip link delete wg0; :"] {
            let mut up = lab.container(&["up", "./wg0.conf"]);
            let up = up.env("NOTIFY_SOCKET", &path).stderr(Stdio::null()).spawn();
            let mut container = up.expect("unshare runs");
            // Asked before that, it would not stay up but roll back.
            let mut told = [0; 512];
            let length = manager.recv(&mut told).expect("it is up");
            assert!(told[..length].starts_with(b"READY=1"));
            assert!(container.try_wait().expect("a child").is_none(), "the container lives on");
            lab.run(&format!(
                "test -e up && ip addr show wg0 | grep -q 10.7.0.1 && {end} {}",
                first_process(container.id())
            ));
            eventually(end, || container.try_wait().expect("a child").is_some_and(|status| status.success()));
            assert!(!socket("wg0").exists() && !lab.sh("ip link show wg0").status.success());
            assert!(lab.sh("rm up && rm down").status.success(), "{end}");
        }
    });
}
