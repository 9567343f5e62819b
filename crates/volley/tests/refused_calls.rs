//! System calls that a kernel does not have, or a seccomp filter forbids, from the start or later: the daemon goes on
//! without them, or ends with a line that names them. It never goes deaf.

use std::time::Duration;

use netlab::{Daemon, Host, Implementation, Need, Side, Tunnel, TunnelBuilder, clock, ping};

/// Injects a failure into the daemon's system calls, in strace(1)'s words.
fn with(failure: &str, arguments: &str) -> Implementation {
    let volley = env!("CARGO_BIN_EXE_volley");
    let command =
        format!("strace -f -qq -I 2 -o /dev/null {failure} {volley} {arguments} --foreground {{iface}}");
    Implementation::template("volley", &command).expect("a command")
}

fn volley() -> Implementation {
    Implementation::volley(env!("CARGO_BIN_EXE_volley").as_ref(), &[])
}

fn injected(call: &str, errno: &str, when: &str) -> String {
    format!("-e trace={call} -e inject={call}:error={errno}{when}")
}

fn tunnel(failure: &str) -> Tunnel {
    TunnelBuilder::new(&with(failure, ""), &volley()).start().expect("a tunnel")
}

fn assert_pings(tunnel: &Tunnel, count: usize) {
    for address in [Side::B.inner_v4(), Side::B.inner_v6()] {
        let report = ping(tunnel.host(Side::A), address, count, Duration::ZERO).expect("pings");
        assert_eq!(report.received(), report.sent());
    }
}

fn lines_with(daemon: &Daemon, words: &str) -> usize {
    daemon.output().lines().filter(|line| line.contains(words)).count()
}

/// Calls for which there is another way: the tunnel works, and says that it makes do.
fn makes_do_without_recvmmsg(errno: &str, when: &str) {
    netlab::require!(Need::Namespaces, Need::Program("strace"));
    let tunnel = tunnel(&injected("recvmmsg", errno, when));
    assert_pings(&tunnel, 150);
    let daemon = tunnel.daemon(Side::A);
    assert_eq!(lines_with(daemon, "recvmmsg is refused"), 1, "{}", daemon.output());
}

#[test]
fn without_recvmmsg_from_the_start_the_plain_call_receives() {
    makes_do_without_recvmmsg("ENOSYS", "");
}

#[test]
fn when_recvmmsg_is_forbidden_later_the_plain_call_receives() {
    makes_do_without_recvmmsg("EPERM", ":when=200+");
}

/// Calls that only make things better.
#[test]
fn without_what_only_makes_it_faster_the_tunnel_works() {
    netlab::require!(Need::Namespaces, Need::Program("strace"));
    let calls = "sched_setscheduler,sched_getscheduler,timerfd_create,timerfd_settime,inotify_init1";
    assert_pings(&tunnel(&injected(calls, "EPERM", "")), 10);
}

/// Calls without which there is nothing to do: the daemon ends and says why, whenever that comes.
fn ends_and_says_why(failure: &str, arguments: &str, words: &str) {
    netlab::require!(Need::Namespaces, Need::Program("strace"));
    let tunnel = TunnelBuilder::new(&with(failure, arguments), &volley()).start().expect("a tunnel");
    let end = clock::now() + Duration::from_secs(20);
    let (host, daemon) = (tunnel.host(Side::A), tunnel.daemon(Side::A));
    while lines_with(daemon, words) == 0 {
        assert!(clock::now() < end, "it goes on, and says {:?}", daemon.output());
        let _ = ping(host, Side::B.inner_v4(), 10, Duration::ZERO);
    }
    while daemon.uapi().answers(host) {
        assert!(clock::now() < end, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn when_receiving_is_forbidden_altogether_the_daemon_ends_and_says_why() {
    let failure = injected("recvmmsg,recvmsg", "EPERM", ":when=200+");
    ends_and_says_why(&failure, "", "refuses recvmmsg and recvmsg");
}

#[test]
fn when_sending_is_gone_the_daemon_ends_and_says_why() {
    ends_and_says_why(&injected("sendmsg", "ENOSYS", ":when=100+"), "", "refuses sendmsg");
}

#[test]
fn when_waiting_is_forbidden_the_daemon_ends_and_says_why() {
    ends_and_says_why(&injected("/^epoll_p?wait$", "EPERM", ":when=400+"), "", "cannot wait");
}

/// On the TUN device alone.
fn on_the_tun(call: &str) -> String {
    format!("-P /dev/net/tun {}", injected(call, "EPERM", ":when=100+"))
}

#[test]
fn when_the_tun_cannot_be_read_the_daemon_ends_and_says_why() {
    for arrangement in ["--arrangement=inline", "--arrangement=tun-threads"] {
        ends_and_says_why(&on_the_tun("read"), arrangement, "the TUN device failed");
    }
}

#[test]
fn when_the_tun_cannot_be_written_the_daemon_ends_and_says_why() {
    for arrangement in ["--arrangement=inline", "--arrangement=tun-threads"] {
        ends_and_says_why(&on_the_tun("write"), arrangement, "the TUN device failed");
    }
}

/// A firewall that forbids sending looks the same as a filter of system calls, and may be temporary.
#[test]
fn when_sending_is_forbidden_it_is_said_once_and_the_daemon_goes_on() {
    netlab::require!(Need::Namespaces, Need::Program("strace"));
    let tunnel = tunnel(&injected("sendmsg", "EPERM", ":when=100..103"));
    let end = clock::now() + Duration::from_secs(20);
    let (host, daemon): (&Host, _) = (tunnel.host(Side::A), tunnel.daemon(Side::A));
    while lines_with(daemon, "forbids sending") == 0 {
        assert!(clock::now() < end, "it says {:?}", daemon.output());
        let _ = ping(host, Side::B.inner_v4(), 10, Duration::ZERO);
    }
    while ping(host, Side::B.inner_v4(), 10, Duration::ZERO).is_ok_and(|report| report.received() < 10) {
        assert!(clock::now() < end, "it sends nothing");
    }
    assert_eq!(lines_with(daemon, "forbids sending"), 1, "{}", daemon.output());
}
