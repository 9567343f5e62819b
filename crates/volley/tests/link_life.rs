//! The interface under a daemon: set up and down, changed and moved by others.

mod common;

use std::{thread::sleep, time::Duration};

use common::{keys, lab};

/// What the kernel sends by itself comes at once, if it is told not to wait; it has this much time.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn an_idle_interface_has_no_address_that_nobody_gave_and_sends_nothing() {
    lab(&["ip", "wg"], |lab| {
        lab.run(
            "cd /proc/sys/net/ipv6/conf/default && echo 0 >accept_dad && echo 0 >router_solicitation_delay",
        );
        let _daemon = lab.daemon("wg0", &[]);
        let ((private, _), (_, peer)) = (keys(lab), keys(lab));
        lab.file("private", &private);
        lab.run(&format!(
            "wg set wg0 private-key private peer {peer} allowed-ips 0.0.0.0/0,::/0 endpoint 127.0.0.1:9
             ip addr add 10.7.0.1/24 dev wg0 && ip addr add fd07::1/64 dev wg0
             ip link set wg0 up && ip link set wg0 down && ip link set wg0 up
             ip addr add fd07::2/64 dev wg0"
        ));
        sleep(SILENCE);
        let addresses = lab.run("ip -6 -o addr show dev wg0 scope link");
        assert_eq!(addresses, "", "it gave itself an address");
        assert_eq!(lab.run("cat /proc/net/dev | tr -s ' ' | grep wg0 | cut -d' ' -f12"), "0\n");
        assert!(lab.run("wg show wg0 transfer").ends_with("\t0\t0\n"), "a handshake was started");
    });
}
