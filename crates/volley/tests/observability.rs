//! Metrics, packets on file, and what systemd is told.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    time::Duration,
};

use common::{PATIENCE, eventually, keys, lab};
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
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &["--metrics", "9586", "--no-udp-gro"]);
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!(
            "wg set wg0 private-key private peer {peer} endpoint 127.0.0.1:9 allowed-ips 10.0.0.0/8 persistent-keepalive 5"
        ));
        let page = http("127.0.0.1:9586", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = page.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
        for line in [
            "volley_peers{interface=\"wg0\"} 1".to_owned(),
            format!("volley_peer_sent_bytes_total{{interface=\"wg0\",public_key=\"{peer}\"}} 148"),
            format!("volley_peer_last_handshake_seconds{{interface=\"wg0\",public_key=\"{peer}\"}} 0"),
            "volley_drops_total{interface=\"wg0\",part=\"core\",reason=\"rx_bad_tag\"} 0".to_owned(),
            "volley_core_initiations_sent_total{interface=\"wg0\"} 1".to_owned(),
            "volley_send_batch_datagrams_bucket{interface=\"wg0\",le=\"+Inf\"} 1".to_owned(),
            "volley_feature{interface=\"wg0\",name=\"udp_gso\",state=\"on\"} 1".to_owned(),
            "volley_feature{interface=\"wg0\",name=\"udp_gro\",state=\"off (switched off)\"} 0".to_owned(),
        ] {
            assert!(body.lines().any(|found| found == line), "{line} is not in:\n{body}");
        }
        assert!(!body.contains(&private));
        assert!(http("127.0.0.1:9586", "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404"));
        // Clients that never ask do not keep others out for long.
        let _stuck: Vec<_> =
            (0..8).map(|_| TcpStream::connect("127.0.0.1:9586").expect("connected")).collect();
        assert!(http("127.0.0.1:9586", "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
    });
}

#[test]
fn packets_are_written_for_wireshark() {
    lab(&["ip", "ping", "tcpdump"], |lab| {
        let _daemon = lab.daemon("wg0", &["--pcap", "tunnel.pcap"]);
        lab.run("ip addr add 10.9.0.1/24 dev wg0; ip link set wg0 up");
        let _ = lab.sh("ping -c 1 -W 1 10.9.0.2");
        eventually("the packet is on file", || {
            lab.run("tcpdump -nr tunnel.pcap 2>/dev/null").contains("10.9.0.1 > 10.9.0.2: ICMP echo request")
        });
        assert_eq!(lab.run("stat -c %a tunnel.pcap"), "600\n");
    });
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_ends() {
    lab(&["ip"], |lab| {
        let path = lab.dir.join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut command = lab.volley(&["-f", "wg0"]);
        let mut child = command.env("NOTIFY_SOCKET", &path).spawn().expect("it starts");
        let told = || {
            let mut message = [0; 512];
            let length = manager.recv(&mut message).expect("told");
            String::from_utf8_lossy(&message[..length]).into_owned()
        };
        let ready = told();
        assert!(ready.contains("READY=1"), "{ready}");
        assert!(common::socket("wg0").exists(), "ready means ready");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM)
            .expect("signalled");
        assert!(told().contains("STOPPING=1"));
        assert!(common::waits(Duration::from_secs(5), || child.try_wait().expect("a child").is_some()));
    });
}

#[test]
fn the_shipped_unit_is_right_and_tight() {
    lab(&["systemd-analyze", "sed"], |lab| {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/volley@.service");
        // Where no service manager runs, everything but the program's place can be checked.
        lab.run(&format!("sed s,/usr/bin/volley,$(command -v volley), {unit} > volley@.service"));
        let verified =
            lab.sh("systemd-analyze verify --man=no --recursive-errors=no ./volley@wg0.service 2>&1 || true");
        let said = String::from_utf8_lossy(&verified.stdout);
        let about_us: Vec<_> = said.lines().filter(|line| line.contains("volley@")).collect();
        assert!(about_us.is_empty(), "{about_us:?}");
        let exposure =
            lab.run("systemd-analyze security --offline=true --no-pager ./volley@.service | tail -1");
        let level: f32 = exposure.split_whitespace().find_map(|word| word.parse().ok()).expect("a number");
        assert!(level <= 4.0, "{exposure}");
    });
}
