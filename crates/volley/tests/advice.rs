//! What people are told is the true cause, and its fix mends it.

mod common;

use std::process::Stdio;

use common::{Lab, PATIENCE, eventually, keys, lab, socket};
use netlab::Environment;
use nix::mount::{MsFlags, mount};

const OWN_PROC: &str = "the container has a /proc of its own";

/// What a command that fails says on stderr.
#[track_caller]
fn complaint(lab: &Lab, command: &str) -> String {
    let failed = lab.sh(command);
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success(), "{command}: {said}");
    said
}

fn cover(directory: &str) {
    let none: Option<&str> = None;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), none).expect("covered");
}

#[test]
fn a_start_in_the_background_that_succeeds_is_silent() {
    if Environment::Pid1.rules_out("a container's first process stays in the foreground, and logs to stderr")
    {
        return;
    }
    lab(&["wg", "ip"], |lab| {
        for start in ["volley wg0", "LOG_LEVEL=debug volley wg0 --metrics 0"] {
            let started = lab.sh(start);
            assert!(started.status.success(), "{started:?}");
            assert_eq!((&*started.stdout, &*started.stderr), (&b""[..], &b""[..]), "{start}: {started:?}");
            lab.run("wg show wg0 && ip link delete wg0");
            eventually("it ends", || !socket("wg0").exists());
        }
    });
}

#[test]
fn a_daemon_of_another_network_is_ended_by_its_socket() {
    lab(&["ip", "wg"], |lab| {
        lab.run("ip netns add far && volley wg0");
        assert!(complaint(lab, "volley wg0").ends_with("or end it first: ip link delete wg0\n"));
        lab.run("ip link set wg0 netns far");
        let said = complaint(lab, "volley wg0");
        let (_, fix) = said.split_once("or end it first: ").expect(&said);
        assert_eq!(fix, "rm /var/run/wireguard/wg0.sock\n");
        lab.run(fix);
        eventually("it ends", || !lab.sh("ip -n far link show wg0").status.success());
        lab.run("volley wg0 && ip link delete wg0");
        eventually("it ends", || !socket("wg0").exists());
    });
}

#[test]
fn a_file_in_the_socket_directorys_place_is_named() {
    lab(&["ip", "wg"], |lab| {
        lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {}\n", keys(lab).0));
        cover("/run");
        lab.run("touch /run/wireguard");
        let fix = "\n  to mend it: something else is in its place: rm /var/run/wireguard\n";
        for command in ["volley wg0", "volley -f wg0", "volley up ./wg0.conf"] {
            let said = complaint(lab, command);
            assert!(said.contains("cannot make /var/run/wireguard: File exists"), "{said}");
            assert!(said.ends_with(fix), "{command}: {said}");
            assert!(!lab.sh("ip link show wg0").status.success());
        }
        let doctor = String::from_utf8(lab.sh("volley doctor").stdout).expect("text");
        assert!(
            doctor.contains("to mend it: something else is in its place: rm /var/run/wireguard"),
            "{doctor}"
        );
        lab.run("rm /var/run/wireguard && volley wg0 && wg show wg0 && ip link delete wg0");
        eventually("it ends", || !socket("wg0").exists());
    });
}

#[test]
fn without_proc_the_daemon_stays_in_front_and_the_rest_says_what_is_missing() {
    if Environment::Pid1.rules_out(OWN_PROC) {
        return;
    }
    lab(&["ip", "wg", "mount"], |lab| {
        lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {}\n", keys(lab).0));
        // What enters an environment looks into /proc itself.
        let volley = env!("CARGO_BIN_EXE_volley");
        cover("/proc");
        let fix = "\n  to mend it: mount -t proc proc /proc";
        for command in ["wg0", "up ./wg0.conf", "down ./wg0.conf"] {
            let said = complaint(lab, &format!("{volley} {command}"));
            assert!(said.contains(": /proc is not mounted") && said.contains(fix), "{command}: {said}");
        }
        let doctor = String::from_utf8(lab.sh(&format!("{volley} doctor")).stdout).expect("text");
        assert!(doctor.contains("FAIL  /proc "), "{doctor}");
        let mut daemon = lab.command(volley, &["--foreground", "wg0"]);
        let mut child = daemon.stderr(Stdio::null()).spawn().expect("it starts");
        eventually("it answers", || lab.sh("wg show wg0").status.success());
        lab.run("ip link delete wg0");
        assert!(common::waits(PATIENCE, || child
            .try_wait()
            .expect("a child")
            .is_some_and(|it| it.success())));
    });
}

#[test]
fn a_name_that_is_too_long_is_told_so_wherever_it_is_given() {
    lab(&[], |lab| {
        let name = "sixteen-bytes-xx";
        let rule = format!("`{name}` cannot be an interface name: it is longer than 15 bytes");
        for command in ["", "run", "show", "up", "down", "save", "strip"] {
            let said = complaint(lab, &format!("volley {command} {name}"));
            assert!(said.contains(&rule), "{command}: {said}");
        }
        let said = complaint(lab, &format!("volley up ./{name}.conf"));
        assert!(said.contains("is not named after an interface: it is longer than 15 bytes\n"), "{said}");
    });
}

#[test]
fn no_name_leads_out_of_the_socket_directory() {
    lab(&["ip"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        // There would be a daemon.
        lab.run("mkdir /run/wireguard/other && ln -s ../wg0.sock /run/wireguard/other/x.sock");
        for name in ["other/x", "../wireguard/wg0", "", ".", ".."] {
            for command in ["volley show", "volley down", "volley up", "volley run", "volley"] {
                let said = complaint(lab, &format!("{command} '{name}'"));
                let refused = ["cannot be an interface name", "is not named after an interface"];
                assert!(refused.iter().any(|refused| said.contains(refused)), "{command} {name}: {said}");
            }
        }
        lab.run("volley show wg0");
    });
}
