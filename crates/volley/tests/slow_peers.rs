//! A peer that is slow or dead takes nothing from the others: not with the send buffer that the daemon asks for, nor
//! with a small one.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use encrypt::{Identity as _, PrivateKey, native::NativeIdentity};
use netlab::{
    Daemon, DeviceConfig, Host, Implementation, Need, PeerConfig, TcpPlan, TcpTransfer, clock, connect, ping,
};
use tunnel_core::{AllowedIpUpdate, Arrival, PeerUpdate, Tunnel, TunnelConfig, TunnelUpdate};

const PORT: u16 = 51820;
const INTERFACE: &str = "wg0";
/// What a daemon without rights gets where nobody has changed `wmem_max`.
const SMALL: &str = "--udp-send-buffer=212992";
/// Us; the fast peer; the slow one; the first of those that fall silent.
const A: u8 = 1;
const B: u8 = 2;
const S: u8 = 3;
const SILENT: u8 = 100;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

fn public_key(number: u8) -> String {
    key(number).public_key().to_hex()
}

fn inner(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, number).into()
}

/// The address of `number` on the link to `link`.
fn outer(v6: bool, link: u8, number: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, link.into(), 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(10, 0, link, number).into()
    }
}

fn peer(number: u8, endpoint: Option<IpAddr>) -> PeerConfig {
    PeerConfig {
        public_key: public_key(number),
        endpoint: endpoint.map(|address| SocketAddr::new(address, PORT)),
        allowed_ips: vec![format!("{}/32", inner(number))],
        ..PeerConfig::default()
    }
}

fn run(host: &Host, script: &str) {
    let shell = script.to_owned();
    let output = host.run(move || Command::new("sh").args(["-ec", &shell]).output()).expect("sh");
    assert!(output.status.success(), "{script}: {output:?}");
}

fn link(a: &Host, to: &Host, name: &str, v6: bool, number: u8) {
    connect(a, name, to, "link", 1500).expect("a link");
    let bits = if v6 { 64 } else { 24 };
    a.add_address(name, outer(v6, number, A), bits).expect("an address");
    to.add_address("link", outer(v6, number, number), bits).expect("an address");
}

fn daemon(host: &Host, number: u8, arguments: &[&str], peers: Vec<PeerConfig>) -> Daemon {
    let volley = Implementation::volley(Path::new(env!("CARGO_BIN_EXE_volley")), arguments);
    let daemon = Daemon::start(host, &volley, INTERFACE).expect("a daemon");
    let private_key = key(number).to_hex().to_string();
    daemon.uapi().set(host, &DeviceConfig { private_key, listen_port: PORT, peers }).expect("configured");
    // A machine that is busy with other tests must not lose packets where this one does not look.
    host.set_queue_len(INTERFACE, 20_000).expect("a queue");
    host.set_up_tunnel(INTERFACE, PORT).expect("up");
    host.add_address(INTERFACE, inner(number), 24).expect("an address");
    daemon
}

/// The sum of the counters of this name.
fn counter(host: &Host, daemon: &Daemon, name: &str) -> u64 {
    let status = daemon.uapi().request(host, "volley=1\n\n").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("counter.{name}=")));
    line.expect(name).parse().expect("a number")
}

/// Datagrams of 1,200 bytes at this rate, to each of `to` in turn, until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(from: &Host, to: Vec<IpAddr>, megabits: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let flood = move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let start = clock::now();
            let mut targets = to.into_iter().cycle();
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let due = start.elapsed().as_micros() as u64 * megabits / 9_600;
                for target in targets.by_ref().take(due.saturating_sub(sent).min(1_000) as usize) {
                    let _ = socket.send_to(&[0; 1_200], (target, 9)); // lost at a full interface, as for anyone
                }
                sent = due;
                thread::sleep(Duration::from_millis(1));
            }
        };
        Self { stop, thread: Some(from.spawn_thread(flood)) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// B loses no ping, and its TCP goes on.
fn assert_b_is_well(a: &Host, b: &Host) {
    let report = ping(a, inner(B), 60, Duration::from_millis(20)).expect("a ping");
    assert_eq!(report.received(), report.sent(), "pings to B");
    let transfer = TcpTransfer::start(a, b, inner(B), TcpPlan::bytes(10 << 20)).expect("TCP");
    assert_eq!(transfer.wait().expect("B's TCP goes on").bytes, 10 << 20);
}

fn a_slow_peer_takes_nothing_from_another(v6: bool, arguments: &[&str]) {
    netlab::require!(Need::Namespaces, Need::Program("tc"));
    let (a, b, s) = (Host::new("a").unwrap(), Host::new("b").unwrap(), Host::new("s").unwrap());
    link(&a, &b, "to_b", v6, B);
    link(&a, &s, "to_s", v6, S);
    run(&a, "tc qdisc add dev to_s root handle 1: tbf rate 10mbit burst 20k limit 1m");
    run(&a, "tc qdisc add dev to_s parent 1:1 pfifo limit 1000");
    let peers = vec![peer(B, Some(outer(v6, B, B))), peer(S, Some(outer(v6, S, S)))];
    let daemon_a = daemon(&a, A, arguments, peers);
    let _daemon_b = daemon(&b, B, &[], vec![peer(A, None)]);
    let _daemon_s = daemon(&s, S, &[], vec![peer(A, None)]);
    for number in [B, S] {
        assert_eq!(ping(&a, inner(number), 1, Duration::ZERO).unwrap().received(), 1);
    }

    let before = s.interface_counters(INTERFACE).unwrap().rx_bytes;
    let flood = Flood::start(&a, vec![inner(S)], 80);
    thread::sleep(Duration::from_secs(1)); // what was sent until now filled the old send buffer
    assert_b_is_well(&a, &b);
    drop(flood);
    let carried = s.interface_counters(INTERFACE).unwrap().rx_bytes - before;
    assert!(carried > 1 << 20, "the slow link stays in use: {carried} bytes");
    let given_up = counter(&a, &daemon_a, "io_drop_udp_send_full");
    let is_small = arguments.contains(&SMALL);
    assert_eq!(given_up > 0, is_small, "{given_up} datagrams found the send buffer full");
}

#[test]
fn a_slow_peer_takes_nothing_from_another_over_ipv4() {
    a_slow_peer_takes_nothing_from_another(false, &[]);
}

#[test]
fn a_slow_peer_takes_nothing_from_another_over_ipv6() {
    a_slow_peer_takes_nothing_from_another(true, &[]);
}

#[test]
fn a_slow_peer_takes_nothing_from_another_in_a_small_send_buffer_over_ipv4() {
    a_slow_peer_takes_nothing_from_another(false, &[SMALL]);
}

#[test]
fn a_slow_peer_takes_nothing_from_another_in_a_small_send_buffer_over_ipv6() {
    a_slow_peer_takes_nothing_from_another(true, &[SMALL]);
}

/// Peers without a daemon each: they answer a handshake, and swallow what comes.
fn answer(host: &Host, v6: bool, numbers: &[u8]) {
    for &number in numbers {
        let address = outer(v6, SILENT, number);
        let socket = host.run(move || UdpSocket::bind((address, PORT))).expect("a socket");
        let mut tunnel = Tunnel::<NativeIdentity>::new(TunnelConfig::default());
        let mut us = PeerUpdate::new(NativeIdentity::new(&key(A), clock::now()).public_key());
        us.allowed_ips = vec![AllowedIpUpdate::Add(inner(A).into())];
        let update =
            TunnelUpdate { private_key: Some(Some(key(number))), peers: vec![us], ..TunnelUpdate::default() };
        let mut sink = Vec::new();
        tunnel.update(update, clock::now(), &mut sink).expect("an update");
        let mut datagram = [0; 2_048];
        thread::spawn(move || {
            while let Ok((len, from)) = socket.recv_from(&mut datagram) {
                tunnel.receive(&mut datagram[..len], Arrival::from(from), clock::now(), &mut sink);
                for (to, reply) in sink.drain(..) {
                    let _ = socket.send_to(&reply, to.remote);
                }
            }
        });
    }
}

fn neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere(v6: bool, arguments: &[&str]) {
    netlab::require!(Need::Namespaces, Need::Program("ip"));
    let (a, b, lan) = (Host::new("a").unwrap(), Host::new("b").unwrap(), Host::new("lan").unwrap());
    link(&a, &b, "to_b", v6, B);
    link(&a, &lan, "lan", v6, SILENT);
    let silent: Vec<u8> = (SILENT..SILENT + 36).collect();
    for &number in &silent[1..] {
        lan.add_address("link", outer(v6, SILENT, number), if v6 { 64 } else { 24 }).expect("an address");
    }
    answer(&lan, v6, &silent);
    let of_silent = silent.iter().map(|&number| peer(number, Some(outer(v6, SILENT, number))));
    let peers = of_silent.chain([peer(B, Some(outer(v6, B, B)))]).collect();
    let daemon_a = daemon(&a, A, arguments, peers);
    let _daemon_b = daemon(&b, B, &[], vec![peer(A, None)]);
    assert_eq!(ping(&a, inner(B), 1, Duration::ZERO).unwrap().received(), 1);
    // All have sessions when each has answered.
    let flood = Flood::start(&a, silent.iter().map(|&number| inner(number)).collect(), 60);
    let end = clock::now() + Duration::from_secs(10);
    while counter(&a, &daemon_a, "core_responses_received") < 37 {
        assert!(clock::now() < end, "not all answer");
        thread::sleep(Duration::from_millis(20));
    }

    run(&lan, "ip address flush dev link");
    run(&a, "ip neigh flush dev lan");
    thread::sleep(Duration::from_millis(800)); // what was sent until now filled the old send buffer
    let report = ping(&a, inner(B), 60, Duration::from_millis(20)).expect("a ping");
    assert_eq!(report.received(), report.sent(), "pings to B");
    drop(flood);
}

#[test]
fn neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere_over_ipv4() {
    neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere(false, &[]);
}

#[test]
fn neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere_over_ipv6() {
    neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere(true, &[]);
}

#[test]
fn neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere_in_a_small_send_buffer() {
    neighbours_that_fall_silent_take_nothing_from_a_peer_elsewhere(false, &[SMALL]);
}
