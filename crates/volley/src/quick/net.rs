//! The system around the interface, by netlink: links, addresses, routes and rules.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::AddressAttribute,
    link::LinkAttribute,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    },
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder, new_connection};
use tokio::task::JoinHandle;

/// The address families that have routes and rules of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn of(network: &IpNet) -> Self {
        match network {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    const fn version(self) -> IpVersion {
        match self {
            Self::V4 => IpVersion::V4,
            Self::V6 => IpVersion::V6,
        }
    }
}

/// What the kernel answered.
pub(super) type Result<T> = std::result::Result<T, io::Error>;

/// A netlink connection.
pub(super) struct Net {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Net {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Net {
    /// Needs a running event loop.
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) = new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// The index of an interface; `None` if there is none of this name.
    pub(super) async fn index(&self, name: &str) -> Result<Option<u32>> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(plain) {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is_no_device(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn link_mtu(&self, index: u32) -> Result<Option<u32>> {
        let link = self.handle.link().get().match_index(index).execute().try_next().await.map_err(plain)?;
        let mtu = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        };
        Ok(link.and_then(|link| link.attributes.iter().find_map(mtu)))
    }

    pub(super) async fn set_up(&self, index: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        self.handle.link().set(message).execute().await.map_err(plain)
    }

    pub(super) async fn delete_link(&self, index: u32) -> Result<()> {
        self.handle.link().del(index).execute().await.map_err(plain)
    }

    pub(super) async fn add_address(&self, index: u32, address: &IpNet) -> Result<()> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        request.execute().await.map_err(plain)
    }

    /// The interface's addresses.
    pub(super) async fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let found: Vec<_> = request.execute().try_collect().await.map_err(plain)?;
        let network = |message: &netlink_packet_route::address::AddressMessage| {
            // On point-to-point links, `Address` is the peer's and `Local` is ours.
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            IpNet::new(local.or(address)?, message.header.prefix_len).ok()
        };
        Ok(found.iter().filter_map(network).collect())
    }

    pub(super) async fn add_route(&self, index: u32, network: &IpNet, table: u32) -> Result<()> {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .map_err(|error| io::Error::other(error.to_string()))?
            .output_interface(index)
            .table_id(table)
            .protocol(RouteProtocol::Boot) // as `ip route` says
            .scope(if network.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
            .build();
        self.handle.route().add(message).execute().await.map_err(plain)
    }

    /// True when the main table sends all of `network` to the interface already.
    pub(super) async fn covers(&self, index: u32, network: &IpNet) -> Result<bool> {
        let routes = self.routes(Family::of(network)).await?;
        let main = u32::from(RouteHeader::RT_TABLE_MAIN);
        let covering = |route: &&RouteMessage| {
            let ours = table(route) == main && oif(route) == Some(index);
            ours && destination(route).is_some_and(|destination| destination.contains(network))
        };
        Ok(routes.iter().any(|route| covering(&route)))
    }

    /// True when no family has a route in the table.
    pub(super) async fn is_empty(&self, number: u32) -> Result<bool> {
        for family in Family::ALL {
            if self.routes(family).await?.iter().any(|route| table(route) == number) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The MTU on the way to `address`, bytes, if there is a way.
    pub(super) async fn mtu_to(&self, address: IpAddr) -> Option<u32> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let message = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, length).ok()?.build();
        let route = self.handle.route().get(message).execute().try_next().await.ok()??;
        self.mtu_of(&route).await
    }

    /// The MTU of the default route, bytes, if there is one.
    pub(super) async fn default_mtu(&self) -> Option<u32> {
        let routes = self.routes(Family::V4).await.ok()?;
        let main = u32::from(RouteHeader::RT_TABLE_MAIN);
        let is_default =
            |route: &&RouteMessage| table(route) == main && route.header.destination_prefix_length == 0;
        let route = routes.iter().find(is_default)?;
        self.mtu_of(route).await
    }

    async fn mtu_of(&self, route: &RouteMessage) -> Option<u32> {
        let metrics = route.attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::Metrics(metrics) => Some(metrics),
            _ => None,
        });
        let told = metrics.flatten().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        match told {
            Some(mtu) => Some(mtu),
            None => self.link_mtu(oif(route)?).await.ok()?,
        }
    }

    async fn routes(&self, family: Family) -> Result<Vec<RouteMessage>> {
        let message = match family.version() {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        self.handle.route().get(message).execute().try_collect().await.map_err(plain)
    }

    /// Packets without the mark go by `table`, which takes its number from the mark.
    pub(super) async fn add_mark_rule(&self, family: Family, table: u32) -> Result<()> {
        let mut request = self.handle.rule().add().table_id(table).fw_mark(table).action(RuleAction::ToTable);
        request.message_mut().header.flags = RuleFlags::Invert;
        match family {
            Family::V4 => request.v4().execute().await,
            Family::V6 => request.v6().execute().await,
        }
        .map_err(plain)
    }

    /// The main table still decides, except by its default route.
    pub(super) async fn add_suppress_rule(&self, family: Family) -> Result<()> {
        let mut request = self.handle.rule().add().action(RuleAction::ToTable);
        request.message_mut().attributes.push(RuleAttribute::SuppressPrefixLen(0));
        match family {
            Family::V4 => request.v4().execute().await,
            Family::V6 => request.v6().execute().await,
        }
        .map_err(plain)
    }

    /// Removes the rules that go by `table`, and for each one rule that suppresses the default route.
    pub(super) async fn delete_rules(&self, family: Family, table: u32) -> Result<()> {
        let found = self.handle.rule().get(family.version()).execute();
        let rules: Vec<_> = found.try_collect().await.map_err(plain)?;
        let by_mark: Vec<_> =
            rules.iter().filter(|rule| rule_table(rule) == table && is_mark_rule(rule)).collect();
        let suppressing = rules.iter().filter(|rule| is_suppress_rule(rule)).take(by_mark.len());
        for rule in by_mark.iter().copied().chain(suppressing) {
            self.handle.rule().del(rule.clone()).execute().await.map_err(plain)?;
        }
        Ok(())
    }
}

fn table(route: &RouteMessage) -> u32 {
    let told = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    told.unwrap_or_else(|| route.header.table.into())
}

fn oif(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let family = match route.header.address_family {
        netlink_packet_route::AddressFamily::Inet => Family::V4,
        netlink_packet_route::AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let told = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    });
    IpNet::new(told.unwrap_or_else(|| family.unspecified()), route.header.destination_prefix_length).ok()
}

fn rule_table(rule: &RuleMessage) -> u32 {
    let told = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    told.unwrap_or_else(|| rule.header.table.into())
}

fn is_mark_rule(rule: &RuleMessage) -> bool {
    let marked = rule.attributes.iter().any(|attribute| matches!(attribute, RuleAttribute::FwMark(_)));
    marked && rule.header.flags.contains(RuleFlags::Invert)
}

fn is_suppress_rule(rule: &RuleMessage) -> bool {
    let suppresses = rule.attributes.contains(&RuleAttribute::SuppressPrefixLen(0));
    suppresses && rule_table(rule) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

/// What the kernel said, without the protocol around it.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}
