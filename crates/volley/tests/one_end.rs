//! One end alone, as `cargo xtask one-end` measures it: what the daemon carries is counted to the packet.

mod lab;

use std::time::Duration;

use netlab::{
    FULL_TRAIN, FarCipher, Incoming, InnerProtocol, Measured, Need, OneEnd, OneEndPlan, Outgoing, require,
};

/// Gentle enough for a daemon without optimizations on a busy machine, bits per second.
const RATE: f64 = 20e6;
const TIME: Duration = Duration::from_millis(150);

fn end(backend: &str, peers: usize) -> OneEnd {
    let implementation = lab::volley(&["--backend", backend]);
    let plan = OneEndPlan { implementation, peers, placement: None, cipher: FarCipher::WireGuard };
    OneEnd::start(&plan).unwrap()
}

#[track_caller]
fn assert_whole(measured: &Measured) {
    assert!(measured.sent > 0, "{measured:?}");
    assert_eq!(measured.carried, measured.sent, "{measured:?}");
    assert!(measured.thread_cpu.values().sum::<Duration>() > Duration::ZERO, "{measured:?}");
}

#[test]
fn what_a_daemon_receives_is_delivered_whole_whichever_backend_opens_it() {
    require!(Need::Namespaces, Need::Program("nft"));
    for backend in ["native", "boringtun"] {
        let mut end = end(backend, 1);
        for protocol in [InnerProtocol::Tcp, InnerProtocol::Udp] {
            // In two goes, each sealed anew in the same session.
            let memory = FULL_TRAIN * 1_452 * 4;
            let load = Incoming { protocol, rate: RATE, time: TIME, memory };
            assert_whole(&end.receive(&load).unwrap());
        }
    }
}

#[test]
fn what_a_daemon_sends_leaves_whole_to_each_peer_in_turn() {
    require!(Need::Namespaces, Need::Program("nft"));
    for backend in ["native", "boringtun"] {
        let mut end = end(backend, 150);
        let mut send = |protocol, train, peers| {
            end.send(&Outgoing { protocol, train, peers, rate: RATE, time: TIME }).unwrap()
        };
        assert_whole(&send(InnerProtocol::Tcp, FULL_TRAIN, 1));
        assert_whole(&send(InnerProtocol::Udp, FULL_TRAIN, 1));
        assert_whole(&send(InnerProtocol::Udp, 16, 150));
        assert_whole(&send(InnerProtocol::Udp, 1, 150));
        let transfers = end.daemon().uapi().request(end.host(), "get=1\n\n").unwrap();
        let sent_to = transfers.lines().filter_map(|line| line.strip_prefix("tx_bytes=")?.parse().ok());
        let reached = sent_to.filter(|bytes: &u64| *bytes > 1_420).count();
        assert_eq!(reached, 150, "each of them had its turn");
    }
}
