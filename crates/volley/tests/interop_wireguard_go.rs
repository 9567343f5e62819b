//! A tunnel with `wireguard-go` at the other end.

use netlab::Need;

mod lab;

#[test]
fn carries_traffic_with_wireguard_go() {
    netlab::require!(Need::Namespaces, Need::Peer("wireguard-go"));
    lab::carries_traffic_with("wireguard-go", "boringtun");
}

#[test]
fn the_native_backend_carries_traffic_with_wireguard_go() {
    netlab::require!(Need::Namespaces, Need::Peer("wireguard-go"));
    lab::carries_traffic_with("wireguard-go", "native");
}
