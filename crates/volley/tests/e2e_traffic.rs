//! Two of our daemons carry real TCP between two real kernels, with every fast path on and off.

use netlab::{Need, Side, TunnelBuilder};

mod lab;

#[test]
fn carries_traffic_both_ways_over_both_families() {
    netlab::require!(Need::Namespaces);
    let ours = lab::volley(&[]);
    let tunnel = TunnelBuilder::new(&ours, &ours).initiated_by(Side::B).start().unwrap();
    lab::assert_handshake(&tunnel);
    lab::assert_pings(&tunnel);
    for (from, v6) in [(Side::A, false), (Side::B, false), (Side::A, true), (Side::B, true)] {
        lab::assert_carries(&tunnel, from, v6, lab::TRAFFIC);
    }
}

#[test]
fn carries_traffic_with_any_fast_path_off() {
    netlab::require!(Need::Namespaces);
    let everything = lab::volley(&[]);
    let switches: [&[&str]; 12] = [
        &["--backend=native"],
        &["--backend=native", "--arrangement=tun-threads", "--no-udp-gro"],
        &["--backend=native", "--crew=1"],
        &["--backend=native", "--crew=3", "--arrangement=tun-threads"],
        &["--no-udp-gso"],
        &["--no-udp-gro"],
        &["--no-tun-offload"],
        &["--no-tun-coalesce"],
        &["--arrangement=inline"],
        &["--arrangement=tun-threads"],
        &["--batch=1", "--no-udp-gso", "--no-udp-gro", "--no-tun-offload", "--arrangement=inline"],
        &["--batch=50", "--no-udp-gro", "--no-tun-offload", "--arrangement=tun-threads"],
    ];
    for arguments in switches {
        let tunnel = TunnelBuilder::new(&lab::volley(arguments), &everything).start().unwrap();
        lab::assert_pings(&tunnel);
        lab::assert_carries(&tunnel, Side::A, false, 4 << 20);
        lab::assert_carries(&tunnel, Side::B, true, 4 << 20);
    }
}

#[test]
fn carries_traffic_over_v6_with_a_preshared_key_and_small_mtus() {
    netlab::require!(Need::Namespaces);
    let ours = lab::volley(&["--backend=native"]);
    let builder = TunnelBuilder::new(&lab::volley(&[]), &ours)
        .over_v6()
        .preshared_key(&"5e".repeat(32))
        .mtus(1280, 1360);
    let tunnel = builder.start().unwrap();
    lab::assert_pings(&tunnel);
    for (from, v6) in [(Side::A, false), (Side::B, true)] {
        lab::assert_carries(&tunnel, from, v6, 8 << 20);
    }
}
