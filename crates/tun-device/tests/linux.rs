//! The real thing: a TUN interface of the running kernel, in a namespace of its own.

mod common;

use std::{
    collections::HashSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use common::{
    ACK, AE, ECE, PSH, Spec, assert_valid, bytes,
    namespace::{
        add_address, become_nobody, delete_link, in_namespace, open_foreign_tun, ready_tun, rename,
        set_device_mode, set_up, snmp,
    },
};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use tun_device::{
    ClosedBy, CoalesceConfig, Coalescer, Error, GsoType, LinuxTun, MAX_FRAME_LEN, Offloads, Segments,
    TunDevice, TunOptions, VNET_HEADER_LEN, VnetHeader,
};

/// Long enough for a loaded machine; only failures wait this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the mirror gives packets back to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    OneByOne,
    Coalesced,
}

/// What the mirror has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Kinds of frames that the kernel gave us.
    read: HashSet<GsoType>,
    /// Kinds of frames that the kernel took from us.
    written: HashSet<GsoType>,
}

/// Plays the far end of a point-to-point link: swaps the addresses of every packet and gives it back. So a
/// socket of this host that talks to 10.77.0.2 talks to the same host's 10.77.0.1, by way of our code. Swapping
/// changes no checksum.
struct Mirror {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Seen>,
}

impl Mirror {
    fn start(tun: LinuxTun, back: Back) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || mirror(&tun, back, &stop)
        });
        Self { stop, thread }
    }

    fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn mirror(tun: &LinuxTun, back: Back, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut frame = vec![0; MAX_FRAME_LEN];
    let mut coalescer = Coalescer::new(match back {
        Back::OneByOne => CoalesceConfig { tso: false, uso: false, ..CoalesceConfig::default() },
        Back::Coalesced => CoalesceConfig::for_device(tun.offloads()),
    });
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(20u8)).unwrap();
        loop {
            let len = match tun.recv(&mut frame) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            };
            seen.read.insert(VnetHeader::parse(&frame).unwrap().gso_type);
            reflect(&mut frame[..len], &mut coalescer, |coalescer| flush(tun, coalescer, &mut seen));
        }
    }
    assert_eq!(coalescer.counters().replayed, 0, "the kernel refused a super-packet");
    assert_eq!(coalescer.counters().dropped_error, 0);
    seen
}

fn reflect(frame: &mut [u8], coalescer: &mut Coalescer, mut flush: impl FnMut(&mut Coalescer)) {
    let original = frame.to_vec();
    let mut segments = Segments::new(frame).unwrap();
    let mut again = Coalescer::new(CoalesceConfig { max_frames: 2, ..CoalesceConfig::default() });
    let is_super = segments.remaining() > 1;
    while let Some(packet) = segments.next() {
        assert_valid(packet);
        if is_super {
            again.push(packet).unwrap();
        }
        swap_addresses(packet);
        if coalescer.push(packet).is_err() {
            flush(coalescer);
            coalescer.push(packet).unwrap();
        }
    }
    flush(coalescer);
    if is_super {
        let check = |frame: &[u8]| {
            assert_same_frame(frame, &original);
            Ok(())
        };
        again.flush(check).unwrap();
    }
}

/// Coalescing what a real frame was split into must give that very frame, partial checksum and all.
fn assert_same_frame(ours: &[u8], kernels: &[u8]) {
    let header = VnetHeader::parse(kernels).unwrap();
    let without_hint = |frame| VnetHeader { hdr_len: 0, ..VnetHeader::parse(frame).unwrap() };
    // FIN keeps its segment out of super-packets on our side.
    let transport = usize::from(header.csum_start) + VNET_HEADER_LEN;
    let has_fin = header.gso_type != GsoType::UdpL4 && u16::from(kernels[transport + 13]) & common::FIN != 0;
    if !has_fin {
        assert_eq!(without_hint(ours), without_hint(kernels));
        assert!(ours[VNET_HEADER_LEN..] == kernels[VNET_HEADER_LEN..], "the packets differ");
    }
}

fn swap_addresses(packet: &mut [u8]) {
    let (start, len) = if packet[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    let (source, destination) = packet[start..start + 2 * len].split_at_mut(len);
    source.swap_with_slice(destination);
}

fn flush(tun: &LinuxTun, coalescer: &mut Coalescer, seen: &mut Seen) {
    let result = coalescer.flush(|frame| {
        tun.send(frame)?;
        seen.written.insert(VnetHeader::parse(frame).unwrap().gso_type);
        Ok(())
    });
    result.unwrap();
}

/// The near and the far address of the link.
fn link(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fd77::1".parse().unwrap(), "fd77::2".parse().unwrap())
    } else {
        ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap())
    }
}

fn carry_tcp(v6: bool, back: Back) -> Seen {
    const LEN: usize = 3 << 20;
    let mirror = Mirror::start(ready_tun(), back);
    let (near, far) = link(v6);
    let listener = TcpListener::bind((near, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), far);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == bytes(1, LEN), "the client's bytes differ");
        stream.write_all(&bytes(2, LEN)).unwrap();
    });
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(far, port), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&bytes(1, LEN)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(received == bytes(2, LEN), "the server's bytes differ");
    server.join().unwrap();
    assert_eq!(snmp("Tcp", "InCsumErrors"), 0);
    mirror.finish()
}

fn carry_udp(v6: bool, back: Back) -> Seen {
    const SEGMENT: usize = 1000;
    const ROUNDS: usize = 20;
    const LENS: [usize; 4] = [64 * SEGMENT, 10 * SEGMENT + 17, SEGMENT, 2 * SEGMENT];
    let mirror = Mirror::start(ready_tun(), back);
    let (near, far) = link(v6);
    let receiver = UdpSocket::bind((near, 0)).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = UdpSocket::bind((near, 0)).unwrap();
    setsockopt(&sender, sockopt::UdpGsoSegment, &(SEGMENT as i32)).unwrap();
    sender.connect((far, receiver.local_addr().unwrap().port())).unwrap();
    let mut buf = vec![0; 2 * SEGMENT];
    for round in 0..ROUNDS {
        // One train at a time, so that the receiver's buffer always has room for it.
        let train = bytes(round, LENS[round % LENS.len()]);
        sender.send(&train).unwrap();
        for datagram in train.chunks(SEGMENT) {
            let (len, from) = receiver.recv_from(&mut buf).unwrap();
            assert_eq!(from.ip(), far);
            assert!(&buf[..len] == datagram, "a datagram of round {round} differs");
        }
    }
    let protocol = if v6 { "Udp6" } else { "Udp" };
    if !v6 {
        assert_eq!(snmp(protocol, "InCsumErrors"), 0);
    }
    mirror.finish()
}

#[test]
fn split_tcp_super_packets_are_accepted_one_by_one() {
    for v6 in [false, true] {
        in_namespace(move || {
            let seen = carry_tcp(v6, Back::OneByOne);
            assert!(seen.read.contains(if v6 { &GsoType::TcpV6 } else { &GsoType::TcpV4 }));
            assert_eq!(seen.written, HashSet::from([GsoType::None]));
        });
    }
}

#[test]
fn coalesced_tcp_arrives_intact() {
    for v6 in [false, true] {
        in_namespace(move || {
            let seen = carry_tcp(v6, Back::Coalesced);
            assert!(seen.written.contains(if v6 { &GsoType::TcpV6 } else { &GsoType::TcpV4 }));
        });
    }
}

#[test]
fn split_udp_super_packets_are_accepted_one_by_one() {
    for v6 in [false, true] {
        in_namespace(move || {
            let seen = carry_udp(v6, Back::OneByOne);
            assert!(seen.read.contains(&GsoType::UdpL4));
            assert_eq!(seen.written, HashSet::from([GsoType::None]));
        });
    }
}

#[test]
fn coalesced_udp_arrives_intact() {
    for v6 in [false, true] {
        in_namespace(move || {
            let seen = carry_udp(v6, Back::Coalesced);
            assert!(seen.written.contains(&GsoType::UdpL4));
        });
    }
}

#[test]
fn a_device_has_its_name_mtu_and_offloads() {
    in_namespace(|| {
        let options = TunOptions { mtu: Some(1420), tx_queue_len: Some(100), ..TunOptions::default() };
        let tun = LinuxTun::create("wg%d", &options).unwrap();
        assert_eq!(tun.name(), "wg0");
        assert_eq!(tun.mtu().unwrap(), 1420);
        assert!(tun.offloads().checksum && tun.offloads().tso);
        tun.set_mtu(9000).unwrap();
        assert_eq!(tun.mtu().unwrap(), 9000);
        assert_eq!(tun.set_mtu(70_000).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(tun.set_offloads(Offloads::NONE).unwrap(), Offloads::NONE);
        let without_uso = Offloads { uso: false, ..Offloads::ALL };
        assert_eq!(tun.set_offloads(without_uso).unwrap(), without_uso);
        assert_eq!(tun.offloads(), without_uso);
    });
}

/// The kernel generates it as the interface is set up, before `set_up` returns.
#[test]
fn an_interface_that_is_told_to_gives_itself_no_address_through_down_and_up() {
    in_namespace(|| {
        let addresses = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        let [quiet, plain] = [(); 2].map(|()| LinuxTun::create("wg%d", &TunOptions::default()).unwrap());
        quiet.generate_no_address().unwrap();
        assert!(!quiet.is_persistent().unwrap());
        for _ in 0..2 {
            for name in [quiet.name(), plain.name()] {
                set_up(name, true);
            }
            let (of_quiet, of_plain) =
                (addresses().contains(quiet.name()), addresses().contains(plain.name()));
            assert!(!of_quiet && of_plain, "{}", addresses());
            for name in [quiet.name(), plain.name()] {
                set_up(name, false);
            }
        }
    });
}

#[test]
fn without_offloads_every_frame_is_plain_and_complete() {
    in_namespace(|| {
        let tun = ready_tun();
        tun.set_offloads(Offloads::NONE).unwrap();
        let sender = UdpSocket::bind("10.77.0.1:0").unwrap();
        setsockopt(&sender, sockopt::UdpGsoSegment, &500).unwrap();
        sender.send_to(&bytes(1, 2000), "10.77.0.2:9").unwrap();
        let mut frame = vec![0; MAX_FRAME_LEN];
        for _ in 0..4 {
            let len = recv_udp(&tun, &mut frame);
            assert_eq!(VnetHeader::parse(&frame).unwrap(), VnetHeader::PLAIN);
            assert_eq!(len, VNET_HEADER_LEN + 528);
            assert_valid(&frame[VNET_HEADER_LEN..len]);
        }
    });
}

/// The next frame that is UDP over IPv4: the kernel adds IPv6 chatter of its own.
fn recv_udp(tun: &LinuxTun, frame: &mut [u8]) -> usize {
    recv_v4(tun, 17, frame)
}

/// The next frame of a protocol over IPv4.
fn recv_v4(tun: &LinuxTun, protocol: u8, frame: &mut [u8]) -> usize {
    loop {
        let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap(), 1, "nothing to read");
        let len = tun.recv(frame).unwrap();
        if frame[VNET_HEADER_LEN] == 0x45 && frame[VNET_HEADER_LEN + 9] == protocol {
            return len;
        }
    }
}

/// What we merge may be forwarded to a link that takes no super-packets: then the kernel splits it, not us.
#[test]
fn the_kernel_splits_merged_ecn_feedback_into_the_very_packets() {
    in_namespace(|| {
        let tun = ready_tun();
        add_address(tun.name(), "10.0.0.254".parse().unwrap()); // `Spec`'s packets come from there
        let options = TunOptions { offload: false, ..TunOptions::default() };
        let plain = LinuxTun::create("plain%d", &options).unwrap();
        set_up(plain.name(), true);
        add_address(plain.name(), "10.9.9.1".parse().unwrap()); // and go there
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();

        for feedback in [ECE, AE, AE | ECE] {
            let a = Spec { flags: ACK | feedback, ..Spec::tcp() }.payload(0, 1000);
            let run =
                [a.clone(), a.next(1000), Spec { flags: ACK | PSH | feedback, ..a.next(1000).next(700) }];
            let mut coalescer = Coalescer::new(CoalesceConfig::for_device(tun.offloads()));
            run.iter().for_each(|packet| coalescer.push(&packet.build()).unwrap());
            coalescer.flush(|frame| tun.send(frame)).unwrap();
            assert_eq!(coalescer.counters().tcp.written, 1, "{feedback:#x}: it was not merged");

            let mut frame = vec![0; MAX_FRAME_LEN];
            for packet in run {
                let len = recv_v4(&plain, 6, &mut frame);
                let forwarded = Spec { ttl: packet.ttl - 1, ..packet }.build();
                assert_eq!(frame[VNET_HEADER_LEN..len], forwarded, "{feedback:#x}");
            }
        }
    });
}

#[test]
fn a_deleted_link_reports_an_error_condition_and_is_gone_for_good() {
    in_namespace(|| {
        let tun = ready_tun();
        while tun.recv(&mut vec![0; MAX_FRAME_LEN]).is_ok() {} // the kernel's own IPv6 chatter
        delete_link(tun.name());
        let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::try_from(PATIENCE).unwrap()).unwrap(), 1);
        assert!(fds[0].revents().unwrap().contains(PollFlags::POLLERR));
        assert_eq!(tun.recv(&mut [0; 2000]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(tun.send(&[0; 60]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(tun.mtu().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_link_that_is_down_is_not_gone() {
    in_namespace(|| {
        let tun = ready_tun();
        let packet = Spec::udp().payload(1, 100).build();
        let frame = [&[0; VNET_HEADER_LEN], packet.as_slice()].concat();
        tun.send(&frame).unwrap();
        set_up(tun.name(), false);
        assert_eq!(tun.send(&frame).unwrap_err().kind(), io::ErrorKind::NetworkDown);
        while tun.recv(&mut vec![0; MAX_FRAME_LEN]).is_ok() {}
        assert_eq!(tun.recv(&mut [0; 2000]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        set_up(tun.name(), true);
        tun.send(&frame).unwrap();
    });
}

#[test]
fn the_mtu_stays_within_reach_after_a_rename_and_from_another_namespace() {
    in_namespace(|| {
        let tun = LinuxTun::create("wg0", &TunOptions::default()).unwrap();
        rename("wg0", "home");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        tun.set_mtu(1300).unwrap();
        assert_eq!(tun.mtu().unwrap(), 1300);
    });
}

#[test]
fn a_handed_over_descriptor_becomes_a_device() {
    in_namespace(|| {
        let fd = open_foreign_tun("wg7", libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        let tun = LinuxTun::from_fd(fd, &TunOptions::default()).unwrap();
        assert_eq!(tun.name(), "wg7");
        assert!(tun.has_vnet_header());
        assert!(tun.offloads().tso);
        assert_eq!(tun.recv(&mut vec![0; 2000]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_handed_over_descriptor_without_header_presents_zeros() {
    in_namespace(|| {
        let fd = open_foreign_tun("wg7", libc::IFF_TUN | libc::IFF_NO_PI);
        let tun = LinuxTun::from_fd(fd, &TunOptions::default()).unwrap();
        assert_eq!(tun.offloads(), Offloads::NONE);
        set_up("wg7", true);
        add_address("wg7", "10.77.0.1".parse().unwrap());
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        socket.connect("10.77.0.2:7").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"there and back").unwrap();
        let mut frame = vec![0xff; MAX_FRAME_LEN];
        let len = recv_udp(&tun, &mut frame);
        assert_eq!(frame[..VNET_HEADER_LEN], [0; VNET_HEADER_LEN]);
        assert_valid(&frame[VNET_HEADER_LEN..len]);
        // Answer it: ports are summed like addresses, so swapping both changes no checksum.
        let packet = &mut frame[VNET_HEADER_LEN..len];
        swap_addresses(packet);
        let (source, destination) = packet[20..24].split_at_mut(2);
        source.swap_with_slice(destination);
        tun.send(&frame[..len]).unwrap();
        let mut buf = [0; 64];
        let len = socket.recv(&mut buf).unwrap();
        assert_eq!(&buf[..len], b"there and back");
    });
}

#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    in_namespace(|| {
        let tap = open_foreign_tun("x%d", libc::IFF_TAP | libc::IFF_NO_PI);
        assert!(matches!(LinuxTun::from_fd(tap, &TunOptions::default()), Err(Error::NotTun(_))));
        let unattached = std::fs::File::open("/dev/net/tun").unwrap();
        assert!(matches!(
            LinuxTun::from_fd(unattached.into(), &TunOptions::default()),
            Err(Error::NotTun(_))
        ));
    });
}

#[test]
fn a_taken_name_is_refused() {
    in_namespace(|| {
        let _tun = LinuxTun::create("wg0", &TunOptions::default()).unwrap();
        assert!(matches!(LinuxTun::create("wg0", &TunOptions::default()), Err(Error::NameTaken(_))));
        assert!(matches!(LinuxTun::create("lo", &TunOptions::default()), Err(Error::NameTaken(_))));
    });
}

#[test]
fn without_privilege_the_error_says_so_and_with_a_closed_device_it_names_that() {
    for mode in [0o600, 0o666] {
        in_namespace(move || {
            set_device_mode(mode);
            become_nobody();
            let error = LinuxTun::create("wg0", &TunOptions::default()).unwrap_err();
            let is_expected = match mode {
                0o600 => {
                    matches!(error, Error::Closed(ClosedBy::Mode { mode: 0o600, owner: 0, group: 0 }))
                }
                _ => matches!(error, Error::NoPrivilege { .. }),
            };
            assert!(is_expected, "{mode:o}: {error}");
        });
    }
}
