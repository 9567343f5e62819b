//! The daemon under the real `wg-quick`, which starts it with a name and nothing else.

mod common;

use common::{Lab, eventually, keys, lab, socket};

const TOOLS: &[&str] = &["wg-quick", "wg", "ip", "bash", "nft"];

/// `wg-quick`, with Volley in the place of the kernel's module.
fn wg_quick(lab: &Lab, arguments: &str) -> String {
    lab.run(&format!("WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick {arguments} 2>&1"))
}

#[test]
fn up_and_down_with_both_families_and_hooks() {
    lab(TOOLS, |lab| {
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file(
            "wgq0.conf",
            &format!(
                "[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.1/24, fd07::1/64\nListenPort = 51901\n\
                 MTU = 1380\nPostUp = echo up %i >> $DIR/hooks\nPreDown = echo predown >> $DIR/hooks\n\
                 PostDown = echo down >> $DIR/hooks\n\n\
                 [Peer]\nPublicKey = {peer}\nAllowedIPs = 10.8.0.0/24, fd08::/64\nEndpoint = 127.0.0.1:9\n"
            ),
        );
        wg_quick(lab, "up ./wgq0.conf");
        let link = lab.run("ip addr show wgq0");
        for expected in ["mtu 1380", "10.7.0.1/24", "fd07::1/64"] {
            assert!(link.contains(expected), "{link}");
        }
        assert!(lab.run("ip route").contains("10.8.0.0/24 dev wgq0"));
        assert!(lab.run("ip -6 route").contains("fd08::/64 dev wgq0"));
        assert_eq!(lab.run("wg show wgq0 listen-port"), "51901\n");

        wg_quick(lab, "down ./wgq0.conf");
        eventually("the daemon ends", || !socket("wgq0").exists());
        assert_eq!(lab.run("cat hooks"), "up wgq0\npredown\ndown\n");
    });
}

#[test]
fn default_routes_go_through_the_tunnel_by_firewall_mark() {
    lab(TOOLS, |lab| {
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file(
            "wgq0.conf",
            &format!(
                "[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.1/24, fd07::1/64\nListenPort = 51902\n\n\
                 [Peer]\nPublicKey = {peer}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = 127.0.0.1:9\n"
            ),
        );
        wg_quick(lab, "up ./wgq0.conf");
        assert_eq!(lab.run("wg show wgq0 fwmark; wg show wgq0 listen-port"), "0xca6c\n51902\n");
        assert!(lab.run("ip rule").contains("not from all fwmark 0xca6c lookup 51820"));
        assert!(lab.run("ip -6 route show table 51820").contains("default dev wgq0"));
        wg_quick(lab, "down ./wgq0.conf");
        assert!(!lab.run("ip rule").contains("51820"));
        eventually("the daemon ends", || !socket("wgq0").exists());
    });
}

#[test]
fn save_writes_what_is_in_force() {
    lab(TOOLS, |lab| {
        let ((private, _), (_, one), (_, two)) = (keys(lab), keys(lab), keys(lab));
        lab.file(
            "wgq0.conf",
            &format!(
                "[Interface]\nPrivateKey = {private}\nAddress = 10.7.0.1/24\n\n[Peer]\nPublicKey = {one}\n"
            ),
        );
        wg_quick(lab, "up ./wgq0.conf");
        lab.run(&format!(
            "wg set wgq0 listen-port 51903 peer {two} allowed-ips 10.8.0.0/16 endpoint 127.0.0.1:9"
        ));
        wg_quick(lab, "save ./wgq0.conf");
        let saved = lab.run("cat wgq0.conf");
        let expected =
            [&private, &one, &two, "ListenPort = 51903", "Address = 10.7.0.1/24", "AllowedIPs = 10.8.0.0/16"];
        for expected in expected {
            assert!(saved.contains(expected), "{expected} is missing in:\n{saved}");
        }
        wg_quick(lab, "down ./wgq0.conf");
    });
}

#[test]
fn a_failing_start_is_rolled_back() {
    lab(TOOLS, |lab| {
        let (private, _) = keys(lab);
        let (_busy, port) = common::busy_port();
        lab.file("wgq0.conf", &format!("[Interface]\nPrivateKey = {private}\nListenPort = {port}\n"));
        let failed = lab.sh("WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wgq0.conf");
        assert!(!failed.status.success());
        assert!(String::from_utf8_lossy(&failed.stderr).contains("Address already in use"), "{failed:?}");
        eventually("nothing is left", || {
            !socket("wgq0").exists() && !lab.sh("ip link show wgq0").status.success()
        });
    });
}

#[test]
fn environment_variables_reach_the_daemon() {
    lab(TOOLS, |lab| {
        let (private, _) = keys(lab);
        lab.file("wgq0.conf", &format!("[Interface]\nPrivateKey = {private}\n"));
        lab.run(
            "VOLLEY_METRICS= VOLLEY_BATCH= VOLLEY_PCAP= VOLLEY_NO_UDP_GSO=1 VOLLEY_NO_UDP_GRO=true VOLLEY_NO_TUN_OFFLOAD=yes VOLLEY_NO_TUN_COALESCE=1 VOLLEY_NO_SCHED_BATCH=1 VOLLEY_NO_ICMP_UNREACHABLE=1 VOLLEY_ARRANGEMENT=tun-threads VOLLEY_CREW=2 VOLLEY_BACKEND=native \
             WG_QUICK_USERSPACE_IMPLEMENTATION=volley wg-quick up ./wgq0.conf",
        );
        let features = lab.run("volley show wgq0 --json");
        for expected in [
            "\"udp_gso\": \"off",
            "\"udp_gro\": \"off",
            "\"tun_tso\": \"off",
            "\"sched_batch\": \"off",
            "\"arrangement\": \"tunthreads\"",
            "\"crew\": \"2\"",
            "\"backend\": \"native\"",
        ] {
            assert!(features.contains(expected), "{expected}: {features}");
        }
        wg_quick(lab, "down ./wgq0.conf");
    });
}
