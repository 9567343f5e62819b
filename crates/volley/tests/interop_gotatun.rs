//! A tunnel with `gotatun` at the other end.

use netlab::Need;

mod lab;

#[test]
fn carries_traffic_with_gotatun() {
    netlab::require!(Need::Namespaces, Need::Peer("gotatun"));
    lab::carries_traffic_with("gotatun", "boringtun");
}

#[test]
fn the_native_backend_carries_traffic_with_gotatun() {
    netlab::require!(Need::Namespaces, Need::Peer("gotatun"));
    lab::carries_traffic_with("gotatun", "native");
}
