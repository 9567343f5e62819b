//! Leaving the caller's terminal: ready means ready, and nothing of the caller's is held.

mod common;

use std::{
    fs,
    io::Read,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Stdio,
};

use common::{eventually, lab, socket};
use netlab::Environment;

/// Why leaving is nothing that a first process does.
const STAYS: &str = "a container's first process stays in the foreground: the container would end with it";

/// The process that answers for `wg0`.
fn daemon_pid(lab: &common::Lab) -> String {
    let found = lab.run("pgrep -x -f '.*volley.* wg0' --ns $$ --nslist net || true");
    found.split_whitespace().next().expect("a daemon").to_owned()
}

#[test]
fn the_parent_returns_when_interface_and_socket_are_ready() {
    if Environment::Pid1.rules_out(STAYS) {
        return;
    }
    lab(&["wg", "ip", "pgrep"], |lab| {
        let started = lab.volley(&["wg0"]).output().expect("it runs");
        assert!(started.status.success(), "{started:?}");
        lab.run("wg show wg0 && ip link show wg0");
        let pid = daemon_pid(lab);
        let session = lab.run(&format!("ps -o sid= -p {pid}"));
        assert_eq!(session.trim(), pid, "it leads a session of its own");
        for fd in 0..3 {
            let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("open");
            assert_eq!(target.to_str(), Some("/dev/null"), "fd {fd}");
        }
        lab.run("ip link delete wg0");
        eventually("it ends", || !socket("wg0").exists());
    });
}

#[test]
fn the_callers_pipes_are_closed_when_the_parent_returns() {
    if Environment::Pid1.rules_out(STAYS) {
        return;
    }
    lab(&["ip"], |lab| {
        // `output` itself waits for the end of stdout and stderr; fd 7 is a pipe that nobody named.
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let path = format!("/proc/self/fd/{}", write.as_raw_fd());
        let script = format!("exec 7> {path}; exec volley wg0");
        let mut command = lab.command("sh", &["-c", &script]);
        // The shell opens the pipe by the number that it inherits from us.
        nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
            .expect("inherited");
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        drop(write);
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("set");
        eventually("the pipe ends", || matches!(read.read(&mut [0]), Ok(0)));
        lab.run("ip link delete wg0");
    });
}

#[test]
fn the_childs_error_reaches_the_callers_terminal() {
    lab(&["ip"], |lab| {
        lab.run("ip link add wg0 type veth peer name other");
        let failed = lab.volley(&["wg0"]).output().expect("it runs");
        assert_eq!(failed.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&failed.stderr).matches("volley: ").count(), 1, "{failed:?}");
    });
}

#[test]
fn the_environment_keeps_it_in_the_foreground() {
    lab(&["ip"], |lab| {
        let mut command = lab.volley(&["wg0"]);
        let mut child =
            command.env("WG_PROCESS_FOREGROUND", "1").stderr(Stdio::null()).spawn().expect("it runs");
        // Ready, not only begun: a start whose interface is deleted is a failed one.
        eventually("it is ready", || lab.sh("volley show wg0").status.success());
        assert!(child.try_wait().expect("a child").is_none());
        lab.run("ip link delete wg0");
        eventually("it ends", || child.try_wait().expect("a child").is_some_and(|status| status.success()));
    });
}

#[test]
fn an_empty_environment_and_no_terminal_suffice() {
    lab(&["wg", "setsid"], |lab| {
        lab.run(&format!("setsid env -i {} wg0 </dev/null", lab.program()));
        lab.run("wg show wg0; ip link delete wg0");
    });
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    if Environment::Pid1.rules_out("a container's runtime opens all three for its first process") {
        return;
    }
    lab(&["wg"], |lab| {
        lab.run("volley wg0 <&- >&- 2>&-");
        lab.run("wg show wg0; ip link delete wg0");
    });
}

#[test]
fn descriptors_handed_on_by_number_are_used() {
    lab(&["python3", "wg", "ip"], |lab| {
        // The daemon's own program is the simplest thing that can neither make nor name an interface.
        lab.file("hand.py", HAND_ON);
        let mut command = lab.command("python3", &["hand.py", &lab.program()]);
        command.process_group(0);
        let mut child = command.stderr(Stdio::null()).spawn().expect("python runs");
        eventually("it answers", || lab.sh("wg show handed0").status.success());
        assert!(lab.run("ip link show handed0").contains("mtu 1234 "), "its MTU is left alone");
        lab.run("ip link delete handed0");
        eventually("it ends", || child.try_wait().expect("a child").is_some_and(|status| status.success()));
        assert!(!socket("handed0").exists());
    });
}

/// Opens a TUN device and a listening socket, and starts the daemon on both.
const HAND_ON: &str = r#"
import fcntl, os, socket, struct, subprocess, sys
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR, TUNSETIFF = 1, 0x1000, 0x4000, 0x400454ca
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"handed0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
subprocess.check_call(["ip", "link", "set", "handed0", "mtu", "1234"])
uapi = socket.socket(socket.AF_UNIX)
uapi.bind("/run/wireguard/handed0.sock")
uapi.listen()
os.set_inheritable(tun, True)
uapi.set_inheritable(True)
os.environ.update(WG_TUN_FD=str(tun), WG_UAPI_FD=str(uapi.fileno()), WG_PROCESS_FOREGROUND="1")
os.execv(sys.argv[1], ["volley", "handed0"])
"#;
