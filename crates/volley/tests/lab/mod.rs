//! What every tunnel must do, whoever is at its other end.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::{net::IpAddr, path::Path, time::Duration};

use netlab::{Implementation, Side, TcpPlan, TcpTransfer, Tunnel, TunnelBuilder, ping};

/// What the issue asks each tunnel to carry each way, bytes.
pub(crate) const TRAFFIC: u64 = 100 << 20;

/// Our daemon, with extra arguments.
pub(crate) fn volley(arguments: &[&str]) -> Implementation {
    Implementation::volley(Path::new(env!("CARGO_BIN_EXE_volley")), arguments)
}

/// With one of our backends: the handshake from either side, then the same traffic both ways, over either family.
pub(crate) fn carries_traffic_with(peer: &str, backend: &str) {
    let ours = volley(&["--backend", backend]);
    let peer = Implementation::find(peer).expect("required");
    for initiator in [Side::A, Side::B] {
        let tunnel = TunnelBuilder::new(&ours, &peer).initiated_by(initiator).start().unwrap();
        assert_handshake(&tunnel);
        assert_pings(&tunnel);
        // 100 MiB each way in each of two tunnels: one family in each, so that both are covered both ways.
        let v6 = initiator == Side::B;
        assert_carries(&tunnel, Side::A, v6, TRAFFIC);
        assert_carries(&tunnel, Side::B, v6, TRAFFIC);
    }
    // IPv6 outside, and a pre-shared key.
    let builder = TunnelBuilder::new(&ours, &peer).over_v6().preshared_key(&"5e".repeat(32));
    let tunnel = builder.start().unwrap();
    assert_handshake(&tunnel);
    assert_carries(&tunnel, Side::A, true, 1 << 20);
    assert_carries(&tunnel, Side::B, false, 1 << 20);
}

/// Our daemon, at side A, knows of the handshake. (Of the peers, not all tell its time as the protocol asks.)
pub(crate) fn assert_handshake(tunnel: &Tunnel) {
    let device = tunnel.daemon(Side::A).uapi().get(tunnel.host(Side::A)).unwrap();
    let handshake: u64 = device["last_handshake_time_sec"].parse().unwrap();
    assert!(handshake > 0, "no handshake");
}

/// Both ends answer the other's pings, over both families.
pub(crate) fn assert_pings(tunnel: &Tunnel) {
    for from in [Side::A, Side::B] {
        for address in [from.other().inner_v4(), from.other().inner_v6()] {
            let report = ping(tunnel.host(from), address, 10, Duration::ZERO).unwrap();
            assert_eq!(report.received(), report.sent(), "{address}");
        }
    }
}

/// Every byte of a TCP stream arrives as it was sent.
pub(crate) fn assert_carries(tunnel: &Tunnel, from: Side, v6: bool, bytes: u64) {
    let to = from.other();
    let address: IpAddr = if v6 { to.inner_v6() } else { to.inner_v4() };
    let transfer =
        TcpTransfer::start(tunnel.host(from), tunnel.host(to), address, TcpPlan::bytes(bytes)).unwrap();
    let report = transfer.wait().unwrap_or_else(|error| {
        panic!(
            "{from:?} to {address}: {error:#}\n{}\n{}",
            tunnel.daemon(Side::A).output(),
            tunnel.daemon(Side::B).output()
        )
    });
    assert_eq!(report.bytes, bytes);
}
