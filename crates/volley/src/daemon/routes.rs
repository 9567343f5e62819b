//! Following routes: when the way to a peer leads through another interface than the one that has the source address it
//! is spoken to from, that address is forgotten. What arrives for it may have no way in any more; and every handshake
//! from it would be lost.
//!
//! The kernel's WireGuard looks with every packet (drivers/net/wireguard/socket.c, `send4`). Here every change of links,
//! addresses, routes or rules has the routes to all peers looked up, by the same rules as the kernel's packets: from that
//! address, with the mark of our sockets. A source that is on the way, or belongs to no interface that leads anywhere
//! (the loopback, a dummy, a VRF), stays.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    pin::pin,
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt};
use io_runtime::PinnedSource;
use netlink_packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::LinkFlags,
    route::{RouteAttribute, RouteType},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

/// What may change the way to a peer.
const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// A change seldom comes alone: an interface that goes takes its routes along.
const SETTLE: Duration = Duration::from_millis(100);
/// With thousands of peers a look takes long, and a router's table may never rest. Then we look no oftener than that
/// looking takes a twentieth of the time.
const PAUSE_FACTOR: u32 = 20;
/// The kernel answers at once, unless its answers were lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Protocol number of UDP, for rules that look at it.
const UDP: u8 = 17;

/// Follows until the data plane ends.
pub(super) async fn follow(data: io_runtime::Handle) {
    // Our questions go over a socket of their own, which no flood of changes can fill.
    let opened = new_multicast_connection(&GROUPS)
        .and_then(|changes| rtnetlink::new_connection().map(|questions| (changes, questions)));
    let ((connection, _changes, messages), (questions, netlink, _)) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return warn!("changes of routes are not followed: cannot open a netlink socket: {error}");
        }
    };
    tokio::spawn(connection);
    tokio::spawn(questions);
    let mut changes = pin!(messages);
    while changes.next().await.is_some() {
        let mut changed = true;
        while changed {
            any_within(SETTLE, &mut changes).await;
            let start = Instant::now();
            match timeout(PATIENCE, look(&netlink, &data)).await {
                Ok(Ok(())) => {}
                Ok(Err(Failure::Stopped)) => return,
                Ok(Err(Failure::Netlink(error))) => debug!(%error, "cannot look at routes"),
                Err(_) => debug!("looking at routes takes too long"),
            }
            changed = any_within(start.elapsed() * PAUSE_FACTOR, &mut changes).await;
        }
    }
}

/// Waits for so long. True if something came meanwhile.
async fn any_within(time: Duration, changes: &mut (impl Stream + Unpin)) -> bool {
    let mut end = pin!(sleep(time));
    let mut any = false;
    loop {
        tokio::select! {
            () = &mut end => return any,
            Some(_) = changes.next() => any = true,
        }
    }
}

enum Failure {
    /// The data plane has ended.
    Stopped,
    Netlink(rtnetlink::Error),
}

impl From<io_runtime::Stopped> for Failure {
    fn from(_: io_runtime::Stopped) -> Self {
        Self::Stopped
    }
}

impl From<rtnetlink::Error> for Failure {
    fn from(error: rtnetlink::Error) -> Self {
        Self::Netlink(error)
    }
}

/// Forgets every source that is not on the way any more.
async fn look(netlink: &Handle, data: &io_runtime::Handle) -> Result<(), Failure> {
    let pinned: HashSet<PinnedSource> = data.pinned_sources().await?.into_iter().collect();
    if pinned.is_empty() {
        return Ok(());
    }
    let status = data.status().await?;
    let owners = owners(netlink).await?;
    let mut gone = HashSet::new();
    for pin in pinned {
        // A source that nobody has is noticed by the data plane, as soon as it sends.
        let Some(owners) = owners.get(&pin.source) else { continue };
        let Some(way) = way(netlink, pin, status.listen_port, status.fwmark).await else { continue };
        if !owners.contains(&way) && lead_somewhere(netlink, owners).await? {
            info!("no longer sending from {} to {}: its route leads elsewhere", pin.source, pin.remote);
            gone.insert(pin);
        }
    }
    if gone.is_empty() { Ok(()) } else { Ok(data.forget_sources(gone).await?) }
}

/// Which interfaces have an address.
async fn owners(netlink: &Handle) -> Result<HashMap<IpAddr, Vec<u32>>, rtnetlink::Error> {
    let mut owners: HashMap<IpAddr, Vec<u32>> = HashMap::new();
    let mut addresses = netlink.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        if let Some(address) = local_address(&message) {
            owners.entry(address).or_default().push(message.header.index);
        }
    }
    Ok(owners)
}

/// On a point-to-point interface `Address` is the other end's, and `Local` ours. IPv6 has mostly the former alone.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// The interface by which a datagram leaves that goes there from there; `None` if none does, or it stays in this host.
async fn way(netlink: &Handle, pin: PinnedSource, port: u16, mark: u32) -> Option<u32> {
    let PinnedSource { remote, source } = pin;
    let bits = if remote.is_ipv4() { 32 } else { 128 };
    let to_link = matches!(remote.ip(), IpAddr::V6(address) if address.is_unicast_link_local());
    if to_link {
        return None; // it is on its link, whatever routes say
    }
    let question = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(remote.ip(), bits)
        .and_then(|question| question.source_prefix(source, bits))
        .ok()?
        .ip_protocol(UDP)
        .sport(port)
        .dport(remote.port())
        .mark(mark)
        .build();
    let route = netlink.route().get(question).execute().try_next().await.ok()??;
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// False if one of these is no uplink: then its addresses are good on any.
async fn lead_somewhere(netlink: &Handle, interfaces: &[u32]) -> Result<bool, rtnetlink::Error> {
    for &index in interfaces {
        let Some(link) = netlink.link().get().match_index(index).execute().try_next().await? else {
            continue;
        };
        let flags = link.header.flags;
        let is_end = flags.contains(LinkFlags::Noarp) && !flags.contains(LinkFlags::Pointopoint);
        if is_end || flags.contains(LinkFlags::Loopback) {
            return Ok(false);
        }
    }
    Ok(true)
}
