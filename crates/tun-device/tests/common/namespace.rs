//! A network namespace of a test's own, with a TUN interface in it.

use std::{
    fs::File,
    io::{self, Write as _},
    net::{IpAddr, UdpSocket},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    thread,
    time::Duration,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket},
    sys::stat::{Mode, SFlag, mknod},
};
use tun_device::LinuxTun;

const TUN_DEVICE: &str = "/dev/net/tun";

/// Runs `test` on a thread with a network namespace of its own, which ends with the thread, and in it with a TUN device
/// that is root's alone: the machine's may be that, or open to all.
///
/// Where that cannot be, the test says loudly that it did not run; with VOLLEY_REQUIRE_ALL=1 it fails.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("a namespace test").to_owned();
    let body = move || {
        if let Err(why) = prepare() {
            let required = std::env::var_os("VOLLEY_REQUIRE_ALL").is_some_and(|value| value == "1");
            assert!(!required, "{name} cannot run: {why}");
            let line = format!("NOT RUN: {name}: {why}");
            // Past the test harness, which swallows what passing tests print.
            let _ = writeln!(io::stderr(), "\n{line}");
            // Where `cargo xtask test` collects them.
            if let Some(path) = std::env::var_os("VOLLEY_NOT_RUN_FILE") {
                let mut file = File::options().create(true).append(true).open(path).unwrap();
                writeln!(file, "{line}").unwrap();
            }
            return;
        }
        test();
    };
    if let Err(panic) = thread::Builder::new().name("namespace".into()).spawn(body).unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

fn prepare() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("a network namespace needs root: {errno}"))?;
    const NONE: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).map_err(|errno| format!("private mounts: {errno}"))?;
    std::fs::create_dir_all("/dev/net").map_err(|error| format!("/dev/net: {error}"))?;
    mount(Some("tmpfs"), "/dev/net", Some("tmpfs"), MsFlags::empty(), NONE)
        .map_err(|errno| format!("a tmpfs: {errno}"))?;
    mknod(TUN_DEVICE, SFlag::S_IFCHR, Mode::empty(), libc::makedev(10, 200))
        .map_err(|errno| format!("a TUN device: {errno}"))?;
    set_device_mode(0o600);
    File::open(TUN_DEVICE).map(drop).map_err(|error| format!("{TUN_DEVICE}: {error}"))
}

/// Opens the device to others than root, or closes it.
pub(crate) fn set_device_mode(mode: u32) {
    std::fs::set_permissions(TUN_DEVICE, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives an interface an address with its on-link prefix: /24 or /64.
pub(crate) fn add_address(name: &str, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let mut request = interface_request(name);
            let sockaddr = |bits: u32| libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: bits.to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_in` and `sockaddr` have the same size and any bits are valid.
            request.ifr_ifru.ifru_addr = unsafe {
                std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(sockaddr(address.to_bits()))
            };
            interface_ioctl(AddressFamily::Inet, libc::SIOCSIFADDR, &mut request);
            // SAFETY: as above.
            request.ifr_ifru.ifru_netmask =
                unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(sockaddr(0xffff_ff00)) };
            interface_ioctl(AddressFamily::Inet, libc::SIOCSIFNETMASK, &mut request);
        }
        IpAddr::V6(address) => {
            /// `struct in6_ifreq` (linux/ipv6.h).
            #[repr(C)]
            struct In6Request {
                address: [u8; 16],
                prefix_len: u32,
                index: i32,
            }
            let index = interface_index(name);
            let mut request = In6Request { address: address.octets(), prefix_len: 64, index };
            interface_ioctl(AddressFamily::Inet6, libc::SIOCSIFADDR, &mut request);
        }
    }
}

/// Sets an interface up or down.
pub(crate) fn set_up(name: &str, up: bool) {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = if up { (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short } else { 0 };
    interface_ioctl(AddressFamily::Inet, libc::SIOCSIFFLAGS, &mut request);
}

/// Renames an interface that is down.
pub(crate) fn rename(name: &str, to: &str) {
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_newname = interface_request(to).ifr_name;
    interface_ioctl(AddressFamily::Inet, libc::SIOCSIFNAME, &mut request);
}

/// What `ip link delete` sends (RTM_DELLINK, linux/rtnetlink.h).
pub(crate) fn delete_link(name: &str) {
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes()); // nlmsg_len: nlmsghdr and ifinfomsg
    message.extend(libc::RTM_DELLINK.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence and port
    message.extend([0; 4]); // family, padding, type
    message.extend(interface_index(name).to_ne_bytes());
    message.extend([0; 8]); // flags and change
    let flags = SockFlag::SOCK_CLOEXEC;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).unwrap();
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).unwrap();
}

/// Opens a TUN interface as another program might have before handing it over.
pub(crate) fn open_foreign_tun(name: &str, flags: libc::c_int) -> OwnedFd {
    let file = File::options().read(true).write(true).open(TUN_DEVICE).unwrap();
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) }, 0);
    file.into()
}

/// Takes this thread's privileges away, for good.
pub(crate) fn become_nobody() {
    // SAFETY: the raw system call changes this thread's credentials only and touches no memory.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) }, 0);
}

/// A counter of /proc/net/snmp, such as `Tcp` `InCsumErrors`, of this thread's namespace.
pub(crate) fn snmp(protocol: &str, counter: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let rows: Vec<Vec<_>> = table
        .lines()
        .filter(|line| line.starts_with(&format!("{protocol}:")))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let column = rows[0].iter().position(|name| *name == counter).unwrap();
    rows[1][column].parse().unwrap()
}

/// A TUN interface that is up and has both kinds of addresses: 10.77.0.1/24 and fd77::1/64.
pub(crate) fn ready_tun() -> LinuxTun {
    let options = tun_device::TunOptions { mtu: Some(1420), ..Default::default() };
    let tun = LinuxTun::create("wg%d", &options).unwrap();
    let name = tun_device::TunDevice::name(&tun);
    set_up(name, true);
    add_address(name, "10.77.0.1".parse().unwrap());
    add_address(name, "fd77::1".parse().unwrap());
    await_ipv6("fd77::1");
    tun
}

/// The kernel makes a new IPv6 address usable from a work queue of its own.
fn await_ipv6(address: &str) {
    for _ in 0..10_000 {
        if UdpSocket::bind((address, 0)).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{address} never became usable");
}

fn interface_index(name: &str) -> libc::c_int {
    let mut request = interface_request(name);
    interface_ioctl(AddressFamily::Inet, libc::SIOCGIFINDEX, &mut request);
    // SAFETY: SIOCGIFINDEX filled it in.
    unsafe { request.ifr_ifru.ifru_ifindex }
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: plain integers; all zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn interface_ioctl<T>(family: AddressFamily, call: libc::c_ulong, request: &mut T) {
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    // SAFETY: every caller passes the structure that its request reads and writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_mut(request)) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
