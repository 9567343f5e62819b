//! Links and addresses, through rtnetlink: what `ip` would do, without `ip`.

use std::{
    fs,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::TryStreamExt;
use netlink_packet_route::{
    address::AddressHeaderFlags,
    link::{InfoData, InfoKind, InfoVeth},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::{clock, namespace::Host};

/// Opening takes less than a millisecond; a loaded machine gets four orders of magnitude more.
const OPENS: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(1);

/// What has crossed an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received; a super-packet is one.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent; a super-packet is one.
    pub tx_packets: u64,
    /// Packets dropped on the way out.
    pub tx_dropped: u64,
}

/// Connects two hosts by a veth pair, up at both ends, with the given interface names and MTU.
///
/// # Errors
/// When the kernel refuses: names taken, no veth.
pub fn connect(a: &Host, a_name: &str, b: &Host, b_name: &str, mtu: u32) -> Result<()> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(b_name.to_owned())
        .mtu(mtu)
        .setns_by_fd(b.raw_namespace())
        .build();
    let link = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(a_name.to_owned())
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    a.netlink(move |netlink| async move { Ok(netlink.link().add(link).execute().await?) })
        .with_context(|| format!("veth between {} and {}", a.name(), b.name()))?;
    a.set_up(a_name)?;
    b.set_up(b_name)
}

impl InterfaceCounters {
    /// Reads those of an interface in the network namespace of a process.
    ///
    /// # Errors
    /// When there is no such process, or its namespace has no such interface.
    pub fn of_process(pid: u32, interface: &str) -> Result<Self> {
        let file = format!("/proc/{pid}/net/dev");
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        parse_counters(&text, interface).with_context(|| format!("no {interface} in {file}"))
    }
}

impl Host {
    /// Adds an address to an interface.
    ///
    /// # Errors
    /// When the interface is missing or the address is there already.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix_len: u8) -> Result<()> {
        let name = interface.to_owned();
        self.netlink(move |netlink| async move {
            let index = index_of(&netlink, &name).await?;
            let mut request = netlink.address().add(index, address, prefix_len);
            // Ours alone: in use at once, not after the kernel has looked for duplicates.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            Ok(request.execute().await?)
        })
        .with_context(|| format!("address {address}/{prefix_len} on {interface} of {}", self.name()))
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// When it is missing.
    pub fn set_up(&self, interface: &str) -> Result<()> {
        self.change(interface, LinkMessageBuilder::up)
    }

    /// Brings a tunnel's interface up, and waits until its daemon has heard of it and opened `port`: in userspace that
    /// is a moment later, and a handshake that comes in between is lost, to be retried after five seconds.
    ///
    /// # Errors
    /// When the interface is missing, or nobody opens the port.
    pub fn set_up_tunnel(&self, interface: &str, port: u16) -> Result<()> {
        self.set_up(interface)?;
        let deadline = clock::now() + OPENS;
        let port_there = format!(":{port:04X}");
        loop {
            // Some have one IPv6 socket for both families.
            let sockets = self.run(|| {
                let table = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                table("udp").map(|udp| udp + &table("udp6").unwrap_or_default())
            })?;
            let mut local_addresses = sockets.lines().filter_map(|line| line.split_whitespace().nth(1));
            if local_addresses.any(|address| address.ends_with(&port_there)) {
                return Ok(());
            }
            ensure!(clock::now() < deadline, "nobody opens UDP port {port} of {}", self.name());
            thread::sleep(POLL);
        }
    }

    /// Sets an interface's MTU, bytes.
    ///
    /// # Errors
    /// When it is missing or refuses.
    pub fn set_mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.change(interface, move |link| link.mtu(mtu))
    }

    /// Sets how many packets may wait to leave an interface.
    ///
    /// # Errors
    /// When it is missing.
    pub fn set_queue_len(&self, interface: &str, packets: u32) -> Result<()> {
        self.change(interface, move |link| link.txqueuelen(packets))
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// When it is missing.
    pub fn delete_link(&self, interface: &str) -> Result<()> {
        let name = interface.to_owned();
        self.netlink(move |netlink| async move {
            let index = index_of(&netlink, &name).await?;
            Ok(netlink.link().del(index).execute().await?)
        })
        .with_context(|| format!("delete {interface} of {}", self.name()))
    }

    /// Routes a prefix out of an interface.
    ///
    /// # Errors
    /// When the interface is missing or down, or the route is there already.
    pub fn add_route(&self, prefix: IpAddr, prefix_len: u8, interface: &str) -> Result<()> {
        let name = interface.to_owned();
        self.netlink(move |netlink| async move {
            let index = index_of(&netlink, &name).await?;
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(prefix, prefix_len)
                .map_err(|error| anyhow!("{error:?}"))?
                .output_interface(index)
                .build();
            Ok(netlink.route().add(route).execute().await?)
        })
        .with_context(|| format!("route {prefix}/{prefix_len} by {interface} of {}", self.name()))
    }

    /// Routes a prefix of IPv4 to a neighbour.
    ///
    /// # Errors
    /// When nobody knows the way to the neighbour, or the route is there already.
    pub fn add_route_via(&self, prefix: Ipv4Addr, prefix_len: u8, gateway: Ipv4Addr) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new();
        let route = route.destination_prefix(prefix, prefix_len).gateway(gateway).build();
        self.netlink(move |netlink| async move { Ok(netlink.route().add(route).execute().await?) })
            .with_context(|| format!("route {prefix}/{prefix_len} to {gateway} of {}", self.name()))
    }

    /// Whether the host has an interface of that name.
    pub fn has_link(&self, interface: &str) -> bool {
        self.interface_counters(interface).is_ok()
    }

    /// Reads an interface's counters.
    ///
    /// # Errors
    /// When it is missing.
    pub fn interface_counters(&self, interface: &str) -> Result<InterfaceCounters> {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        parse_counters(&text, interface).with_context(|| format!("no {interface} in {}", self.name()))
    }

    fn change(
        &self,
        interface: &str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec> + Send + 'static,
    ) -> Result<()> {
        let name = interface.to_owned();
        self.netlink(move |netlink| async move {
            let index = index_of(&netlink, &name).await?;
            let message = change(LinkUnspec::new_with_index(index)).build();
            Ok(netlink.link().set(message).execute().await?)
        })
        .with_context(|| format!("{interface} of {}", self.name()))
    }

    /// Talks rtnetlink in the host.
    fn netlink<T, Talk>(&self, talk: impl FnOnce(Handle) -> Talk + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        Talk: Future<Output = Result<T>>,
    {
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let (connection, handle, _multicasts) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                talk(handle).await
            })
        })
    }
}

async fn index_of(netlink: &Handle, name: &str) -> Result<u32> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await?.ok_or_else(|| anyhow!("no interface {name}"))?;
    Ok(link.header.index)
}

fn parse_counters(text: &str, interface: &str) -> Option<InterfaceCounters> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    Some(InterfaceCounters {
        rx_bytes: *fields.first()?,
        rx_packets: *fields.get(1)?,
        tx_bytes: *fields.get(8)?,
        tx_packets: *fields.get(9)?,
        tx_dropped: *fields.get(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Need, ping};
    use std::time::Duration;

    #[test]
    fn connected_hosts_reach_each_other_over_both_families() {
        crate::require!(Need::Namespaces);
        let (a, b) = (Host::new("a").unwrap(), Host::new("b").unwrap());
        connect(&a, "veth", &b, "veth", 1400).unwrap();
        for (host, v4, v6) in [(&a, "192.0.2.1", "2001:db8::1"), (&b, "192.0.2.2", "2001:db8::2")] {
            host.add_address("veth", v4.parse().unwrap(), 24).unwrap();
            host.add_address("veth", v6.parse().unwrap(), 64).unwrap();
        }
        for address in ["192.0.2.2", "2001:db8::2"] {
            let report = ping(&a, address.parse().unwrap(), 5, Duration::from_millis(1)).unwrap();
            assert_eq!(report.received(), 5, "{address}");
        }
        assert!(a.interface_counters("veth").unwrap().tx_packets >= 10);
        a.delete_link("veth").unwrap();
        assert!(!b.has_link("veth"));
    }

    #[test]
    fn counters_are_found_by_exact_name() {
        let text = "Inter-|   Receive\n face |bytes\n  wg1: 1 2 0 0 0 0 0 0 3 4 0 5 0 0 0 0\n wg10:9 9 0 0 0 0 0 0 9 9 0 9 0 0 0 0\n";
        let counters = parse_counters(text, "wg1").unwrap();
        let expected =
            InterfaceCounters { rx_bytes: 1, rx_packets: 2, tx_bytes: 3, tx_packets: 4, tx_dropped: 5 };
        assert_eq!(counters, expected);
        assert_eq!(parse_counters(text, "wg"), None);
    }
}
