//! The configuration socket of a running daemon, byte for byte.

mod common;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Stdio,
    thread,
};

use common::{PATIENCE, eventually, lab, took};

const PEER: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn exchange(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    let mut buffer = vec![0; 65_536];
    // Only one request is out, so the answer's end is the end of what comes.
    while !answer.ends_with(b"\n\n") {
        let length = stream.read(&mut buffer).expect("received");
        assert_ne!(length, 0, "closed after {} bytes", answer.len());
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(answer).expect("text")
}

#[test]
fn a_bad_line_changes_nothing_of_its_request() {
    lab(&["wg"], |lab| {
        let daemon = lab.daemon("wg0", &["--listen-port", "51890"]);
        let mut stream = connect(&daemon.socket());
        let before = exchange(&mut stream, "get=1\n\n");
        let good = format!("set=1\nfwmark=9\nlisten_port=51891\npublic_key={PEER}\nallowed_ip=10.0.0.0/8\n");
        for (bad, errno) in
            [("endpoint=nowhere", -22), ("allowed_ip=10.0.0.0/33", -22), ("what", -71), ("fwmark=1", -22)]
        {
            assert_eq!(
                exchange(&mut stream, &format!("{good}{bad}\n\n")),
                format!("errno={errno}\n\n"),
                "{bad}"
            );
            assert_eq!(exchange(&mut stream, "get=1\n\n"), before, "{bad}");
        }
        let (_busy, port) = common::busy_port();
        let busy = format!("set=1\nfwmark=9\nlisten_port={port}\npublic_key={PEER}\n\n");
        assert_eq!(exchange(&mut stream, &busy), "errno=-98\n\n");
        assert_eq!(exchange(&mut stream, "get=1\n\n"), before);
        assert_eq!(exchange(&mut stream, &format!("{good}\n")), "errno=0\n\n");
        let after = exchange(&mut stream, "get=1\n\n");
        assert_eq!(
            after,
            format!(
                "listen_port=51891\nfwmark=9\npublic_key={PEER}\npreshared_key={}\nprotocol_version=1\n\
                 last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n\
                 persistent_keepalive_interval=0\nallowed_ip=10.0.0.0/8\nerrno=0\n\n",
                "0".repeat(64)
            )
        );
    });
}

#[test]
fn peers_are_updated_and_removed_as_the_contract_says() {
    lab(&["wg"], |lab| {
        let daemon = lab.daemon("wg0", &[]);
        let mut stream = connect(&daemon.socket());
        let mut set = |lines: &str| {
            assert_eq!(exchange(&mut stream, &format!("set=1\n{lines}\n\n")), "errno=0\n\n", "{lines}");
            let answer = exchange(&mut stream, "get=1\n\n");
            let prefixes: Vec<_> =
                answer.lines().filter_map(|line| line.strip_prefix("allowed_ip=")).collect();
            (answer.matches("public_key=").count(), prefixes.join(" "))
        };
        assert_eq!(
            set(&format!("public_key={PEER}\nupdate_only=true\nallowed_ip=10.0.0.0/8")),
            (0, String::new())
        );
        assert_eq!(set(&format!("public_key={PEER}\nremove=true")), (0, String::new()));
        let two = format!("public_key={PEER}\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8");
        assert_eq!(set(&two), (1, "10.0.0.0/8 fd00::/8".to_owned()));
        assert_eq!(set(&format!("public_key={PEER}\nallowed_ip=-10.0.0.0/8")), (1, "fd00::/8".to_owned()));
        let update = format!(
            "public_key={PEER}\nupdate_only=true\nreplace_allowed_ips=true\nallowed_ip=192.168.0.0/16"
        );
        assert_eq!(set(&update), (1, "192.168.0.0/16".to_owned()));
        assert_eq!(set("replace_peers=true"), (0, String::new()));
    });
}

#[test]
fn many_clients_at_once_are_all_answered() {
    lab(&["wg"], |lab| {
        let daemon = lab.daemon("wg0", &["--log-level", "error"]);
        let path = daemon.socket();
        let clients: Vec<_> = (0..16u8)
            .map(|client| {
                let path = path.clone();
                thread::spawn(move || {
                    let mut stream = connect(&path);
                    for round in 0..20u8 {
                        let key = format!("{client:02x}{round:02x}{}", "ab".repeat(30));
                        let set = format!("set=1\npublic_key={key}\nallowed_ip=10.{client}.{round}.0/24\n\n");
                        assert_eq!(exchange(&mut stream, &set), "errno=0\n\n");
                        assert!(exchange(&mut stream, "get=1\n\n").contains(&key));
                    }
                })
            })
            .collect();
        // The threads reach the socket: they share this one's mount namespace.
        for client in clients {
            client.join().expect("a client");
        }
        assert_eq!(lab.run("wg show wg0 peers").lines().count(), 16 * 20);
    });
}

#[test]
fn slow_and_stuck_clients_harm_nobody() {
    lab(&["wg"], |lab| {
        let daemon = lab.daemon("wg0", &["--log-level", "error"]);
        let mut stuck = Vec::new();
        for _ in 0..200 {
            let mut stream = connect(&daemon.socket());
            let _ = stream.write_all(b"set=1\nlisten_port=");
            stuck.push(stream);
        }
        // Asks for ever more, and never reads an answer.
        let mut deaf = connect(&daemon.socket());
        deaf.set_nonblocking(true).expect("set");
        while deaf.write(&b"get=1\n\n".repeat(1_000)).is_ok() {}
        let (shown, time) = took(|| lab.sh("wg show wg0"));
        assert!(shown.status.success(), "{shown:?}");
        assert!(time < PATIENCE / 2, "{time:?}");
    });
}

#[test]
fn an_endless_request_is_cut_off() {
    lab(&[], |lab| {
        let daemon = lab.daemon("wg0", &["--log-level", "error"]);
        let mut stream = connect(&daemon.socket());
        stream.write_all(b"set=1\n").expect("sent");
        let line = b"replace_peers=true\n".repeat(10_000);
        let mut sent = 0;
        while stream.write_all(&line).is_ok() && sent < 1 << 30 {
            sent += line.len();
        }
        assert!(sent < 100 << 20, "{sent} bytes were taken");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer); // may end with a reset
        lab.run("volley show wg0");
    });
}

#[test]
fn whoever_looks_while_it_starts_does_not_take_the_socket_away() {
    lab(&["wg", "ip", "strace"], |lab| {
        // `wg` removes a socket on which nobody listens. Here it has half a second to find one.
        let slowly = ["-qqq", "-o", "/dev/null", "-etrace=listen", "-einject=listen:delay_enter=500ms"];
        let mut command = lab.command("strace", &slowly);
        command.args([env!("CARGO_BIN_EXE_volley"), "-f", "wg0"]).stderr(Stdio::null());
        let mut child = command.spawn().expect("strace runs");
        eventually("it answers", || lab.sh("wg show wg0; wg show wg0").status.success());
        lab.run("wg show wg0 && ip link delete wg0");
        eventually("it ends", || child.try_wait().expect("a child").is_some_and(|status| status.success()));
        assert_eq!(lab.run("ls -A /run/wireguard"), "");
    });
}
