//! A tunnel with `boringtun-cli` at the other end.

use netlab::Need;

mod lab;

#[test]
fn carries_traffic_with_boringtun() {
    netlab::require!(Need::Namespaces, Need::Peer("boringtun-cli"));
    lab::carries_traffic_with("boringtun-cli", "boringtun");
}

#[test]
fn the_native_backend_carries_traffic_with_boringtun() {
    netlab::require!(Need::Namespaces, Need::Peer("boringtun-cli"));
    lab::carries_traffic_with("boringtun-cli", "native");
}
