//! Reordering is the failure that users notice, and it shows at a real round-trip time only: TCP through two
//! daemons over an emulated link of 20 ms.

use std::{path::Path, time::Duration};

use netlab::{
    Emulator, Host, Impairment, Implementation, KernelCounters, Need, Side, TcpPlan, TcpTransfer, Tunnel,
    TunnelBuilder,
};

/// 20 ms both ways together, 100 Mbit/s: a window of 250 kB. The queue takes any window that the receiver's buffer
/// allows, so nothing is lost, and whatever arrives out of order was reordered by a daemon.
const WIRE: Impairment = Impairment {
    delay: Duration::from_millis(10),
    jitter: Duration::ZERO,
    loss: 0.0,
    reorder: 0.0,
    held_back: Duration::ZERO,
    rate: Some(100_000_000),
    queue: 8 << 20,
    seed: 1,
};

/// Most of it is sent with the window open.
const BYTES: u64 = 12 << 20;

/// What counts segments that overtook each other: the first where they arrive, the others where they were sent.
const REORDERED: [&str; 5] = [
    "TcpExtTCPOFOQueue",
    "TcpExtTCPSACKReorder",
    "TcpExtTCPRenoReorder",
    "TcpExtTCPTSReorder",
    "TcpExtTCPSackRecovery",
];

fn volley(arguments: &[&str]) -> Implementation {
    Implementation::volley(Path::new(env!("CARGO_BIN_EXE_volley")), arguments)
}

/// Windows of at most 1 MB: four times what the path holds, and less than its queue.
fn bound_windows(host: &Host) {
    host.sysctl("net/ipv4/tcp_rmem", "4096 131072 1048576").expect("a sysctl");
}

/// Seconds that the transfer takes.
fn transfer(a: &Host, b: &Host, plan: TcpPlan, to: Side, inside: bool) -> f64 {
    let address = if inside { to.inner_v4() } else { to.outer_v4() };
    let report = TcpTransfer::start(a, b, address, plan).expect("it starts").wait().expect("it arrives");
    report.elapsed.as_secs_f64()
}

/// The same wire with nothing but the kernel's TCP at both ends.
fn without_a_tunnel() -> f64 {
    let (a, b) = (Host::new("a").expect("a host"), Host::new("b").expect("a host"));
    let _emulator = Emulator::connect(&a, &b, "wire", 1500, WIRE).expect("a link");
    for (host, side) in [(&a, Side::A), (&b, Side::B)] {
        host.add_address("wire", side.outer_v4(), 24).expect("an address");
        bound_windows(host);
    }
    transfer(&a, &b, TcpPlan::bytes(BYTES), Side::B, false)
}

fn distant_tunnel(arguments: &[&str], each_way: Impairment) -> Tunnel {
    let volley = volley(arguments);
    let tunnel = TunnelBuilder::new(&volley, &volley).over_distance(each_way).start().expect("a tunnel");
    bound_windows(tunnel.host(Side::A));
    bound_windows(tunnel.host(Side::B));
    tunnel
}

fn counters(tunnel: &Tunnel) -> [KernelCounters; 2] {
    [Side::A, Side::B].map(|side| tunnel.host(side).kernel_counters().expect("counters"))
}

fn assert_nothing_overtaken(tunnel: &Tunnel, before: &[KernelCounters; 2]) {
    let wire = tunnel.emulator().expect("an emulated link").counters();
    assert!(wire.iter().all(|path| path.lost + path.overflowed == 0), "the wire lost nothing: {wire:?}");
    for (now, before) in counters(tunnel).iter().zip(before) {
        let since = now.since(before);
        let counted = REORDERED.map(|name| (name, since.value(name)));
        let all: Vec<_> = since.nonzero("Tcp").collect();
        assert!(counted.iter().all(|(_, value)| *value == 0), "{counted:?} of {all:?}");
    }
}

fn tcp_sees_no_reordering_and_fills_the_window(arguments: &[&str]) {
    let direct = without_a_tunnel();
    let tunnel = distant_tunnel(arguments, WIRE);
    let before = counters(&tunnel);
    let (a, b) = (tunnel.host(Side::A), tunnel.host(Side::B));
    let tunnelled = transfer(a, b, TcpPlan::bytes(BYTES), Side::B, true);
    assert_nothing_overtaken(&tunnel, &before);
    // A stream that is taken for congested, or waits, falls far behind; 60 bytes a packet make 4 %.
    assert!(tunnelled < direct * 1.5, "{tunnelled:.2} s through the tunnel, {direct:.2} s without");
}

#[test]
fn at_20_ms_a_stream_sees_no_reordering_and_fills_the_window_in_one_loop() {
    netlab::require!(Need::Namespaces);
    tcp_sees_no_reordering_and_fills_the_window(&["--arrangement=inline"]);
}

#[test]
fn at_20_ms_a_stream_sees_no_reordering_and_fills_the_window_with_tun_threads() {
    netlab::require!(Need::Namespaces);
    tcp_sees_no_reordering_and_fills_the_window(&["--arrangement=tun-threads"]);
}

#[test]
fn at_20_ms_a_stream_sees_no_reordering_and_fills_the_window_with_helpers() {
    netlab::require!(Need::Namespaces);
    tcp_sees_no_reordering_and_fills_the_window(&["--backend=native", "--crew=3"]);
}

#[test]
fn at_20_ms_streams_both_ways_see_no_reordering_among_each_others_acknowledgements() {
    netlab::require!(Need::Namespaces);
    let tunnel = distant_tunnel(&[], WIRE);
    let before = counters(&tunnel);
    let start = |from: Side| {
        let (from, to) = (tunnel.host(from), tunnel.host(from.other()));
        let plan = TcpPlan { streams: 2, ..TcpPlan::bytes(BYTES / 2) };
        let address = if to.name() == "a" { Side::A } else { Side::B }.inner_v4();
        TcpTransfer::start(from, to, address, plan).expect("it starts")
    };
    let transfers = [start(Side::A), start(Side::B)];
    for transfer in transfers {
        assert_eq!(transfer.wait().expect("it arrives").bytes, BYTES / 2);
    }
    assert_nothing_overtaken(&tunnel, &before);
}

#[test]
fn every_byte_arrives_through_loss_and_reordering() {
    netlab::require!(Need::Namespaces);
    let rough = Impairment {
        delay: Duration::from_millis(2),
        loss: 0.01,
        reorder: 0.02,
        held_back: Duration::from_millis(1),
        ..WIRE
    };
    let tunnel = distant_tunnel(&[], rough);
    let bytes = 3 << 20;
    for from in [Side::A, Side::B] {
        let (sender, receiver) = (tunnel.host(from), tunnel.host(from.other()));
        let plan = TcpPlan { streams: 3, ..TcpPlan::bytes(bytes) };
        let transfer =
            TcpTransfer::start(sender, receiver, from.other().inner_v4(), plan).expect("it starts");
        assert_eq!(transfer.wait().expect("it arrives").bytes, bytes);
    }
    let wire = tunnel.emulator().expect("an emulated link").counters();
    assert!(wire.iter().all(|path| path.lost > 0 && path.held_back > 0), "it was rough: {wire:?}");
}
