//! As an ordinary user who is root of a user namespace: rootless containers, and `unshare -rnm`.

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _};

use common::{Lab, NOBODY, keys, lab};

const TOOLS: &[&str] = &["ip", "mount", "mknod", "setpriv", "unshare", "wg"];

/// Runs a script as root of a new user namespace, made by a user without rights: `$VOLLEY` may be run there, /run is
/// its own and /dev/net/tun is open to all. Gives what it wrote to its stdout.
#[track_caller]
fn rootless(lab: &Lab, unshare: &str, script: &str) -> String {
    let directory = lab.dir.display();
    lab.run(&format!(
        "mount -t tmpfs none /dev/net && mknod -m 0666 /dev/net/tun c 10 200 && chmod 0755 {directory}"
    ));
    let program = lab.dir.join("volley");
    fs::copy(env!("CARGO_BIN_EXE_volley"), &program).expect("copied");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let inside = format!(
        "set -e; VOLLEY={}; mount -t tmpfs none /run; mkdir /run/wireguard; cd /run\n{script}",
        program.display()
    );
    let mut command = lab.command("setpriv", &[]);
    command.args(NOBODY.split(' ')).args([
        "unshare",
        unshare,
        "--kill-child",
        "--fork",
        "--pid",
        "--mount-proc",
    ]);
    let output = command.args(["sh", "-c", &inside]).output().expect("setpriv runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_daemon_and_the_doctor_work_as_they_do_for_root() {
    lab(TOOLS, |lab| {
        let said = rootless(
            lab,
            "-rnm",
            "$VOLLEY wg0 && ip -o link show wg0
             ip link set lo up && $VOLLEY doctor --port 51820
             wg set wg0 listen-port 5300 && wg show wg0 listen-port && ip link delete wg0",
        );
        assert!(said.contains("mtu 1420") && said.contains("qlen 2000"), "{said}");
        assert!(said.contains("PASS  TUN offloads") && !said.contains("FAIL"), "{said}");
        assert!(said.ends_with("5300\n"), "{said}");
    });
}

#[test]
fn up_and_down_work_as_they_do_for_root() {
    lab(TOOLS, |lab| {
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        let config = format!(
            "[Interface]\\nPrivateKey = {private}\\nAddress = 10.7.0.1/24, fd07::1/64\\nMTU = 1300\\n\
             [Peer]\\nPublicKey = {peer}\\nAllowedIPs = 10.8.0.0/16\\n"
        );
        let said = rootless(
            lab,
            "-rnm",
            &format!(
                "umask 077 && printf '{config}' >wg0.conf
                 $VOLLEY up ./wg0.conf && ip -o addr show wg0 && ip route && $VOLLEY down ./wg0.conf
                 if ip link show wg0 2>&1; then exit 1; fi"
            ),
        );
        for part in ["inet 10.7.0.1/24", "inet6 fd07::1/64", "10.8.0.0/16 dev wg0", "does not exist"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    });
}

/// As wg-quick ends a daemon, and where a container may have no more watches.
#[test]
fn without_inotify_the_sockets_removal_still_ends_the_daemon() {
    lab(TOOLS, |lab| {
        let said = rootless(
            lab,
            "-rnm",
            "echo 0 >/proc/sys/user/max_inotify_instances
             $VOLLEY -f wg0 2>log & daemon=$!
             for turn in $(seq 1000); do wg show wg0 >/dev/null 2>&1 && break; sleep 0.01; done
             rm wireguard/wg0.sock && wait $daemon && cat log",
        );
        assert!(
            said.contains("is looked at every second") && said.contains("its socket was removed"),
            "{said}"
        );
    });
}

/// The rights are there, but not over the network: no daemon could start.
#[test]
fn the_doctor_sees_that_the_network_belongs_to_another_user_namespace() {
    lab(TOOLS, |lab| {
        let said =
            rootless(lab, "-rm", "if $VOLLEY wg0 2>/dev/null || $VOLLEY doctor 2>/dev/null; then exit 1; fi");
        assert!(said.contains("FAIL  privileges") && said.contains("another user namespace"), "{said}");
        assert!(said.contains("unshare --user --map-root-user --net"), "{said}");
    });
}
