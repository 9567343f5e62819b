//! The system around tunnels: what `up` changes of it, as one text to compare; and the strangers that stand by.

use std::{fs, os::unix::net::UnixStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::{Lab, SOCKET_DIR, keys, socket};

/// Keeps entries as files, and obeys like openresolv.
const RESOLVCONF: &str = r#"#!/bin/sh
case "$1" in
-a) cat > "$DIR/dns/$2" ;;
-d) rm -f "$DIR/dns/$2" ;;
esac
"#;

/// A LAN that is up, an uplink by it, and a resolvconf.
pub(crate) fn network(lab: &Lab) {
    lab.run(
        "ip link add lan0 type veth peer name lan1; ip addr add 192.0.2.1/24 dev lan0; \
         for link in lan0 lan1; do echo 1 > /proc/sys/net/ipv6/conf/$link/disable_ipv6; ip link set $link up; done; ip route add default via 192.0.2.254",
    );
    super::eventually("the LAN is up", || !lab.run("ip route show table all").contains("linkdown"));
    lab.file("resolvconf", RESOLVCONF);
    lab.run("mkdir dns tools; chmod 755 resolvconf; mv resolvconf tools");
}

/// Rules, a table, an interface and a firewall of others, and more than one of each kind.
pub(crate) fn strangers(lab: &Lab) {
    lab.run(
        "ip rule add not fwmark 777 lookup 777; ip route add default via 192.0.2.254 table 777; \
         ip rule add not fwmark 0x6d6f6c65 lookup 51820; ip rule add lookup main suppress_prefixlength 0; \
         ip -6 rule add lookup main suppress_prefixlength 0; ip rule add priority 100 from 192.0.2.77 lookup 78; \
         ip link add stranger type veth peer name other; nft add table ip wg-quick-stranger; \
         echo 'nameserver 192.0.2.9' > dns/stranger",
    );
}

/// Everything that `up` may change, sorted where the kernel's order means nothing.
pub(crate) fn snapshot(lab: &Lab) -> String {
    let system = lab.run(
        "ip rule; ip -6 rule; (ip route show table all; ip -6 route show table all) | sed 's/ pref medium//' | sort; \
         ip -br link | sed 's/@.*//' | awk '{print $1}' | sort; nft list ruleset | sed 's/fe80[^ ]*/LINKLOCAL/'; \
         cat /proc/sys/net/ipv4/conf/all/src_valid_mark; cd dns && grep -r . . | sort",
    );
    let files =
        fs::read_dir(SOCKET_DIR).expect("the directory").map(|entry| entry.expect("an entry").file_name());
    let mut files: Vec<_> = files.filter_map(|file| file.into_string().ok()).collect();
    // Who waits for it may have it open, so it stays.
    files.retain(|file| file != "routing-of-all-volleys.lock" && file != "volley");
    files.sort();
    format!("{system}{}\n", files.join("\n"))
}

/// A configuration file of a tunnel to `allowed`.
pub(crate) fn tunnel(lab: &Lab, name: &str, interface: &str, allowed: &str) {
    let ((private, _), (_, public)) = (keys(lab), keys(lab));
    let text = format!(
        "[Interface]\nPrivateKey = {private}\n{interface}\n\
         [Peer]\nPublicKey = {public}\nEndpoint = 192.0.2.2:9\nAllowedIPs = {allowed}\n"
    );
    lab.file(&format!("{name}.conf"), &text);
}

/// `volley`, with the tools of [`network`].
pub(crate) const VOLLEY: &str = "PATH=$PATH:$DIR/tools volley";

/// The daemon's process, as its socket tells it.
pub(crate) fn daemon_of(name: &str) -> i32 {
    let stream = UnixStream::connect(socket(name)).expect("the daemon answers");
    getsockopt(&stream, PeerCredentials).expect("its credentials").pid()
}

/// Kills a daemon so that it cannot do anything more, and waits until it is gone.
pub(crate) fn kill_daemon(name: &str) {
    let process = daemon_of(name);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    // The directory is of this thread's namespace.
    let interface = format!("/proc/thread-self/net/dev_snmp6/{name}");
    super::eventually("its interface is gone", || !fs::exists(&interface).unwrap_or(true));
}
