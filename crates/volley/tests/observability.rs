//! Metrics, packets on file, and what systemd is told.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::Duration,
};

use common::{Daemon, Lab, PATIENCE, eventually, keys, lab};
use netlab::Environment;
use nix::sys::signal::Signal;

fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received");
    answer
}

#[test]
fn metrics_tell_peers_drops_and_features() {
    lab(&["wg", "ip"], |lab| {
        let _daemon = lab.daemon("wg0", &["--metrics", "9586", "--no-udp-gro"]);
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!(
            "wg set wg0 private-key private peer {peer} endpoint 127.0.0.1:9 allowed-ips 10.0.0.0/8 persistent-keepalive 5; \
             ip link set wg0 up"
        ));
        eventually("an initiation", || lab.run("wg show wg0 transfer").ends_with("\t148\n"));
        let page = http("127.0.0.1:9586", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = page.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for line in [
            "volley_peers{interface=\"wg0\"} 1".to_owned(),
            format!("volley_peer_transmit_bytes_total{{interface=\"wg0\",public_key=\"{peer}\"}} 148"),
            format!(
                "volley_peer_last_handshake_timestamp_seconds{{interface=\"wg0\",public_key=\"{peer}\"}} 0"
            ),
            "volley_drops_total{interface=\"wg0\",part=\"core\",reason=\"rx_bad_tag\"} 0".to_owned(),
            "volley_core_initiations_sent_total{interface=\"wg0\"} 1".to_owned(),
            "volley_udp_send_batch_datagrams_bucket{interface=\"wg0\",le=\"+Inf\"} 1".to_owned(),
            "volley_feature_enabled{interface=\"wg0\",feature=\"udp_gso\",state=\"on\"} 1".to_owned(),
            "volley_feature_enabled{interface=\"wg0\",feature=\"udp_gro\",state=\"off (switched off)\"} 0"
                .to_owned(),
        ] {
            assert!(body.lines().any(|found| found == line), "{line} is not in:\n{body}");
        }
        assert!(!body.contains(&private));
        assert!(http("127.0.0.1:9586", "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404"));
        // Clients that never ask do not keep others out.
        let _stuck: Vec<_> =
            (0..15).map(|_| TcpStream::connect("127.0.0.1:9586").expect("connected")).collect();
        assert!(http("127.0.0.1:9586", "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn both_directions_of_the_tun_and_both_protocols_are_told_apart() {
    lab(&["ip"], |lab| {
        let daemon = lab.daemon("wg0", &["--no-tun-coalesce"]);
        let told = daemon.log();
        let off = "off (switched off)";
        assert!(told.contains(&format!(", TCP merged out {off}, UDP merged out {off}, ")), "{told}");
        assert!(told.contains(", TSO in on, USO in "), "{told}");
        let shown = lab.run("volley show wg0");
        for feature in ["tun coalesce tcp", "tun coalesce udp"] {
            assert!(shown.contains(&format!("{feature} {off}, ")), "{shown}");
        }
        assert!(shown.contains("tun tso on, tun uso "), "{shown}");
        let json = lab.run("volley show wg0 --json");
        assert!(json.contains(&format!(r#""tun_coalesce_udp": "{off}""#)), "{json}");
    });
}

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
        let sent = r#"volley_core_initiations_sent_total{interface="wg0"} 1"#;
        eventually("the initiation is counted", || scrape().lines().any(|line| line == sent));
        let text = scrape();
        let never = format!(
            r#"volley_peer_last_handshake_timestamp_seconds{{interface="wg0",public_key="{peer}"}} 0"#
        );
        assert!(text.lines().any(|line| line == never), "{text}");
        assert!(text.contains(r#"volley_drops_total{interface="wg0",part="core",reason="rx_replay"} 0"#));
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
        assert!(
            said.contains("where several interfaces share the setting: unix:/run/wireguard/%i.metrics"),
            "{said}"
        );
        assert!(!lab.sh("ip link show wg1").status.success());
        assert!(!common::socket("wg1").exists());
    });
}

#[test]
fn interfaces_that_share_a_metrics_setting_each_have_a_socket_of_their_own() {
    lab(&["curl", "wg", "ip"], |lab| {
        // As /etc/default/volley gives it to every instance of the unit.
        let metrics = ["--metrics", "unix:/run/wireguard/%i.metrics"];
        let mut daemons = ["wg0", "wg1"].map(|name| lab.daemon(name, &metrics));
        for name in ["wg0", "wg1"] {
            let get = format!("curl -s --unix-socket /run/wireguard/{name}.metrics http://localhost/metrics");
            assert!(lab.run(&get).contains(&format!("\nvolley_peers{{interface=\"{name}\"}} 0\n")));
            assert_eq!(lab.run(&format!("stat -c %a /run/wireguard/{name}.metrics")), "700\n");
        }
        let interfaces = lab.run("wg show interfaces | tr ' ' '\\n' | sort");
        assert_eq!(interfaces, "wg0\nwg1\n", "the sockets of metrics are no interfaces");
        let refused = lab.sh("volley wg2 --metrics unix:/run/wireguard/wg0.metrics");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(
            said.contains("at unix:/run/wireguard/wg0.metrics: somebody serves there already\n"),
            "{said}"
        );
        assert!(said.contains("a path for each interface"), "{said}");
        // One that a killed daemon has left is in nobody's way.
        daemons[0].signal(Signal::SIGKILL);
        assert!(!daemons[0].ends_within(Duration::from_secs(2)), "killed is no success");
        daemons[0] = lab.daemon("wg0", &metrics);
        for mut daemon in daemons {
            daemon.signal(Signal::SIGTERM);
            assert!(daemon.ends_within(Duration::from_millis(500)), "it lives on");
        }
        assert_eq!(lab.run("ls /run/wireguard"), "", "the sockets are removed");
    });
}

#[test]
fn a_scraper_that_is_stuck_does_not_keep_the_daemon() {
    lab(&["ip"], |lab| {
        let mut daemon = lab.daemon("wg0", &["--metrics", "9586"]);
        let stuck = TcpStream::connect("127.0.0.1:9586").expect("connected");
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
fn a_capture_whose_disk_is_full_ends_with_a_whole_packet() {
    lab(&["wg", "ip", "python3", "tcpdump"], |lab| {
        lab.run("mkdir small && mount -t tmpfs -o size=32k tmpfs small");
        let (daemon, ..) = one_peer(lab, &["--pcap", "small/full.pcap"]);
        lab.run(
            "python3 -c \"import socket; s = socket.socket(2, 2); \
             [s.sendto(b'x' * 1000, ('10.9.0.2', 9)) for _ in range(100)]\"",
        );
        eventually("the capture ends", || daemon.log().contains("the capture has ended: "));
        let told = lab.sh("tcpdump -nn -r small/full.pcap udp port 9");
        let (packets, said) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
        assert!(told.status.success() && !said.contains("truncated"), "{said}");
        // 24 bytes of head, and 16 with each packet of 1,028. Another packet may have taken one's room.
        let most = (32 * 1_024 - 24) / (16 + 1_028);
        let kept = packets.matches("10.9.0.2.9: UDP, length 1000").count();
        assert!((most - 1..=most).contains(&kept), "{kept} of {most}: {packets}");
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

#[test]
fn a_daemon_without_a_terminal_logs_to_the_systems_log() {
    if Environment::Pid1.rules_out("a container's first process stays in the foreground, and logs to stderr")
    {
        return;
    }
    lab(&["ip", "mknod"], |lab| {
        // A /dev of our own, with a log socket in it.
        lab.run("mkdir -p dev/net && mknod dev/null c 1 3 && mknod dev/urandom c 1 9 && mknod dev/net/tun c 10 200");
        let log = UnixDatagram::bind(lab.dir.join("dev/log")).expect("a log socket");
        log.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let none: Option<&str> = None;
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(&lab.dir.join("dev")), "/dev", none, bind, none).expect("a private /dev");
        lab.run("volley wg0; ip link delete wg0");
        // From the beginning: the terminal is its caller's.
        for expected in ["wg0 is ready: ", "wg0 ends: its interface was deleted"] {
            let mut line = [0; 1_024];
            let length = log.recv(&mut line).expect("a line");
            let line = String::from_utf8_lossy(&line[..length]);
            assert!(line.starts_with("<30>volley[") && line.contains(&format!("]: {expected}")), "{line}");
        }
    });
}

#[test]
fn no_key_is_ever_logged() {
    lab(&["wg", "ip", "ping", "python3"], |lab| {
        let daemon = lab.daemon("wg0", &["--log-level", "trace"]);
        let ((private, public), (_, peer)) = (keys(lab), keys(lab));
        let psk = lab.run("wg genpsk").trim().to_owned();
        lab.file("private", &private);
        lab.file("psk", &psk);
        lab.run(&format!(
            "wg set wg0 private-key private peer {peer} preshared-key psk endpoint 127.0.0.1:9 allowed-ips 10.9.0.0/24 \
             persistent-keepalive 1; wg show wg0 dump; ip addr add 10.9.0.1/24 dev wg0; ip link set wg0 up"
        ));
        let _ = lab.sh("ping -c 1 -W 1 10.9.0.2");
        // Mistakes are logged, too, and must not quote what may be a key.
        let broken = format!("{}x", &private[..43]);
        let request = format!("set=1\\nprivate_key={broken}\\n\\n");
        lab.run(&format!("volley show wg0; printf '{request}' | python3 -c \"{SEND}\""));
        let hex = |key: &str| {
            let digits = lab.run(&format!("echo {key} | base64 -d | od -An -v -tx1"));
            digits.split_whitespace().collect::<String>()
        };
        let log = daemon.log();
        assert!(log.contains("a configuration request was refused: line 2"), "{log}");
        for secret in [private.clone(), psk.clone(), hex(&private), hex(&psk), broken] {
            assert!(!log.contains(&secret[..20]), "{secret} is in the log of {public}:\n{log}");
        }
    });
}

/// Sends stdin to the socket of `wg0`, and waits for the answer.
const SEND: &str = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/wireguard/wg0.sock'); \
                    s.sendall(sys.stdin.buffer.read()); s.recv(99)";
