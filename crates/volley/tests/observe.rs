//! `--metrics` and `--pcap` of a running daemon.

mod common;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use common::{Daemon, Lab, eventually, keys, lab};
use nix::sys::signal::Signal;

/// A daemon with one peer that is never there, and an address inside its network.
fn one_peer(lab: &Lab, args: &[&str]) -> (Daemon, String, String) {
    let daemon = lab.daemon("wg0", args);
    let ((private, _), (_, peer)) = (keys(lab), keys(lab));
    lab.file("private", &private);
    lab.run(&format!(
        "wg set wg0 private-key private peer {peer} endpoint 127.0.0.1:9 allowed-ips 10.9.0.0/24; \
         ip addr add 10.9.0.1/24 dev wg0; ip link set wg0 up"
    ));
    (daemon, private, peer)
}

fn send_a_packet(lab: &Lab) {
    lab.run("python3 -c \"import socket; socket.socket(2, 2).sendto(b'in the clear', ('10.9.0.2', 9))\"");
}

#[test]
fn metrics_count_what_the_peer_is_sent_and_tell_no_secret() {
    lab(&["wg", "ip", "curl", "python3"], |lab| {
        let (_daemon, private, peer) = one_peer(lab, &["--metrics", ":9586"]);
        send_a_packet(lab);
        let scrape = || lab.run("curl -sSf http://127.0.0.1:9586/metrics");
        // The packet started a handshake with a peer that is not there.
        let sent = r#"volley_tunnel_initiations_sent_total{interface="wg0"} 1"#;
        eventually("the initiation is counted", || scrape().lines().any(|line| line == sent));
        let text = scrape();
        let never = format!(
            r#"volley_peer_last_handshake_timestamp_seconds{{interface="wg0",public_key="{peer}"}} 0"#
        );
        assert!(text.lines().any(|line| line == never), "{text}");
        assert!(text.contains(r#"volley_drops_total{interface="wg0",side="tunnel",reason="rx_replay"} 0"#));
        assert!(!text.contains(&private));
        assert!(!lab.sh("curl -sSf http://127.0.0.1:9586/").status.success());
    });
}

#[test]
fn metrics_open_to_the_network_are_logged_and_the_loopback_is_not_left_unasked() {
    lab(&["curl"], |lab| {
        let open = lab.daemon("wg0", &["--metrics", "0.0.0.0:9586"]);
        assert!(open.log().contains("metrics are open to the network at 0.0.0.0:9586"), "{}", open.log());
        let _closed = lab.daemon("wg1", &["--metrics", "9587"]);
        lab.run("ip addr add 10.8.0.1/24 dev wg0; ip link set wg0 up");
        lab.run("curl -sSf http://10.8.0.1:9586/metrics > all");
        assert!(!lab.sh("curl -sSf http://10.8.0.1:9587/metrics").status.success());
    });
}

#[test]
fn a_metrics_port_in_use_is_an_error_with_its_fix_and_leaves_nothing() {
    lab(&["ip"], |lab| {
        let _first = lab.daemon("wg0", &["--metrics", "9586"]);
        let refused = lab.sh("VOLLEY_METRICS=9586 volley wg1");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot serve metrics at 127.0.0.1:9586: "), "{said}");
        assert!(said.contains("to mend it: give --metrics"), "{said}");
        assert!(!lab.sh("ip link show wg1").status.success());
        assert!(!common::socket("wg1").exists());
    });
}

#[test]
fn a_scraper_that_is_stuck_does_not_keep_the_daemon() {
    lab(&["ip"], |lab| {
        let mut daemon = lab.daemon("wg0", &["--metrics", "9586"]);
        let stuck = std::net::TcpStream::connect("127.0.0.1:9586").expect("connected");
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.ends_within(Duration::from_millis(500)), "it lives on");
        drop(stuck);
    });
}

#[test]
fn a_capture_holds_what_crossed_the_interface_and_is_its_owners_alone() {
    lab(&["wg", "ip", "python3", "tcpdump"], |lab| {
        let (mut daemon, ..) = one_peer(lab, &["--pcap", "%i.pcap"]);
        assert!(daemon.log().contains("is written in the clear to wg0.pcap"), "{}", daemon.log());
        send_a_packet(lab);
        let file = lab.dir.join("wg0.pcap");
        let read = || fs::read(&file).expect("the capture");
        let has_it = |capture: &[u8]| capture.windows(12).any(|window| window == b"in the clear");
        eventually("it reaches the file while the daemon runs", || has_it(&read()));

        send_a_packet(lab);
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.ends_within(Duration::from_millis(500)));
        assert_eq!(fs::metadata(&file).expect("the capture").permissions().mode() & 0o777, 0o600);
        let told = lab.run("tcpdump -nn -r wg0.pcap udp port 9");
        assert_eq!(told.matches("10.9.0.2.9: UDP, length 12").count(), 2, "{told}");
    });
}

#[test]
fn a_capture_that_cannot_be_made_is_an_error_with_its_fix_and_leaves_nothing() {
    lab(&["ip"], |lab| {
        lab.file("notes", "not a capture");
        for (file, why) in [("/nowhere/a.pcap", "No such file or directory"), ("notes", "is not a capture")] {
            let refused = lab.sh(&format!("VOLLEY_PCAP={file} volley wg0"));
            let said = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(refused.status.code(), Some(1), "{said}");
            assert!(said.contains(&format!("volley: cannot capture to {file}: ")), "{said}");
            assert!(said.contains(why) && said.contains("\n  to mend it: give --pcap"), "{said}");
            assert!(!lab.sh("ip link show wg0").status.success());
            assert!(!common::socket("wg0").exists());
        }
    });
}
