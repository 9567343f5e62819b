//! The system around the interface, by netlink: links, addresses, routes and rules.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressMessage, AddressProtocol},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    },
};
use nix::errno::Errno;
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder, new_connection, sys::AsyncSocket};
use tokio::task::JoinHandle;

use super::refusal::Refusal;
use super::rules::{AnyRule, PROTOCOL, Rule};

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

    /// As people call them.
    pub(super) const fn spoken(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
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

/// As `ip` and nft call them.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

impl FromStr for Family {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        Self::ALL.into_iter().find(|family| family.to_string() == text).ok_or(())
    }
}

/// What the kernel answered.
pub(super) type Result<T> = std::result::Result<T, Refusal>;

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
        let (mut connection, handle, _) = new_connection()?;
        // Old kernels do not explain themselves.
        let _ = connection.socket_mut().socket_mut().set_ext_ack(true);
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// The index of an interface; `None` if there is none of this name.
    pub(super) async fn index(&self, name: &str) -> Result<Option<u32>> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        Ok(unless_gone(found.map_err(Refusal::from))?.flatten().map(|link| link.header.index))
    }

    /// True when there is an interface with this index, and it is a TUN or TAP device.
    pub(super) async fn is_tun(&self, index: u32) -> Result<bool> {
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        Ok(unless_gone(found.map_err(Refusal::from))?.flatten().is_some_and(|link| is_tun(&link)))
    }

    pub(super) async fn link_mtu(&self, index: u32) -> Result<Option<u32>> {
        let link =
            self.handle.link().get().match_index(index).execute().try_next().await.map_err(Refusal::from)?;
        let mtu = |attribute: &LinkAttribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        };
        Ok(link.and_then(|link| link.attributes.iter().find_map(mtu)))
    }

    pub(super) async fn set_up(&self, index: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        self.handle.link().set(message).execute().await.map_err(Refusal::from)
    }

    /// False if it was gone.
    pub(super) async fn delete_link(&self, index: u32) -> Result<bool> {
        Ok(unless_gone(self.handle.link().del(index).execute().await.map_err(Refusal::from))?.is_some())
    }

    pub(super) async fn add_address(&self, index: u32, address: &IpNet) -> Result<()> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        // A tunnel has nobody to broadcast to; `ip` gives none.
        request.message_mut().attributes.retain(|told| !matches!(told, AddressAttribute::Broadcast(_)));
        request.execute().await.map_err(Refusal::from)
    }

    /// The interface's addresses.
    pub(super) async fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        Ok(self.all_addresses(index).await?.iter().filter_map(address).collect())
    }

    /// Those that the kernel has not made itself.
    pub(super) async fn given_addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        let kernels = AddressAttribute::Protocol(AddressProtocol::LinkLocal);
        let all = self.all_addresses(index).await?;
        Ok(all.iter().filter(|message| !message.attributes.contains(&kernels)).filter_map(address).collect())
    }

    async fn all_addresses(&self, index: u32) -> Result<Vec<AddressMessage>> {
        let request = self.handle.address().get().set_link_index_filter(index);
        request.execute().try_collect().await.map_err(Refusal::from)
    }

    pub(super) async fn add_route(&self, index: u32, network: &IpNet, table: u32) -> Result<()> {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .map_err(|error| io::Error::other(error.to_string()))?
            .output_interface(index)
            .table_id(table)
            .protocol(RouteProtocol::from(PROTOCOL))
            .scope(if network.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
            .build();
        self.handle.route().add(message).execute().await.map_err(Refusal::from)
    }

    /// Every route of either family. A family that the kernel does not have has none.
    pub(super) async fn all_routes(&self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            let found = unless_absent(self.routes(family).await)?;
            routes.extend(found.iter().filter_map(Route::of));
        }
        Ok(routes)
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
        self.handle.route().get(message).execute().try_collect().await.map_err(Refusal::from)
    }

    /// Every rule of a family. One that the kernel does not have has none.
    pub(super) async fn rules(&self, family: Family) -> Result<Vec<AnyRule>> {
        let found: Result<Vec<_>> =
            self.handle.rule().get(family.version()).execute().try_collect().await.map_err(Refusal::from);
        Ok(unless_absent(found)?.iter().map(|message| AnyRule::of(family, message)).collect())
    }

    pub(super) async fn add_rule(&self, rule: &Rule) -> Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.message();
        request.execute().await.map_err(Refusal::from)
    }

    /// Deletes exactly this rule; one that is gone is no error.
    pub(super) async fn delete_rule(&self, rule: &Rule) -> Result<()> {
        let deleted = self.handle.rule().del(rule.message()).execute().await.map_err(Refusal::from);
        unless_absent(unless_gone(deleted).map(|_| ()))
    }
}

/// What there is to know about a route here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) destination: IpNet,
    /// The interface's index; `None` if it is none or several.
    pub(super) interface: Option<u32>,
    pub(super) is_ours: bool,
}

impl Route {
    pub(super) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

    fn of(message: &RouteMessage) -> Option<Self> {
        Some(Self {
            table: table(message),
            destination: destination(message)?,
            interface: oif(message),
            is_ours: message.header.protocol == RouteProtocol::from(PROTOCOL),
        })
    }
}

fn is_tun(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().any(|info| *info == LinkInfo::Kind(InfoKind::Tun))
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

fn address(message: &AddressMessage) -> Option<IpNet> {
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

/// `None` for what is not there, or no longer.
fn unless_gone<T>(answer: Result<T>) -> Result<Option<T>> {
    const GONE: [Errno; 4] = [Errno::ENODEV, Errno::ENOENT, Errno::ESRCH, Errno::ENXIO];
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if GONE.iter().any(|gone| error.raw_os_error() == Some(*gone as i32)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Nothing for a family that the kernel does not have.
fn unless_absent<T: Default>(answer: Result<T>) -> Result<T> {
    const ABSENT: [Errno; 2] = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP];
    match answer {
        Err(error) if ABSENT.iter().any(|absent| error.raw_os_error() == Some(*absent as i32)) => {
            Ok(T::default())
        }
        answer => answer,
    }
}
