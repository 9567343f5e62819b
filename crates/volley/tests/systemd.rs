//! What the shipped systemd unit promises, as far as that can be checked where no systemd runs.

mod common;

use std::{
    collections::BTreeSet, fs, os::unix::net::UnixDatagram, path::Path, process::Stdio, time::Duration,
};

use common::{
    Lab, PATIENCE, eventually, keys, lab, socket,
    system::{kill_daemon, network, snapshot, strangers, tunnel},
};
use netlab::Environment;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/volley@.service");

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
        assert!(socket("wg0").exists(), "ready means ready");
        kill(Pid::from_raw(lab.daemon_process(&child) as i32), Signal::SIGTERM).expect("signalled");
        assert!(told().contains("STOPPING=1"));
        assert!(common::waits(Duration::from_secs(5), || child.try_wait().expect("a child").is_some()));
    });
}

#[test]
fn the_shipped_unit_is_right_and_tight() {
    lab(&["systemd-analyze", "sed"], |lab| {
        // Where no service manager runs, everything but the program's place can be checked.
        lab.run(&format!("sed s,/usr/bin/volley,$(command -v volley), {UNIT} > volley@.service"));
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

/// The system calls of a set such as `@system-service`, all sets in it included.
fn system_calls(lab: &Lab, set: &str) -> BTreeSet<String> {
    let listed = lab.run(&format!("systemd-analyze syscall-filter {set}"));
    let mut calls = BTreeSet::new();
    for line in
        listed.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| !line.starts_with('#'))
    {
        if line.starts_with('@') {
            calls.extend(system_calls(lab, line));
        } else {
            calls.insert(line.to_owned());
        }
    }
    calls
}

#[test]
fn the_daemon_makes_no_system_call_that_the_unit_forbids() {
    lab(&["systemd-analyze", "strace", "wg", "ip", "ping"], |lab| {
        assert!(fs::read_to_string(UNIT).expect("the unit").contains("\nSystemCallFilter=@system-service\n"));
        let allowed = system_calls(lab, "@system-service");
        assert!(allowed.len() > 200 && allowed.contains("recvmmsg"));
        let volley = lab.program();
        let arrangement = "--arrangement=tun-threads";
        let arguments = ["-f", "-qq", "-o", "calls", &volley, "run", "--foreground", arrangement, "wg0"];
        let mut traced =
            lab.command("strace", &arguments).stderr(Stdio::null()).spawn().expect("strace runs");
        eventually("the daemon answers", || lab.sh("wg show wg0").status.success());
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!(
            "wg set wg0 private-key private listen-port 5001 fwmark 1 peer {peer} endpoint 127.0.0.1:9 \
             allowed-ips 10.9.0.0/24; ip addr add 10.9.0.1/24 dev wg0; ip link set wg0 mtu 1300 up; \
             ping -c 2 -i 0.2 -W 1 10.9.0.2; volley show wg0; ip link delete wg0"
        ));
        eventually("it ends", || traced.try_wait().expect("a child").is_some());
        let trace = fs::read_to_string(lab.dir.join("calls")).expect("the trace");
        // What enters the environment of the run is not the daemon.
        let ours = format!("execve(\"{}\"", env!("CARGO_BIN_EXE_volley"));
        let made: BTreeSet<_> = trace
            .lines()
            .skip_while(|line| !line.contains(&ours))
            .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
            .map(|(call, _)| call.to_owned())
            .filter(|call| {
                call.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            })
            .collect();
        assert!(made.contains("sendmsg") && made.contains("capset"), "{made:?}");
        let forbidden: Vec<_> = made.difference(&allowed).collect();
        assert!(forbidden.is_empty(), "{forbidden:?}");
    });
}

#[test]
fn root_without_roots_capabilities_is_enough() {
    if Environment::NetAdmin.rules_out("it is about a root who has CAP_NET_BIND_SERVICE as well") {
        return;
    }
    lab(&["setpriv", "wg", "ip"], |lab| {
        let bounded = lab.volley_with("--bounding-set=-all,+net_admin,+net_bind_service --no-new-privs");
        lab.run(&format!("{bounded} wg0"));
        lab.run("wg set wg0 listen-port 443; ip link delete wg0");
        eventually("the socket is removed", || !socket("wg0").exists());
    });
}

#[test]
fn the_units_commands_are_ours() {
    let unit = fs::read_to_string(UNIT).expect("the unit");
    let commands: Vec<_> = unit.lines().filter_map(|line| line.split_once("/usr/bin/volley ")).collect();
    assert_eq!(commands.len(), 5);
    for (_, arguments) in commands {
        let arguments = arguments.trim_end_matches(")'").replace("%i", "wg0");
        let parsed = volley::cli::check(arguments.split(' '));
        assert!(parsed.is_ok(), "{arguments}: {parsed:?}");
    }
    assert!(Path::new(UNIT).file_name().is_some_and(|name| name == "volley@.service"));
}

/// Runs one of the unit's commands for `./wg0.conf`, as systemd would.
fn run_the_units(lab: &Lab, key: &str) {
    let unit = fs::read_to_string(UNIT).expect("the unit");
    let command = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix("=+")).expect(key);
    let command = command.replace("/usr/bin/volley", "volley").replace("syncconf %i", "syncconf wg0");
    lab.run(&format!("export PATH=$PATH:$DIR/tools; {}", command.replace("%i", "./wg0.conf")));
}

#[test]
fn the_unit_cleans_up_after_a_daemon_that_was_killed() {
    lab(&["wg", "ip", "nft", "bash"], |lab| {
        network(lab);
        strangers(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24\nDNS = 192.0.2.53", "0.0.0.0/0, ::/0");
        let killed = lab.daemon("wg0", &["run"]);
        run_the_units(lab, "ExecStartPost");
        assert!(lab.run("ip rule").contains("proto 118"));
        kill_daemon("wg0");
        run_the_units(lab, "ExecStopPost");
        assert_eq!(snapshot(lab), before);
        drop(killed);

        // `Restart=on-failure`, and then a regular stop.
        let mut daemon = lab.daemon("wg0", &["run"]);
        run_the_units(lab, "ExecStartPost");
        lab.run("sed -i s/:9/:10/ wg0.conf");
        run_the_units(lab, "ExecReload");
        assert!(lab.run("wg show wg0 endpoints").contains("192.0.2.2:10"));
        assert!(lab.run("ip rule").contains("proto 118"));
        run_the_units(lab, "ExecStop");
        assert!(daemon.ends_within(PATIENCE));
        run_the_units(lab, "ExecStopPost");
        assert_eq!(snapshot(lab), before);
    });
}
