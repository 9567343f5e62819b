//! How the daemon starts, and everything that ends it.

mod common;

use std::{fs, os::unix::net::UnixStream, process::Stdio, time::Duration};

use common::{Lab, eventually, lab, socket};
use nix::sys::signal::Signal;

/// What the contract allows between the reason to end and the end.
const HALF_A_SECOND: Duration = Duration::from_millis(500);

fn ends(reason: impl FnOnce(&Lab, &common::Daemon) + Send + 'static) {
    lab(&["ip"], |lab| {
        let mut daemon = lab.daemon("wg0", &[]);
        reason(lab, &daemon);
        assert!(daemon.ends_within(HALF_A_SECOND), "it lives on, or failed");
        assert!(!socket("wg0").exists(), "the socket is left behind");
        assert!(!lab.sh("ip link show wg0").status.success(), "the interface is left behind");
    });
}

#[test]
fn sigterm_ends_it() {
    ends(|_, daemon| daemon.signal(Signal::SIGTERM));
}

#[test]
fn sigint_ends_it() {
    ends(|_, daemon| daemon.signal(Signal::SIGINT));
}

#[test]
fn a_hangup_ends_it_but_not_under_nohup() {
    ends(|_, daemon| daemon.signal(Signal::SIGHUP));
    lab(&["nohup", "wg"], |lab| {
        let mut command = lab.command("nohup", &[&lab.program(), "-f", "wg0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nohup runs");
        eventually("it answers", || lab.sh("wg show wg0").status.success());
        lab.run(&format!("kill -HUP {}; ip link set wg0 mtu 1300; wg show wg0", lab.daemon_process(&child)));
        assert!(child.try_wait().expect("a child").is_none());
        lab.run("ip link delete wg0");
        eventually("it ends", || child.try_wait().expect("a child").is_some());
    });
}

#[test]
fn deleting_the_link_ends_it() {
    ends(|lab, _| drop(lab.run("ip link delete wg0")));
}

#[test]
fn deleting_a_link_that_is_up_ends_it() {
    ends(|lab, _| drop(lab.run("ip addr add 10.9.0.1/24 dev wg0; ip link set wg0 up; ip link delete wg0")));
}

#[test]
fn deleting_the_socket_ends_it() {
    ends(|_, _| fs::remove_file(socket("wg0")).expect("removed"));
}

#[test]
fn a_client_in_the_middle_of_a_request_does_not_keep_it() {
    ends(|_, daemon| {
        let mut client = UnixStream::connect(daemon.socket()).expect("connected");
        std::io::Write::write_all(&mut client, b"set=1\nlisten").expect("sent");
        daemon.signal(Signal::SIGTERM);
        std::mem::forget(client); // open until the test process ends
    });
}

#[test]
fn a_killed_daemons_socket_does_not_stop_the_next_one() {
    lab(&["wg"], |lab| {
        let mut killed = lab.daemon("wg0", &[]);
        killed.signal(Signal::SIGKILL);
        assert!(!killed.ends_within(Duration::from_secs(2)), "killed is no success");
        assert!(socket("wg0").exists(), "SIGKILL leaves the socket");
        let _next = lab.daemon("wg0", &[]);
        lab.run("wg show wg0");
    });
}

#[test]
fn a_second_start_is_refused_and_the_first_goes_on() {
    lab(&["wg"], |lab| {
        let _first = lab.daemon("wg0", &[]);
        for options in [&["-f", "wg0"][..], &["wg0"]] {
            let second = lab.volley(options).output().expect("it runs");
            let said = String::from_utf8_lossy(&second.stderr);
            assert_eq!(second.status.code(), Some(1), "{said}");
            assert!(
                said.starts_with("volley: a daemon is already running for `wg0`\n  to mend it: "),
                "{said}"
            );
            assert_eq!(said.lines().count(), 2, "{said}");
        }
        lab.run("wg show wg0");
    });
}

#[test]
fn a_taken_name_is_refused() {
    lab(&["ip"], |lab| {
        lab.run("ip link add wg0 type veth peer name other");
        let refused = lab.volley(&["wg0"]).output().expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("`wg0` is in use"), "{said}");
        assert!(!socket("wg0").exists());
    });
}

#[test]
fn a_busy_port_is_an_error_with_its_fix_and_leaves_nothing() {
    lab(&["ip"], |lab| {
        let (_busy, port) = common::busy_port();
        let refused = lab.volley(&["wg0", "--listen-port", &port.to_string()]).output().expect("it runs");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("volley: UDP port {port} is in use\n  to mend it: ")), "{said}");
        assert!(!socket("wg0").exists());
        assert!(!lab.sh("ip link show wg0").status.success());
    });
}

#[test]
fn the_interface_has_the_wireguard_mtu_and_changes_are_followed() {
    lab(&["ip"], |lab| {
        let daemon = lab.daemon("wg0", &[]);
        assert!(lab.run("ip link show wg0").contains("mtu 1420 "));
        lab.run("ip link set wg0 mtu 1300 up");
        eventually("1300 is followed", || daemon.log().contains("follows the MTU: 1300"));
        lab.run("ip link set wg0 mtu 9000");
        eventually("9000 is followed", || daemon.log().contains("follows the MTU: 9000"));
    });
}

#[test]
fn the_interface_has_a_queue_for_small_packets_or_the_one_asked_for() {
    lab(&["ip"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let _other = lab.daemon("wg1", &["--tx-queue-len", "77"]);
        assert!(lab.run("ip link show wg0").contains(" qlen 2000\n"));
        assert!(lab.run("ip link show wg1").contains(" qlen 77\n"));
        let refused = lab.sh("volley wg2 --tx-queue-len 0");
        assert_eq!(refused.status.code(), Some(2), "a queue for nothing: {refused:?}");
        assert!(!lab.run("ip link show").contains("wg2"));
    });
}

#[test]
fn the_interface_goes_down_and_up_and_the_daemon_stays() {
    lab(&["ip", "wg"], |lab| {
        let mut daemon = lab.daemon("wg0", &[]);
        for _ in 0..3 {
            lab.run("ip link set wg0 up; ip link set wg0 down");
        }
        assert!(!daemon.ends_within(Duration::from_millis(100)));
        lab.run("wg show wg0");
    });
}

#[test]
fn moving_the_interface_to_another_namespace_does_not_end_it() {
    lab(&["ip", "wg", "unshare"], |lab| {
        let mut daemon = lab.daemon("wg0", &[]);
        // The other namespace, and the interface in it, live as long as its one process.
        let mut other = lab.command("unshare", &["-n", "sleep", "30"]).spawn().expect("a namespace");
        let moved = || lab.sh(&format!("ip link set wg0 netns {}", other.id())).status.success();
        let ours = fs::read_link("/proc/thread-self/ns/net").expect("ours");
        let theirs = format!("/proc/{}/ns/net", other.id());
        eventually("the namespace is there", || fs::read_link(&theirs).is_ok_and(|theirs| theirs != ours));
        assert!(moved());
        assert!(!daemon.ends_within(Duration::from_millis(100)));
        lab.run("wg show wg0");
        let _ = other.kill();
        let _ = other.wait();
        assert!(daemon.ends_within(Duration::from_secs(5)), "the interface is gone with its namespace");
    });
}
