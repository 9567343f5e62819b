//! The daemon under the real `wg`.

mod common;

use std::net::UdpSocket;

use common::{PATIENCE, eventually, keys, lab};

#[test]
fn wg_set_and_show_know_every_setting() {
    lab(&["wg", "ip"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let ((private, public), (_, peer)) = (keys(lab), keys(lab));
        let psk = lab.run("wg genpsk").trim().to_owned();
        lab.file("private", &private);
        lab.file("psk", &psk);
        lab.run(&format!(
            "wg set wg0 private-key private listen-port 51999 fwmark 0x33 peer {peer} preshared-key psk \
             endpoint 192.0.2.7:123 persistent-keepalive 25 allowed-ips 10.1.0.0/16,fd00:1::/64"
        ));
        // Set up, it sends one handshake initiation, for the keepalive is on.
        assert_eq!(lab.run("wg show wg0 transfer"), format!("{peer}\t0\t0\n"));
        lab.run("ip link set wg0 up");
        eventually("an initiation", || lab.run("wg show wg0 transfer") == format!("{peer}\t0\t148\n"));
        assert_eq!(
            lab.run("wg show wg0 dump"),
            format!(
                "{private}\t{public}\t51999\t0x33\n\
                 {peer}\t{psk}\t192.0.2.7:123\t10.1.0.0/16,fd00:1::/64\t0\t0\t148\t25\n"
            )
        );
        assert_eq!(lab.run("wg show interfaces"), "wg0\n");
        assert_eq!(lab.run("wg show wg0 public-key"), format!("{public}\n"));
        assert_eq!(lab.run("wg show wg0 listen-port"), "51999\n");
        assert_eq!(lab.run("wg show wg0 peers"), format!("{peer}\n"));
        assert_eq!(lab.run("wg show wg0 endpoints"), format!("{peer}\t192.0.2.7:123\n"));
        assert_eq!(lab.run("wg show wg0 allowed-ips"), format!("{peer}\t10.1.0.0/16 fd00:1::/64\n"));
        assert_eq!(lab.run("wg show wg0 latest-handshakes"), format!("{peer}\t0\n"));
        assert_eq!(lab.run("wg show wg0 persistent-keepalive"), format!("{peer}\t25\n"));
        assert_eq!(lab.run("wg show wg0 preshared-keys"), format!("{peer}\t{psk}\n"));
        assert!(lab.run("wg show").contains("persistent keepalive: every 25 seconds"));
    });
}

#[test]
fn settings_can_be_cleared() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.file("psk", &lab.run("wg genpsk"));
        lab.run(&format!(
            "wg set wg0 private-key private fwmark 5 peer {peer} preshared-key psk persistent-keepalive 9 \
             endpoint 127.0.0.1:9 allowed-ips 10.0.0.0/8"
        ));
        lab.run(&format!(
            "wg set wg0 private-key /dev/null fwmark 0 peer {peer} preshared-key /dev/null persistent-keepalive off \
             allowed-ips ''"
        ));
        let dump = lab.run("wg show wg0 dump");
        assert!(dump.starts_with("(none)\t(none)\t"), "{dump}");
        assert!(
            dump.ends_with(&format!("\toff\n{peer}\t(none)\t127.0.0.1:9\t(none)\t0\t0\t0\toff\n")),
            "{dump}"
        );
        lab.run(&format!("wg set wg0 peer {peer} remove"));
        assert_eq!(lab.run("wg show wg0 peers"), "");
    });
}

#[test]
fn setconf_addconf_and_syncconf_end_in_what_showconf_prints() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let ((private, _), (_, one), (_, two)) = (keys(lab), keys(lab), keys(lab));
        let interface = format!("[Interface]\nListenPort = 51998\nPrivateKey = {private}\n");
        let peer = |key: &str, net: &str| format!("\n[Peer]\nPublicKey = {key}\nAllowedIPs = {net}\n");

        lab.file("one", &format!("{interface}{}", peer(&one, "10.1.0.0/16")));
        lab.run("wg setconf wg0 one");
        assert_eq!(lab.run("wg showconf wg0"), format!("{interface}{}", peer(&one, "10.1.0.0/16")));

        lab.file("two", &peer(&two, "10.2.0.0/16"));
        lab.run("wg addconf wg0 two");
        let both = format!("{interface}{}{}", peer(&one, "10.1.0.0/16"), peer(&two, "10.2.0.0/16"));
        assert_eq!(lab.run("wg showconf wg0"), both);

        lab.file("only", &format!("{interface}{}", peer(&two, "10.3.0.0/16, fd00::/8")));
        lab.run("wg syncconf wg0 only");
        assert_eq!(lab.run("wg showconf wg0"), format!("{interface}{}", peer(&two, "10.3.0.0/16, fd00::/8")));
    });
}

#[test]
fn a_busy_port_is_refused_and_the_old_one_kept() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &["--listen-port", "51997"]);
        let (_busy, port) = common::busy_port();
        let refused = lab.sh(&format!("wg set wg0 listen-port {port} fwmark 7"));
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("Address already in use"), "{refused:?}");
        assert_eq!(lab.run("wg show wg0 listen-port; wg show wg0 fwmark"), "51997\noff\n");
    });
}

#[test]
fn a_prefix_moves_to_the_peer_that_gets_it_last() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let ((_, one), (_, two)) = (keys(lab), keys(lab));
        lab.run(&format!("wg set wg0 peer {one} allowed-ips 10.1.0.0/16,10.2.0.0/16"));
        lab.run(&format!("wg set wg0 peer {two} allowed-ips 10.2.0.0/16"));
        assert_eq!(lab.run("wg show wg0 allowed-ips"), format!("{one}\t10.1.0.0/16\n{two}\t10.2.0.0/16\n"));
    });
}

#[test]
fn our_own_public_key_as_a_peer_is_ignored() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        let (private, public) = keys(lab);
        lab.file("private", &private);
        lab.run(&format!("wg set wg0 private-key private peer {public} allowed-ips 10.0.0.0/8"));
        assert_eq!(lab.run("wg show wg0 peers"), "");
    });
}

#[test]
fn setconf_makes_peers_anew_and_syncconf_leaves_them_alone() {
    lab(&["wg", "ip"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        lab.run("ip link set wg0 up");
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        let counted = format!("{peer}\t0\t148\n");
        let set = format!(
            "wg set wg0 private-key private peer {peer} endpoint 127.0.0.1:9 persistent-keepalive 25 allowed-ips 10.0.0.0/8"
        );
        // Turning the keepalive on has sent one handshake initiation.
        lab.run(&set);
        eventually("it is counted", || lab.run("wg show wg0 transfer") == counted);
        let conf = format!("[Interface]\nPrivateKey = {private}\n[Peer]\nPublicKey = {peer}\n");
        lab.file(
            "same",
            &format!("{conf}Endpoint = 127.0.0.1:9\nPersistentKeepalive = 25\nAllowedIPs = 10.0.0.0/8\n"),
        );
        lab.run("wg syncconf wg0 same");
        assert_eq!(lab.run("wg show wg0 transfer"), counted, "nothing has changed");
        lab.file("conf", &conf);
        lab.run("wg setconf wg0 conf");
        assert_eq!(
            lab.run("wg show wg0 endpoints; wg show wg0 transfer; wg show wg0 persistent-keepalive"),
            format!("{peer}\t(none)\n{peer}\t0\t0\n{peer}\toff\n")
        );
    });
}

#[test]
fn a_private_key_is_shown_as_the_kernel_shows_it() {
    lab(&["wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        // 32 bytes of 0xff; 0xf8 and 0x7f at the ends when clamped.
        lab.file("private", &("/".repeat(42) + "8="));
        lab.run("wg set wg0 private-key private");
        let shown = lab.run("wg show wg0 private-key");
        assert_eq!(shown.trim(), format!("+P{}38=", "/".repeat(39)));
        assert_eq!(lab.run("wg show wg0 public-key"), lab.run("wg pubkey < private"));
    });
}

#[test]
fn an_ipv4_endpoint_in_ipv6_clothes_is_an_ipv4_endpoint_and_is_reached() {
    lab(&["wg", "ip"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        lab.run("ip link set wg0 up");
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        let far = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        far.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let port = far.local_addr().expect("its address").port();
        lab.run(&format!(
            "wg set wg0 private-key private peer {peer} endpoint '[::ffff:127.0.0.1]:{port}' persistent-keepalive 25"
        ));
        assert_eq!(lab.run("wg show wg0 endpoints"), format!("{peer}\t127.0.0.1:{port}\n"));
        assert_eq!(far.recv(&mut [0; 256]).expect("a handshake"), 148);
    });
}
