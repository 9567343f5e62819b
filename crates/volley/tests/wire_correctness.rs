//! What crosses the wire is right: segments that we cut carry right headers and checksums, super-packets that we join
//! carry the right bytes. `cargo xtask wire` does the same with as much traffic as one likes.

use netlab::{Need, Side, Tunnel, TunnelBuilder, WireKind, carry_checked};

mod lab;

#[test]
fn every_segment_we_cut_carries_right_headers_and_checksums() {
    const BYTES: u64 = 48 << 20;
    netlab::require!(Need::Namespaces);
    let tunnel = TunnelBuilder::new(&lab::volley(&[]), &lab::volley(&["--no-tun-offload"])).start().unwrap();
    let report = carry_checked(&tunnel, BYTES, |_checked| {}).unwrap();
    for kind in [WireKind::TcpV4, WireKind::TcpV6, WireKind::UdpV4, WireKind::UdpV6] {
        assert!(report.tally(kind).bytes >= BYTES / 4, "{kind:?}: {:?}", report.tally(kind));
    }
    // Otherwise nothing above was cut by us, or was read before the kernel touched it.
    let (frames, packets) =
        (counter(&tunnel, Side::A, "tun_frames_read"), counter(&tunnel, Side::A, "tun_packets_read"));
    assert!(packets > 4 * frames, "{packets} packets in {frames} frames from the kernel");
    assert_eq!(counter(&tunnel, Side::B, "tun_super_frames_written"), 0);
}

#[test]
fn every_byte_of_the_super_packets_we_join_is_right() {
    netlab::require!(Need::Namespaces);
    let ours = lab::volley(&[]);
    let tunnel = TunnelBuilder::new(&ours, &ours).start().unwrap();
    lab::assert_carries(&tunnel, Side::A, false, 12 << 20);
    lab::assert_carries(&tunnel, Side::A, true, 12 << 20);
    let super_frames = counter(&tunnel, Side::B, "tun_super_frames_written");
    assert!(super_frames > 0, "nothing was joined");
}

/// By our own addition to the configuration protocol.
fn counter(tunnel: &Tunnel, side: Side, name: &str) -> u64 {
    let status = tunnel.daemon(side).uapi().request(tunnel.host(side), "volley=1\n\n").unwrap();
    let prefix = format!("counter.io_{name}=");
    let value = status.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {name} in {status}")).parse().unwrap()
}
