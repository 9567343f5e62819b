//! Many peers: the numbers of the drop-in daemon's issue.

mod common;

use std::{fmt::Write, time::Duration};

use common::{Lab, lab, took};

/// A configuration of `count` peers with two allowed IPs and an endpoint each.
fn peers(lab: &Lab, count: u32) -> String {
    let (private, _) = common::keys(lab);
    let mut text = format!("[Interface]\nPrivateKey = {private}\n");
    for number in 0..count {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let key = encrypt_base64(&key);
        let [_, a, b, c] = number.to_be_bytes();
        let _ = write!(
            text,
            "[Peer]\nPublicKey = {key}\nAllowedIPs = 10.{a}.{b}.{c}/32, fd00::{b:x}:{c:x}/128\n\
             Endpoint = 192.0.2.{}:{}\n",
            number % 250 + 1,
            1_024 + number % 60_000,
        );
    }
    text
}

fn encrypt_base64(key: &[u8; 32]) -> String {
    encrypt::PublicKey::from_bytes(*key).to_base64()
}

#[test]
fn a_thousand_peers_are_set_in_a_second_and_shown_in_a_fifth() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &["--log-level", "error"]);
        lab.file("many", &peers(lab, 1_000));
        // The best of three: the machine may have other things to do.
        let best = |command: &str| (0..3).map(|_| took(|| lab.run(command)).1).min().expect("three");
        let set = best("wg setconf wg0 many");
        let show = best("wg show wg0 dump");
        assert_eq!(lab.run("wg show wg0 dump").lines().count(), 1_001);
        println!("1,000 peers: setconf {set:?}, show {show:?}");
        assert!(set < Duration::from_secs(1), "{set:?}");
        assert!(show < Duration::from_millis(200), "{show:?}");
    });
}

#[test]
fn ten_thousand_peers_are_accepted_and_one_of_them_can_be_changed() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &["--log-level", "error"]);
        lab.file("many", &peers(lab, 10_000));
        let ((), set) = took(|| drop(lab.run("wg setconf wg0 many")));
        println!("10,000 peers: setconf {set:?}");
        let listed = lab.run("wg show wg0 peers");
        assert_eq!(listed.lines().count(), 10_000);
        let last = listed.lines().last().expect("a peer");
        lab.run(&format!("wg set wg0 peer {last} persistent-keepalive 25"));
        lab.run(&format!("wg set wg0 peer {last} remove"));
        assert_eq!(lab.run("wg show wg0 peers").lines().count(), 9_999);
        lab.run("wg syncconf wg0 many");
        assert_eq!(lab.run("wg show wg0 peers").lines().count(), 10_000);
    });
}
