//! What is undone when a daemon was killed, has moved away or was never there.

mod common;

use std::{fs, os::unix::net::UnixListener, process::Stdio, thread};

use common::{
    Lab, eventually, keys, lab, socket,
    system::{VOLLEY, kill_daemon, network, snapshot, strangers, tunnel},
};
use netlab::Environment;

const TOOLS: &[&str] = &["wg", "ip", "bash", "nft"];

const CLEANS_UP: &str =
    "as a container's first process `up` stays, and cleans up as soon as the daemon is dead";

const INTERFACE: &str = "Address = 10.1.0.1/24, fd01::1/64\nDNS = 192.0.2.53\nPostDown = touch $DIR/postdown";

/// A tunnel for everything that was up when its daemon was killed; and the system before that.
fn killed(lab: &Lab) -> String {
    network(lab);
    strangers(lab);
    let before = snapshot(lab);
    tunnel(lab, "wg0", INTERFACE, "0.0.0.0/0, ::/0");
    lab.run(&format!("{VOLLEY} up ./wg0.conf"));
    kill_daemon("wg0");
    assert_ne!(snapshot(lab), before, "it leaves its rules");
    before
}

fn said(lab: &Lab, command: &str) -> String {
    lab.run(&format!("{VOLLEY} {command} 2>&1"))
}

/// Number 5.
#[test]
fn without_a_daemon_up_running_leaves_a_strangers_interface_alone() {
    lab(TOOLS, |lab| {
        network(lab);
        lab.run("ip link add wg0 type veth peer name other");
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", "0.0.0.0/0");
        let before = snapshot(lab);
        let refused = lab.sh(&format!("{VOLLEY} up --running ./wg0.conf"));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains("no daemon runs for `wg0`"), "{text}");
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 5: its daemon's interface is elsewhere.
#[test]
fn up_running_takes_no_strangers_interface_for_the_daemons() {
    lab(TOOLS, |lab| {
        network(lab);
        let _daemon = lab.daemon("wg0", &["run"]);
        lab.run("ip netns add elsewhere; ip link set wg0 netns elsewhere; ip link add wg0 type veth peer name other");
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", "0.0.0.0/0");
        let before = snapshot(lab);
        let refused = lab.sh(&format!("{VOLLEY} up --running ./wg0.conf"));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains("is not the interface of the daemon"), "{text}");
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 6.
#[test]
fn down_undoes_what_a_killed_daemon_left() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        let before = killed(lab);
        said(lab, "down ./wg0.conf");
        assert_eq!(snapshot(lab), before);
        assert!(lab.dir.join("postdown").exists());
        let again = lab.sh(&format!("{VOLLEY} down ./wg0.conf"));
        assert!(String::from_utf8_lossy(&again.stderr).contains("`wg0` is not running"), "{again:?}");
    });
}

/// Number 6.
#[test]
fn the_next_up_undoes_what_a_killed_daemon_left() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        let before = killed(lab);
        let text = said(lab, "up ./wg0.conf");
        assert!(text.contains("undoing what an earlier `wg0` has left"), "{text}");
        let rules = lab.run("ip rule; ip -6 rule");
        assert_eq!(rules.matches("proto 118").count(), 4, "{rules}");
        said(lab, "down ./wg0.conf");
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 6, and 8: the name servers, too.
#[test]
fn down_needs_no_file_for_what_a_killed_daemon_left() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        let before = killed(lab);
        fs::remove_file(lab.dir.join("wg0.conf")).expect("removed");
        let text = said(lab, "down wg0");
        assert!(text.contains("`wg0` goes without its hooks"), "{text}");
        assert_eq!(snapshot(lab), before);
        assert!(!lab.dir.join("postdown").exists());
    });
}

/// Number 6.
#[test]
fn down_needs_no_file_that_parses() {
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", INTERFACE, "0.0.0.0/0, ::/0");
        said(lab, "up ./wg0.conf");
        lab.run("echo Adress = 10.1.0.1 >> wg0.conf");
        let text = said(lab, "down ./wg0.conf");
        assert!(text.contains("`wg0` goes without its hooks") && text.contains("wg0.conf: line "), "{text}");
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 6: what the unit runs when its daemon has ended, however it did.
#[test]
fn leftovers_go_and_what_runs_stays() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        let before = killed(lab);
        said(lab, "down --leftovers ./wg0.conf");
        assert_eq!(snapshot(lab), before);
        said(lab, "down --leftovers ./wg0.conf");
        said(lab, "up ./wg0.conf");
        said(lab, "down --leftovers ./wg0.conf");
        lab.run("wg show wg0 && ip link show wg0");
        said(lab, "down ./wg0.conf");
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 6: a name that a stranger's interface has meanwhile.
#[test]
fn down_leaves_a_strangers_interface_that_has_the_name_by_now() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        killed(lab);
        lab.run("ip link add wg0 type veth peer name peer0");
        said(lab, "down ./wg0.conf");
        lab.run("ip link show wg0");
        assert!(!lab.run("ip rule").contains("proto 118"));
    });
}

/// Number 6: where nothing speaks of the killed daemon but its rules.
#[test]
fn rules_whose_record_is_lost_are_not_doubled() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        let before = killed(lab);
        lab.run("rm /run/wireguard/wg0.*");
        said(lab, "up ./wg0.conf");
        let rules = lab.run("ip rule; ip -6 rule");
        assert_eq!(rules.matches("proto 118").count(), 4, "{rules}");
        said(lab, "down ./wg0.conf");
        // Nobody remembers what this was.
        lab.run("echo 0 > /proc/sys/net/ipv4/conf/all/src_valid_mark");
        assert_eq!(snapshot(lab), before);
    });
}

/// What cannot be undone stops nothing else, is told, and is left for the next time.
#[test]
fn the_interface_goes_though_the_firewall_would_not() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", INTERFACE, "0.0.0.0/0, ::/0");
        said(lab, "up ./wg0.conf");
        lab.file("nft", "#!/bin/sh\nexit 5\n");
        lab.run("mkdir broken; chmod 755 nft; mv nft broken");
        let failed = lab.sh("PATH=$DIR/broken:$PATH:$DIR/tools volley down ./wg0.conf");
        let text = String::from_utf8_lossy(&failed.stderr);
        assert!(!failed.status.success() && text.contains("cannot remove the firewall with nft"), "{text}");
        assert!(!socket("wg0").exists() && !lab.sh("ip link show wg0").status.success());
        assert!(!lab.run("ip rule; ip -6 rule; ls dns").contains("118"));
        assert!(lab.dir.join("postdown").exists());
        assert_ne!(snapshot(lab), before, "the firewall is there");
        said(lab, "down ./wg0.conf");
        assert_eq!(snapshot(lab), before);
    });
}

/// What is left is written down anew when a `down` could not undo it. Killed meanwhile, it loses nothing of that.
#[test]
fn a_death_while_the_record_is_written_anew_loses_nothing() {
    const RECORD: &str = "/var/run/wireguard/wg0.journal";
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(&[TOOLS, &["strace"]].concat(), |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", INTERFACE, "0.0.0.0/0, ::/0");
        lab.file("nft", "#!/bin/sh\nexit 5\n");
        lab.run("mkdir broken; chmod 755 nft; mv nft broken");
        let mut killed = 0;
        for nth in 1.. {
            said(lab, "up ./wg0.conf");
            let down = lab.sh(&format!(
                "export PATH=$DIR/broken:$PATH:$DIR/tools; exec strace -qqq -o /dev/null -P {RECORD} -P {RECORD}-new \
                 -e inject=openat,unlink,unlinkat,rename,renameat2:signal=KILL:when={nth} {} down ./wg0.conf",
                lab.program()
            ));
            assert_ne!(snapshot(lab), before, "the firewall is there");
            said(lab, "down ./wg0.conf");
            assert_eq!(snapshot(lab), before, "killed at call {nth} of the record: {down:?}");
            if down.status.code() == Some(1) {
                break; // it came to its end
            }
            killed += 1;
        }
        assert!(killed >= 3, "killed {killed} times");
    });
}

/// Who waits in vain for somebody's program can end it, and the rest is undone.
#[test]
fn the_interface_goes_though_the_firewalls_program_hangs() {
    if Environment::Pid1.rules_out(CLEANS_UP) {
        return;
    }
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24\nDNS = 192.0.2.53", "0.0.0.0/0, ::/0");
        said(lab, "up ./wg0.conf");
        lab.file("nft", "#!/bin/sh\ntouch $DIR/hangs\nexec sleep 60\n");
        lab.run("mkdir broken; chmod 755 nft; mv nft broken");
        let script = "export PATH=$DIR/broken:$PATH:$DIR/tools; exec volley down ./wg0.conf";
        let mut down = lab.command("sh", &["-c", script]);
        let mut down = down.stderr(Stdio::piped()).spawn().expect("sh runs");
        eventually("nft hangs", || lab.dir.join("hangs").exists());
        lab.run(&format!("kill -INT {}", lab.daemon_process(&down)));
        eventually("it ends", || down.try_wait().expect("a child").is_some());
        let text = String::from_utf8(down.wait_with_output().expect("a child").stderr).expect("text");
        assert!(text.contains("nft took too long"), "{text}");
        assert!(!socket("wg0").exists() && !lab.sh("ip link show wg0").status.success());
        assert!(!lab.run("ip rule; ip -6 rule; ls dns").contains("118"));
        said(lab, "down ./wg0.conf");
        assert_eq!(snapshot(lab), before);
    });
}

/// The interface of a daemon that makes no sense goes all the same.
#[test]
fn the_interface_goes_though_its_daemon_does_not_answer() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", "0.0.0.0/0");
        lab.run("ip tuntap add wg0 mode tun");
        let listener = UnixListener::bind(socket("wg0")).expect("a socket");
        thread::spawn(move || listener.incoming().for_each(drop));
        let failed = lab.sh(&format!("{VOLLEY} down ./wg0.conf"));
        let text = String::from_utf8_lossy(&failed.stderr);
        assert!(!failed.status.success() && text.contains("cannot read the mark"), "{text}");
        assert!(!lab.sh("ip link show wg0").status.success());
    });
}

/// A record is as good as whoever could write it.
#[test]
fn a_record_that_others_could_write_is_not_obeyed() {
    lab(TOOLS, |lab| {
        network(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", "10.99.0.0/16");
        lab.run("echo rubbish > /run/wireguard/wg0.journal; chmod 666 /run/wireguard/wg0.journal");
        let refused = lab.sh(&format!("{VOLLEY} up ./wg0.conf"));
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(
            text.contains("cannot read the record") && text.contains("others may have written it"),
            "{text}"
        );
        assert!(!lab.sh("ip link show wg0").status.success());
    });
}

/// Number 12.
#[test]
fn down_ends_a_tunnel_whose_interface_is_in_another_namespace() {
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", "Address = 10.1.0.1/24", "0.0.0.0/0");
        said(lab, "up ./wg0.conf");
        lab.run("ip netns add elsewhere; ip link set wg0 netns elsewhere");
        // A stranger's takes its name.
        lab.run("ip link add wg0 type veth peer name peer0");
        let text = said(lab, "down ./wg0.conf");
        assert!(text.contains("`wg0` is not in this network namespace"), "{text}");
        assert!(!socket("wg0").exists());
        eventually("it is gone there, too", || !lab.sh("ip -n elsewhere link show wg0").status.success());
        lab.run("ip link del wg0; ip netns del elsewhere");
        assert_eq!(snapshot(lab), before);
    });
}

/// Number 12, without a record.
#[test]
fn down_ends_a_daemon_whose_interface_is_in_another_namespace() {
    lab(TOOLS, |lab| {
        network(lab);
        let mut daemon = lab.daemon("wg0", &["run"]);
        lab.file("wg0.conf", &format!("[Interface]\nPrivateKey = {}\n", keys(lab).0));
        lab.run("ip netns add elsewhere; ip link set wg0 netns elsewhere; ip link add wg0 type veth peer name peer0");
        let text = said(lab, "down ./wg0.conf");
        assert!(text.contains("is not in this network namespace"), "{text}");
        assert!(daemon.ends_within(common::PATIENCE));
        lab.run("ip link show wg0");
    });
}

/// Number 13: as the second process of a container, under an init.
#[test]
fn in_the_foreground_up_stays_and_takes_down_when_it_is_asked_to_end() {
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", &format!("{INTERFACE}\nPostUp = touch $DIR/postup"), "0.0.0.0/0, ::/0");
        for (switch, variable) in [("-f", ""), ("--foreground", ""), ("", "WG_PROCESS_FOREGROUND=1")] {
            for signal in ["INT", "TERM", "HUP"] {
                let script =
                    format!("export PATH=$PATH:$DIR/tools {variable}; exec volley up {switch} ./wg0.conf");
                let mut up = lab.command("sh", &["-c", &script]).spawn().expect("sh runs");
                eventually("it is up", || lab.dir.join("postup").exists());
                eventually("its record is complete", || {
                    lab.sh("grep -q complete /run/wireguard/wg0.journal").status.success()
                });
                assert!(up.try_wait().expect("a child").is_none(), "it stays");
                lab.run(&format!("kill -{signal} {}", lab.daemon_process(&up)));
                eventually("it ends", || {
                    up.try_wait().expect("a child").is_some_and(|status| status.success())
                });
                assert_eq!(snapshot(lab), before, "{switch} {variable} {signal}");
                lab.run("rm postup postdown");
            }
        }
    });
}

/// Number 13: it notices the daemon's death, too.
#[test]
fn in_the_foreground_up_cleans_up_after_a_daemon_that_is_killed() {
    lab(TOOLS, |lab| {
        network(lab);
        let before = snapshot(lab);
        tunnel(lab, "wg0", INTERFACE, "0.0.0.0/0, ::/0");
        let script = "export PATH=$PATH:$DIR/tools; exec volley up -f ./wg0.conf";
        let mut up = lab.command("sh", &["-c", script]).spawn().expect("sh runs");
        eventually("it is up", || lab.sh("grep -q complete /run/wireguard/wg0.journal").status.success());
        kill_daemon("wg0");
        eventually("it ends", || up.try_wait().expect("a child").is_some_and(|status| !status.success()));
        assert_eq!(snapshot(lab), before);
        assert!(lab.dir.join("postdown").exists());
    });
}
