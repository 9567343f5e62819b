//! The checks. Each looks, or has a probe look, and judges; the judging is pure where there is much of it.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use caps::{CapSet, Capability};
use io_runtime::{KernelRelease, UDP_RECV_BUFFER, UDP_SEND_BUFFER};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        utsname::uname,
    },
    unistd::{AccessFlags, eaccess},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Check, tun, udp};
use crate::{
    programs::is_installed,
    quick,
    show::interfaces,
    uapi::{SOCKET_DIR, directory_fix},
};

/// The highest releases that do not corrupt trains and come after those that do.
const MENDED_KERNEL: &str = "Linux 7.1.5";

/// All checks, in the order in which they explain each other.
pub(super) fn all(port: Option<u16>) -> Vec<Check> {
    let release = release();
    let trusted = !KernelRelease::parse(&release).is_some_and(KernelRelease::corrupts_gso);
    let train = udp::probe();
    let mut checks = vec![
        privileges(),
        tun_device(),
        tun::judge(tun::probe()),
        proc(Path::new("/proc/self/exe").exists()),
        kernel(&release, trusted),
        udp::judge_gso(&train, trusted),
        udp::judge_gro(&train),
        socket_buffers(),
    ];
    checks.extend(port.map(listen_port));
    checks.extend([ipv6(), kernel_module(&release), wireguard_tools(), firewall()]);
    checks.extend(tunnels());
    checks.push(socket_directory());
    checks
}

fn release() -> String {
    uname().map_or_else(|_| String::new(), |uname| uname.release().to_string_lossy().into_owned())
}

fn privileges() -> Check {
    const NAME: &str = "privileges";
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(true) if is_denied(&tun::may_change_links()) => Check::fail(
            NAME,
            "CAP_NET_ADMIN is effective, but not in this network: it belongs to another user namespace",
            "make a network in the same step as the user namespace (unshare --user --map-root-user --net), or run as \
             root outside of it",
        ),
        Ok(true) => Check::pass(NAME, "CAP_NET_ADMIN is effective"),
        Ok(false) => Check::fail(
            NAME,
            "CAP_NET_ADMIN is not effective: no interface can be made",
            "run as root (sudo, or systemctl start volley@NAME); in a container: --cap-add NET_ADMIN",
        ),
        Err(error) => {
            Check::warn(NAME, format!("not checked: {error}"), "mount /proc, or see `capsh --print`")
        }
    }
}

fn is_denied(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn tun_device() -> Check {
    const NAME: &str = "TUN device";
    match tun_device::check_device() {
        Ok(()) => Check::pass(NAME, "/dev/net/tun opens"),
        Err(error) => Check::fail(NAME, error.to_string(), error.fix().unwrap_or("run as root")),
    }
}

fn proc(is_mounted: bool) -> Check {
    const NAME: &str = "/proc";
    match is_mounted {
        true => Check::pass(NAME, "is mounted"),
        false => Check::fail(
            NAME,
            "is not mounted: no daemon can be started in the background, nor `volley up` be used",
            "mount -t proc proc /proc",
        ),
    }
}

fn kernel(release: &str, trusted: bool) -> Check {
    const NAME: &str = "kernel";
    if trusted {
        return Check::pass(NAME, format!("Linux {release}"));
    }
    Check::warn(
        NAME,
        format!("Linux {release} corrupts UDP GSO trains, as 7.0 to 7.1.4 do: Volley goes without UDP GSO"),
        format!("update to {MENDED_KERNEL} or later"),
    )
}

fn socket_buffers() -> Check {
    const NAME: &str = "socket buffers";
    match granted_buffers() {
        Ok((send, receive, forced)) => judge_buffers(send, receive, forced),
        Err(error) => Check::fail(
            NAME,
            format!("no UDP socket can be made: {error}"),
            "allow AF_INET sockets: look at seccomp filters and RestrictAddressFamilies=",
        ),
    }
}

/// What a socket gets that asks as the daemon asks: send, receive, and whether the limits were overridden.
fn granted_buffers() -> io::Result<(usize, usize, bool)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    let forced = setsockopt(&socket, sockopt::RcvBufForce, &UDP_RECV_BUFFER).is_ok()
        && setsockopt(&socket, sockopt::SndBufForce, &UDP_SEND_BUFFER).is_ok();
    if !forced {
        socket.set_recv_buffer_size(UDP_RECV_BUFFER)?;
        socket.set_send_buffer_size(UDP_SEND_BUFFER)?;
    }
    // The kernel doubles what it grants, for its own bookkeeping (socket(7)).
    Ok((socket.send_buffer_size()? / 2, socket.recv_buffer_size()? / 2, forced))
}

fn judge_buffers(send: usize, receive: usize, forced: bool) -> Check {
    const NAME: &str = "socket buffers";
    let kib = |bytes: usize| bytes >> 10;
    let granted = format!("{} KiB to send, {} KiB to receive", kib(send), kib(receive));
    if send >= UDP_SEND_BUFFER && receive >= UDP_RECV_BUFFER {
        let how = if forced { "whatever net.core's limits are" } else { "within net.core's limits" };
        return Check::pass(NAME, format!("{granted}, {how}"));
    }
    Check::warn(
        NAME,
        format!(
            "{granted}; with {} and {} a peer behind a slow link keeps its whole queue, and no burst is lost",
            kib(UDP_SEND_BUFFER),
            kib(UDP_RECV_BUFFER)
        ),
        format!("sysctl -w net.core.wmem_max={UDP_SEND_BUFFER} net.core.rmem_max={UDP_RECV_BUFFER}"),
    )
}

fn listen_port(port: u16) -> Check {
    const NAME: &str = "port";
    let anywhere: [SocketAddr; 2] =
        [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    // Both at once, as the daemon has them.
    let bound = anywhere.map(bind);
    let error = bound.into_iter().filter_map(Result::err).find(|error| !is_family_missing(error));
    let Some(error) = error else { return Check::pass(NAME, format!("UDP port {port} is free")) };
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => "choose a port above 1023, or run as root".to_owned(),
        _ => format!("choose another port, or see who has it: ss -ulpn 'sport = :{port}'"),
    };
    Check::fail(NAME, format!("UDP port {port} cannot be had: {error}"), fix)
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The daemon goes without a family that the machine does not have.
fn is_family_missing(error: &io::Error) -> bool {
    let missing = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| missing.contains(&Errno::from_raw(code)))
}

fn ipv6() -> Check {
    const NAME: &str = "IPv6";
    match bind((Ipv6Addr::UNSPECIFIED, 0).into()) {
        Ok(_) => Check::pass(NAME, "peers can be reached by it"),
        Err(error) => Check::warn(
            NAME,
            format!("peers can be reached by IPv4 alone: {error}"),
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0, if the kernel was not started with ipv6.disable=1",
        ),
    }
}

fn kernel_module(release: &str) -> Check {
    let loaded = Path::new("/sys/module/wireguard").exists();
    let listed = |list: &str| {
        let list = fs::read_to_string(Path::new("/lib/modules").join(release).join(list));
        list.is_ok_and(|list| mentions_wireguard(&list))
    };
    judge_module(loaded, loaded || listed("modules.builtin") || listed("modules.dep"))
}

/// In a list of modules, as depmod writes it.
fn mentions_wireguard(list: &str) -> bool {
    let modules = list.lines().filter_map(|line| line.split(':').next());
    modules.filter_map(|path| path.rsplit('/').next()).any(|file| file.starts_with("wireguard.ko"))
}

fn judge_module(loaded: bool, available: bool) -> Check {
    const NAME: &str = "kernel module";
    let fix = "`volley up CONF` in place of `wg-quick up CONF`, or keep it out: echo 'install wireguard /bin/false' \
               > /etc/modprobe.d/volley.conf";
    match (loaded, available) {
        (true, _) => {
            Check::warn(NAME, "the kernel's own WireGuard is loaded: wg-quick prefers it to Volley", fix)
        }
        (false, true) => {
            Check::warn(NAME, "the kernel's own WireGuard can be loaded: wg-quick then prefers it", fix)
        }
        (false, false) => Check::pass(NAME, "the kernel has no WireGuard of its own: wg-quick starts Volley"),
    }
}

fn wireguard_tools() -> Check {
    const NAME: &str = "wireguard-tools";
    let missing: Vec<_> = ["wg", "wg-quick"].into_iter().filter(|tool| !is_installed(tool)).collect();
    if missing.is_empty() {
        return Check::pass(NAME, "wg and wg-quick are installed");
    }
    Check::warn(
        NAME,
        format!("not on the PATH: {}", missing.join(" and ")),
        "install the package wireguard-tools, or do without: volley up, show, genkey",
    )
}

/// `volley up` keeps foreign packets away from a tunnel that is the default route, as `wg-quick` does.
fn firewall() -> Check {
    const NAME: &str = "firewall";
    match ["nft", "iptables-restore"].into_iter().find(|tool| is_installed(tool)) {
        Some(tool) => Check::pass(NAME, format!("{tool} is installed, for AllowedIPs = 0.0.0.0/0 and ::/0")),
        None => Check::warn(
            NAME,
            "neither nft nor iptables-restore is on the PATH: `volley up` needs one for AllowedIPs = 0.0.0.0/0 and ::/0",
            "install the package nftables",
        ),
    }
}

/// One for each tunnel of which somebody has removed what keeps its traffic in it.
fn tunnels() -> Vec<Check> {
    let judge = |name: String| {
        let gone = quick::taken_away(&name);
        (!gone.is_empty()).then(|| {
            Check::warn(
                "tunnels",
                format!("`{name}` is up, but others have removed {}", gone.join(", ")),
                format!("volley down {name}, then volley up {name}"),
            )
        })
    };
    interfaces(Path::new(SOCKET_DIR)).into_iter().filter_map(judge).collect()
}

fn socket_directory() -> Check {
    let directory = Path::new(SOCKET_DIR);
    // The daemon makes it if it can.
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let access = match existing.is_dir() {
        true => eaccess(existing, AccessFlags::W_OK | AccessFlags::X_OK),
        false if existing == directory => Err(Errno::EEXIST),
        false => Err(Errno::ENOTDIR),
    };
    judge_directory(existing, access)
}

fn judge_directory(existing: &Path, access: nix::Result<()>) -> Check {
    const NAME: &str = "socket directory";
    let Err(errno) = access else {
        return Check::pass(NAME, format!("{SOCKET_DIR} can be written"));
    };
    let error = io::Error::from(errno);
    let fix = directory_fix(&error);
    Check::fail(NAME, format!("{} cannot be written: {error}", existing.display()), fix)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn a_kernel_that_corrupts_trains_is_warned_of() {
        let check = kernel("7.1.2", false);
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.fix.unwrap().contains("7.1.5"));
        assert_eq!(kernel("6.18.44", true), Check::pass("kernel", "Linux 6.18.44"));
    }

    #[test]
    fn small_buffers_are_a_warning_with_the_limits_to_set() {
        assert_eq!(judge_buffers(UDP_SEND_BUFFER, UDP_RECV_BUFFER, false).outcome, Outcome::Pass);
        for (send, receive) in [(UDP_SEND_BUFFER - 1, UDP_RECV_BUFFER), (UDP_SEND_BUFFER, 212_992)] {
            let check = judge_buffers(send, receive, false);
            assert_eq!(check.outcome, Outcome::Warn);
            assert!(check.fix.unwrap().contains("net.core.rmem_max=4194304"));
        }
    }

    #[test]
    fn a_port_in_use_fails_whichever_family_has_it() {
        for address in ["0.0.0.0:0", "[::1]:0"] {
            let Ok(busy) = UdpSocket::bind(address) else { continue };
            let port = busy.local_addr().unwrap().port();
            let check = listen_port(port);
            assert_eq!(check.outcome, Outcome::Fail, "{check:?}");
            assert!(check.fix.unwrap().contains(&format!("sport = :{port}")));
            drop(busy);
            assert_eq!(listen_port(port).outcome, Outcome::Pass);
        }
    }

    #[test]
    fn the_modules_are_read_as_depmod_writes_them() {
        assert!(mentions_wireguard("kernel/drivers/net/wireguard/wireguard.ko.zst: kernel/net/a.ko.zst\n"));
        assert!(mentions_wireguard("kernel/a.ko\nkernel/drivers/net/wireguard/wireguard.ko\n"));
        assert!(!mentions_wireguard("kernel/b.ko: kernel/drivers/net/wireguard/wireguard.ko\n"));
        assert!(!mentions_wireguard("kernel/drivers/net/wireguard-guard.ko:\n"));
        assert!(!mentions_wireguard(""));
    }

    #[test]
    fn a_kernel_with_wireguard_is_a_warning_and_no_failure() {
        assert_eq!(judge_module(true, true).outcome, Outcome::Warn);
        assert_eq!(judge_module(false, true).outcome, Outcome::Warn);
        assert_eq!(judge_module(false, false).outcome, Outcome::Pass);
    }

    #[test]
    fn a_closed_directory_fails_with_a_fix_for_its_reason() {
        let closed = |errno| judge_directory(Path::new("/run"), Err(errno));
        assert!(closed(Errno::EACCES).found.contains("/run cannot be written"));
        assert!(closed(Errno::EACCES).fix.unwrap().contains("chown"));
        assert!(closed(Errno::EROFS).fix.unwrap().contains("tmpfs"));
        assert_eq!(judge_directory(Path::new("/run"), Ok(())).outcome, Outcome::Pass);
    }
}
