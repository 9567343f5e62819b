//! Two daemons with traffic between them, while `wg` and `ip` change things.

mod common;

use std::process::{Child, Stdio};

use common::{Daemon, Lab, PATIENCE, eventually, keys, lab};

const TOOLS: &[&str] = &["wg", "ip", "ping", "nsenter"];

/// `wg0` here and `wg1` in the namespace `far`, joined by a veth pair.
struct Tunnel<'a> {
    lab: &'a Lab,
    near: (Daemon, String),
    far: (Daemon, String),
}

impl<'a> Tunnel<'a> {
    fn new(lab: &'a Lab) -> Self {
        lab.run(
            "ip netns add far && ip link add near0 type veth peer name far0 netns far && \
             ip addr add 192.0.2.1/24 dev near0 && ip -n far addr add 192.0.2.2/24 dev far0 && \
             ip link set near0 up && ip -n far link set far0 up && ip -n far link set lo up",
        );
        let near = lab.daemon("wg0", &["--listen-port", "5000"]);
        let far = lab.daemon_in("far", "wg1");
        let ((near_private, near_key), (far_private, far_key)) = (keys(lab), keys(lab));
        lab.file("near", &near_private);
        lab.file("far", &far_private);
        lab.run(&format!(
            "wg set wg0 private-key near peer {far_key} allowed-ips 10.5.0.2/32,fd05::2/128 endpoint 192.0.2.2:5001 && \
             wg set wg1 private-key far listen-port 5001 peer {near_key} allowed-ips 10.5.0.1/32,fd05::1/128 && \
             ip addr add 10.5.0.1/24 dev wg0 && ip addr add fd05::1/64 dev wg0 nodad && ip link set wg0 up && \
             ip -n far addr add 10.5.0.2/24 dev wg1 && ip -n far addr add fd05::2/64 dev wg1 nodad && \
             ip -n far link set wg1 up"
        ));
        let tunnel = Self { lab, near: (near, near_key), far: (far, far_key) };
        tunnel.works();
        tunnel
    }

    /// Pings until an answer comes.
    fn works(&self) {
        for address in ["10.5.0.2", "fd05::2"] {
            eventually("a ping is answered", || {
                self.lab.sh(&format!("ping -c 1 -W 1 {address}")).status.success()
            });
        }
    }

    /// A steady stream of pings; [`Stream::lost`] ends it.
    fn stream(&self) -> Stream {
        let mut command =
            self.lab.command("ping", &["-q", "-i", "0.005", "-c", "400", "-W", "2", "10.5.0.2"]);
        Stream(command.stdout(Stdio::piped()).spawn().expect("ping runs"))
    }

    fn handshake(&self, interface: &str) -> u64 {
        let line = self.lab.run(&format!("wg show {interface} latest-handshakes | tail -1"));
        line.split_whitespace().last().and_then(|time| time.parse().ok()).expect("a time")
    }
}

struct Stream(Child);

impl Stream {
    fn lost(self) -> u32 {
        let output = self.0.wait_with_output().expect("ping ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut counts =
            said.lines().find(|line| line.contains("packets transmitted")).expect(&said).split(", ");
        let mut count = || counts.next()?.split_whitespace().next()?.parse::<u32>().ok();
        count().expect(&said) - count().expect(&said)
    }
}

#[test]
fn a_path_that_marks_everything_as_congested_carries_what_does_not_listen() {
    lab(&[TOOLS, &["nft"]].concat(), |lab| {
        let tunnel = Tunnel::new(lab);
        lab.run(
            "nft 'table ip path { chain out { type filter hook postrouting priority 0; \
             oifname near0 udp dport 5001 ip ecn set ce; }; }'",
        );
        let said = lab.run("ping -n -i 0.01 -c 20 10.5.0.2");
        assert!(said.contains(" 20 received"), "{said}");
        tunnel.works();
        // Something was marked: the far end tells, without dropping it.
        let shown = lab.run("volley show wg1 --json");
        let count = |name: &str| {
            let line = shown.lines().find(|line| line.contains(name)).expect(name);
            line.trim().trim_end_matches(',').rsplit(' ').next().and_then(|count| count.parse::<u64>().ok())
        };
        assert!(count("core_rx_ce_not_ect").expect("a number") >= 20, "{shown}");
    });
}

#[test]
fn changing_other_settings_and_peers_loses_no_packet() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let handshake = tunnel.handshake("wg0");
        let stream = tunnel.stream();
        for number in 0..20 {
            let (_, other) = keys(lab);
            lab.run(&format!("wg set wg0 peer {other} allowed-ips 10.6.{number}.0/24 endpoint 192.0.2.2:9"));
            lab.run(&format!("wg set wg0 fwmark {number} peer {other} remove"));
            let ours = &tunnel.far.1;
            lab.run(&format!(
                "wg set wg0 peer {ours} persistent-keepalive {number} allowed-ips 10.5.0.2/32,fd05::2/128"
            ));
        }
        lab.run("wg showconf wg0 > same; wg syncconf wg0 same; wg show wg0 dump > /dev/null");
        assert_eq!(stream.lost(), 0);
        assert_eq!(tunnel.handshake("wg0"), handshake, "the session is the same");
    });
}

#[test]
fn a_preshared_key_changed_at_both_ends_loses_no_packet_and_the_next_handshake_uses_it() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let handshake = tunnel.handshake("wg0");
        let (near, far) = (("wg0", &tunnel.far.1), ("wg1", &tunnel.near.1));
        let set = |(interface, peer): (&str, &String)| {
            lab.run(&format!("wg set {interface} peer {peer} preshared-key psk"));
        };
        let stream = tunnel.stream();
        for order in [[near, far], [far, near]] {
            lab.file("psk", &lab.run("wg genpsk"));
            for end in order {
                set(end);
                lab.run("ping -q -c 5 -i 0.05 -W 1 10.5.0.2");
            }
        }
        assert_eq!(stream.lost(), 0);
        assert_eq!(tunnel.handshake("wg0"), handshake, "the session is the same");

        // A key of our own that comes back ends our sessions: a handshake is due.
        let forget = "wg set wg0 private-key /dev/null && wg set wg0 private-key near";
        lab.run(forget);
        tunnel.works();
        lab.file("psk", &lab.run("wg genpsk"));
        set(far);
        lab.run("ping -q -c 5 -i 0.05 -W 1 10.5.0.2");
        lab.run(forget);
        assert!(!lab.sh("ping -c 1 -W 1 10.5.0.2").status.success(), "a handshake between different keys");
        set(near);
        tunnel.works();
    });
}

#[test]
fn a_mark_set_on_the_live_socket_keeps_its_port() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let stream = tunnel.stream();
        lab.run("wg set wg0 fwmark 0x1234");
        assert_eq!(lab.run("wg show wg0 listen-port; wg show wg0 fwmark"), "5000\n0x1234\n");
        assert_eq!(stream.lost(), 0);
        // Datagrams really carry it: routed by the mark, they have nowhere to go.
        lab.run("ip rule add fwmark 0x1234 prohibit");
        assert!(!lab.sh("ping -c 1 -W 1 10.5.0.2").status.success());
        lab.run("ip rule del fwmark 0x1234 prohibit");
        tunnel.works();
    });
}

#[test]
fn the_far_side_follows_a_changed_port() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        lab.run("wg set wg0 listen-port 5999");
        tunnel.works();
        assert!(lab.run("wg show wg1 endpoints").contains("192.0.2.1:5999"));
    });
}

#[test]
fn turning_the_keepalive_on_sends_one_at_once() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let sent = || lab.run("wg show wg0 transfer | cut -f3").trim().parse::<u64>().expect("bytes");
        let before = sent();
        lab.run(&format!("wg set wg0 peer {} persistent-keepalive 600", tunnel.far.1));
        eventually("an empty message left", || sent() == before + 32);
    });
}

#[test]
fn a_new_key_pair_makes_a_new_session() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let (private, key) = keys(lab);
        lab.file("near", &private);
        lab.run(&format!(
            "wg set wg1 peer {} remove peer {key} allowed-ips 10.5.0.1/32,fd05::1/128 && wg set wg0 private-key near",
            tunnel.near.1
        ));
        tunnel.works();
    });
}

#[test]
fn the_tunnel_survives_its_underlay_and_its_interface_going_down() {
    lab(TOOLS, |lab| {
        let mut tunnel = Tunnel::new(lab);
        lab.run("ip link set near0 down");
        assert!(!lab.sh("ping -c 2 -i 0.2 -W 1 10.5.0.2").status.success());
        lab.run("ip link set near0 up");
        tunnel.works();
        lab.run("ip link set wg0 down; ip link set wg0 up; ip addr add fd05::1/64 dev wg0 nodad");
        tunnel.works();
        assert!(!tunnel.near.0.ends_within(std::time::Duration::from_millis(1)));
        assert!(!tunnel.far.0.ends_within(std::time::Duration::from_millis(1)));
    });
}

#[test]
fn a_route_to_the_endpoint_through_the_tunnel_keeps_nothing_busy() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let sent = || lab.run("wg show wg0 transfer | cut -f3").trim().parse::<u64>().expect("bytes");
        lab.run(&format!("wg set wg0 peer {} allowed-ips 0.0.0.0/0", tunnel.far.1));
        let before = sent();
        lab.run("ip route add 192.0.2.2/32 dev wg0");
        // Small ones, and some that come back in fragments.
        for size in [56, 1392] {
            assert!(!lab.sh(&format!("ping -q -c 10 -i 0.02 -W 1 -s {size} 10.5.0.2")).status.success());
        }
        let bytes = sent() - before;
        assert!(
            bytes < 20 * 1500 + 5 * 148,
            "{bytes} bytes were sent for twenty packets: each once, if at all"
        );
        lab.run("ip route del 192.0.2.2/32 dev wg0");
        eventually("a ping is answered", || lab.sh("ping -c 1 -W 1 10.5.0.2").status.success());
    });
}

#[test]
fn a_restarted_daemon_is_talked_to_again() {
    lab(TOOLS, |lab| {
        let mut tunnel = Tunnel::new(lab);
        lab.run("wg showconf wg1 > saved");
        tunnel.far.0.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(tunnel.far.0.ends_within(PATIENCE));
        tunnel.far.0 = lab.daemon_in("far", "wg1");
        lab.run(
            "wg setconf wg1 saved; ip -n far addr add 10.5.0.2/24 dev wg1; \
             ip -n far addr add fd05::2/64 dev wg1 nodad; ip -n far link set wg1 up",
        );
        // The far side knows where we are from its saved configuration.
        lab.run("nsenter --net=/run/netns/far ping -c 3 -W 5 10.5.0.1");
        tunnel.works();
    });
}

#[test]
fn handshakes_and_bytes_are_counted() {
    lab(TOOLS, |lab| {
        let tunnel = Tunnel::new(lab);
        let now: u64 = lab.run("date +%s").trim().parse().expect("seconds");
        for interface in ["wg0", "wg1"] {
            let handshake = tunnel.handshake(interface);
            assert!((now - 30..=now + 1).contains(&handshake), "{handshake} is not close to {now}");
            let same = (0..20).all(|_| tunnel.handshake(interface) == handshake);
            assert!(same, "the time of the same handshake is always the same");
            let counters = lab.run(&format!("wg show {interface} transfer"));
            let bytes: Vec<u64> =
                counters.split_whitespace().skip(1).map(|n| n.parse().expect("bytes")).collect();
            assert!(bytes.iter().all(|bytes| *bytes > 148), "{counters}");
        }
    });
}

#[test]
fn bytes_are_counted_to_the_last() {
    lab(TOOLS, |lab| {
        let _tunnel = Tunnel::new(lab);
        let counters = |interface: &str| -> Vec<u64> {
            let line = lab.run(&format!("wg show {interface} transfer | cut -f2,3"));
            line.split_whitespace().map(|bytes| bytes.parse().expect("bytes")).collect()
        };
        let before = ["wg0", "wg1"].map(counters);
        lab.run("ping -c 10 -i 0.01 -W 2 -s 1000 10.5.0.2");
        // 20 + 8 + 1,000 bytes, padded to a multiple of 16, and 32 for the message; and as much comes back.
        let expected = 10 * (1040 + 32);
        for (interface, before) in ["wg0", "wg1"].iter().zip(before) {
            let more: Vec<_> =
                counters(interface).iter().zip(before).map(|(after, before)| after - before).collect();
            assert_eq!(more, [expected, expected], "{interface}");
        }
    });
}

#[test]
fn packets_of_65_000_bytes_cross() {
    lab(TOOLS, |lab| {
        let _tunnel = Tunnel::new(lab);
        lab.run("ip link set wg0 mtu 65000; ip -n far link set wg1 mtu 65000");
        eventually("a packet as long as the interface takes is answered", || {
            lab.sh("ping -c 1 -W 1 -M do -s 64972 10.5.0.2").status.success()
        });
        lab.run("ping -c 3 -i 0.05 -W 5 -M do -s 64972 10.5.0.2; ping -c 3 -i 0.05 -W 5 -s 64000 fd05::2");
    });
}

#[test]
fn everything_goes_through_a_default_route_and_the_tunnels_own_datagrams_do_not() {
    lab(&["wg", "ip", "ping", "nsenter", "wg-quick", "nft"], |lab| {
        lab.run(
            "ip netns add far && ip link add near0 type veth peer name far0 netns far && \
             ip addr add 192.0.2.1/24 dev near0 && ip -n far addr add 192.0.2.2/24 dev far0 && \
             ip link set near0 up && ip -n far link set far0 up && ip -n far link set lo up && \
             ip -n far addr add 198.51.100.7/32 dev lo",
        );
        let _far = lab.daemon_in("far", "wg1");
        let ((near_private, near_key), (far_private, far_key)) = (keys(lab), keys(lab));
        lab.file("far", &far_private);
        lab.run(&format!(
            "wg set wg1 private-key far listen-port 5001 peer {near_key} allowed-ips 10.5.0.1/32 && \
             ip -n far addr add 10.5.0.2/24 dev wg1 && ip -n far link set wg1 up"
        ));
        lab.file(
            "wg0.conf",
            &format!(
                "[Interface]\nPrivateKey = {near_private}\nAddress = 10.5.0.1/24\n\n\
                 [Peer]\nPublicKey = {far_key}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.2:5001\n"
            ),
        );
        for (up, down) in [
            ("volley up ./wg0.conf", "volley down ./wg0.conf"),
            ("WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wg0.conf", "wg-quick down ./wg0.conf"),
        ] {
            lab.run(up);
            // Nothing but the tunnel leads there.
            lab.run("ping -c 3 -i 0.1 -W 5 198.51.100.7");
            assert!(lab.run("wg show wg1 endpoints").contains("192.0.2.1:"), "it came by the underlay");
            lab.run(down);
            assert!(!lab.sh("ping -c 1 -W 1 198.51.100.7").status.success());
        }
    });
}
