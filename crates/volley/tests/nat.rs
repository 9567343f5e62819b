//! A peer behind a router that translates its address and forgets a flow after two silent seconds, as in the kernel's own test.

mod common;

use std::time::Duration;

use common::{eventually, keys, lab};

#[test]
fn the_keepalive_holds_the_way_back_through_a_router_that_forgets() {
    lab(&["wg", "ip", "ping", "nsenter", "iptables", "sysctl"], |lab| {
        lab.run(
            "ip netns add router; ip netns add far; \
             ip link add near0 type veth peer name inside netns router; \
             ip -n router link add outside type veth peer name far0 netns far; \
             ip addr add 192.168.1.100/24 dev near0; ip link set near0 up; \
             ip -n router addr add 192.168.1.1/24 dev inside; ip -n router link set inside up; \
             ip -n router addr add 192.0.2.1/24 dev outside; ip -n router link set outside up; \
             ip -n far addr add 192.0.2.2/24 dev far0; ip -n far link set far0 up; ip -n far link set lo up; \
             ip route add default via 192.168.1.1; \
             nsenter --net=/run/netns/router sh -ec 'sysctl -qw net.ipv4.ip_forward=1; \
                 iptables -t nat -A POSTROUTING -o outside -j MASQUERADE; \
                 sysctl -qw net.netfilter.nf_conntrack_udp_timeout=2 net.netfilter.nf_conntrack_udp_timeout_stream=2'",
        );
        let _near = lab.daemon("wg0", &["--listen-port", "5000"]);
        let _far = lab.daemon_in("far", "wg1");
        let ((near_private, near_key), (far_private, far_key)) = (keys(lab), keys(lab));
        lab.file("near", &near_private);
        lab.file("far", &far_private);
        lab.run(&format!(
            "wg set wg1 private-key far listen-port 5001 peer {near_key} allowed-ips 10.5.0.1/32; \
             ip -n far addr add 10.5.0.2/24 dev wg1; ip -n far link set wg1 up; \
             ip addr add 10.5.0.1/24 dev wg0; ip link set wg0 up; \
             wg set wg0 private-key near peer {far_key} allowed-ips 10.5.0.2/32 endpoint 192.0.2.2:5001 \
                 persistent-keepalive 1"
        ));
        eventually("a ping is answered", || lab.sh("ping -c 1 -W 1 10.5.0.2").status.success());
        let endpoint = lab.run("wg show wg1 endpoints | cut -f2");
        assert!(endpoint.starts_with("192.0.2.1:"), "the far side sees the router: {endpoint}");

        // Silent but for the keepalives, for longer than the router remembers.
        let ping_back = || lab.sh("nsenter --net=/run/netns/far ping -c 1 -W 2 10.5.0.1").status.success();
        std::thread::sleep(Duration::from_secs(4));
        assert!(ping_back(), "the keepalives have kept the flow");
    });
}
