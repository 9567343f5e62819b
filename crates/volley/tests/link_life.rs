//! The interface under a daemon: set up and down, changed and moved by others.

mod common;

use std::{net::UdpSocket, thread::sleep, time::Duration};

use common::{Daemon, Lab, busy_port, eventually, keys, lab};

/// What the kernel sends by itself comes at once, if it is told not to wait; it has this much time.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn an_idle_interface_has_no_address_that_nobody_gave_and_sends_nothing() {
    lab(&["ip", "wg"], |lab| {
        lab.run(
            "cd /proc/sys/net/ipv6/conf/default && echo 0 >accept_dad && echo 0 >router_solicitation_delay",
        );
        let _daemon = lab.daemon("wg0", &[]);
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!(
            "wg set wg0 private-key private peer {peer} allowed-ips 0.0.0.0/0,::/0 endpoint 127.0.0.1:9
             ip addr add 10.7.0.1/24 dev wg0 && ip addr add fd07::1/64 dev wg0
             ip link set wg0 up && ip link set wg0 down && ip link set wg0 up
             ip addr add fd07::2/64 dev wg0"
        ));
        sleep(SILENCE);
        let addresses = lab.run("ip -6 -o addr show dev wg0 scope link");
        assert_eq!(addresses, "", "it gave itself an address");
        assert_eq!(lab.run("cat /proc/net/dev | tr -s ' ' | grep wg0 | cut -d' ' -f12"), "0\n");
        assert!(lab.run("wg show wg0 transfer").ends_with("\t0\t0\n"), "a handshake was started");
    });
}

/// What `volley show` tells about the tunnel as a whole.
fn feature(lab: &Lab, name: &str) -> String {
    let shown = lab.run("volley show wg0 --json");
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    shown["wg0"]["features"][name].to_string().replace('"', "")
}

#[track_caller]
fn follows_mtu(lab: &Lab, mtu: u32) {
    eventually(&format!("it follows the MTU {mtu}"), || feature(lab, "mtu") == mtu.to_string());
}

fn takes(port: &str) -> bool {
    UdpSocket::bind(format!("0.0.0.0:{port}")).is_ok()
}

/// A namespace `far` with a daemon for `wg1`, which has the port 5001 and is up; it and `wg0` here know each other.
fn pair(lab: &Lab) -> (Daemon, String) {
    lab.run(
        "ip netns add far && ip link add near0 type veth peer name far0 netns far
         ip addr add 192.0.2.1/24 dev near0 && ip -n far addr add 192.0.2.2/24 dev far0
         ip link set near0 up && ip -n far link set far0 up",
    );
    let far = lab.daemon_in("far", "wg1");
    let ((near_private, near_key), (far_private, far_key)) = (keys(lab), keys(lab));
    lab.file("near", &near_private);
    lab.file("far", &far_private);
    lab.run(&format!(
        "wg set wg0 private-key near peer {far_key} allowed-ips 10.5.0.2/32 endpoint 192.0.2.2:5001
         wg set wg1 private-key far listen-port 5001 peer {near_key} allowed-ips 10.5.0.1/32
         ip addr add 10.5.0.1/24 dev wg0
         ip -n far addr add 10.5.0.2/24 dev wg1 && ip -n far link set wg1 up"
    ));
    (far, far_key)
}

fn works(lab: &Lab) {
    eventually("a ping is answered", || lab.sh("ping -c 1 -W 1 10.5.0.2").status.success());
}

/// As with the kernel's, but for one thing: a port that is taken is told at once, not at `ip link set up`.
#[test]
fn until_it_is_set_up_it_holds_no_port_and_knows_it_all_the_same() {
    lab(&["ip", "wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let chosen = lab.run("wg show wg0 listen-port").trim().to_owned();
        assert!(chosen != "0" && takes(&chosen));
        let (_busy, taken) = busy_port();
        let refused = lab.sh(&format!("wg set wg0 listen-port {taken}"));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("Address already in use"), "{refused:?}");
        lab.run("wg set wg0 fwmark 7");
        assert_eq!(lab.run("wg show wg0 listen-port").trim(), chosen);
        lab.run("ip link set wg0 up");
        eventually("the port is open", || !takes(&chosen));
        assert!(lab.run(&format!("ss -ulnpH 'sport = :{chosen}' -O -e")).contains("fwmark:0x7"));
        for _ in 0..2 {
            lab.run("ip link set wg0 down");
            eventually("the port is free", || takes(&chosen));
            lab.run("ip link set wg0 up");
            eventually("the port is open", || !takes(&chosen));
        }
        assert_eq!(lab.run("wg show wg0 listen-port").trim(), chosen);
    });
}

#[test]
fn set_down_it_is_silent_and_set_up_it_says_that_it_is_there() {
    lab(&["ip", "wg", "ping"], |lab| {
        let near = lab.daemon("wg0", &["--listen-port", "5000"]);
        let (_far, far_key) = pair(lab);
        let transfer = |interface: &str, field: u32| -> u64 {
            let shown = lab.run(&format!("wg show {interface} transfer | cut -f{field}"));
            shown.trim().parse().expect("a number")
        };
        lab.run(&format!("wg set wg0 peer {far_key} persistent-keepalive 1"));
        assert_eq!(transfer("wg0", 3), 0, "it is not up yet");
        lab.run("ip link set wg0 up");
        eventually("a keepalive makes the far end know it", || transfer("wg1", 2) > 0);
        works(lab);

        lab.run("ip link set wg0 down");
        eventually("the port is free", || takes("5000"));
        assert_eq!(feature(lab, "link"), "down");
        let sent = transfer("wg0", 3);
        // A standby machine stands here now, and hears what was for us.
        let standby = UdpSocket::bind("0.0.0.0:5000").expect("free");
        lab.run("ip netns exec far ping -c 1 -W 1 10.5.0.1 || true");
        standby.recv_from(&mut [0; 2_000]).expect("what the far end says arrives");
        sleep(Duration::from_millis(1_200)); // more than the interval of the keepalives
        assert_eq!(transfer("wg0", 3), sent, "no keepalive, and no answer");
        drop(standby);

        let heard = transfer("wg1", 2);
        lab.run("ip link set wg0 up");
        eventually("a keepalive says that it is back", || transfer("wg1", 2) > heard);
        works(lab);
        assert!(near.log().contains("wg0 was set down"), "{}", near.log());
    });
}

#[test]
fn a_port_that_was_taken_meanwhile_is_told_and_had_as_soon_as_it_is_free() {
    lab(&["ip", "wg", "ping"], |lab| {
        let near = lab.daemon("wg0", &["--listen-port", "5000"]);
        let _far = pair(lab);
        let other = UdpSocket::bind("0.0.0.0:5000").expect("free until it is up");
        lab.run("ip link set wg0 up");
        eventually("it is told", || near.log().contains("until UDP port 5000 can be opened"));
        drop(other);
        works(lab);
    });
}

#[test]
fn a_moved_interface_is_followed_and_what_takes_its_index_is_not() {
    lab(&["ip", "wg"], |lab| {
        let daemon = lab.daemon("wg0", &["--listen-port", "5000"]);
        let index =
            lab.run("cat /sys/class/net/wg0/ifindex 2>/dev/null || ip -o link show wg0 | cut -d: -f1");
        let index = index.trim();
        lab.run("ip netns add far && ip netns add farther && ip link set wg0 netns far name wg7");
        lab.run(&format!(
            "ip link add decoy index {index} mtu 900 type veth peer name other && ip link set decoy up"
        ));
        eventually("it is noticed", || daemon.log().contains("another network namespace"));
        lab.run("ip -n far link set wg7 mtu 1300");
        follows_mtu(lab, 1300);
        assert!(takes("5000"), "only the decoy is up");

        lab.run("ip -n far link set wg7 up && ip link set decoy mtu 901 down");
        eventually("the port is open", || !takes("5000"));
        assert_eq!(
            lab.run("ip -n far -6 -o addr show dev wg7"),
            "",
            "it gives itself no address there either"
        );
        lab.run("ip -n far link set wg7 mtu 1310");
        follows_mtu(lab, 1310);

        lab.run("ip -n far link set wg7 netns farther name wg0");
        eventually("a move sets it down", || takes("5000"));
        lab.run("ip -n farther link set wg0 mtu 1320 up");
        follows_mtu(lab, 1320);
        eventually("the port is open", || !takes("5000"));
        assert_eq!(lab.run("ip -n farther -6 -o addr show dev wg0"), "");

        lab.run(&format!("ip -n farther link set wg0 netns {} && ip link set wg0 mtu 1330 up", daemon.pid()));
        follows_mtu(lab, 1330);
        eventually("the port is open", || !takes("5000"));
        lab.run("ip link delete wg0");
    });
}
