//! Following the interface: its MTU, and whether it is up, which `ip link set` and `wg-quick` change under us; also in
//! another network namespace, if it is moved there.

mod elsewhere;

use std::{io, os::fd::OwnedFd, pin::Pin};

use futures_util::{FutureExt, Stream, StreamExt};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use nix::{errno::Errno, sys::stat::fstat};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use tun_device::TunLink;

pub(super) use self::elsewhere::Elsewhere;

/// What the data plane must know of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    /// Bytes.
    pub(super) mtu: usize,
    pub(super) is_up: bool,
}

/// The interface, as it was opened.
pub(super) struct Interface {
    pub(super) link: TunLink,
    /// In the network namespace where the daemon is.
    pub(super) index: u32,
    pub(super) mtu: usize,
    /// Nobody else has made it.
    pub(super) is_ours: bool,
}

/// Tells every new state of one interface.
pub(super) struct LinkWatch {
    link: TunLink,
    place: Place,
    /// Where the daemon is. `None` before Linux 5.7, and without rights.
    home: Option<Namespace>,
    last: LinkState,
    source: Option<Source>,
    elsewhere: Elsewhere,
    /// The interface is to be looked for, because messages may have been missed.
    ask: bool,
    is_ours: bool,
    /// It has moved, and the kernel is still to be told that it generates no address there.
    generates_addresses: bool,
}

/// Where the interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where the daemon is, with this index.
    Home(u32),
    /// No longer there. What has its old index is another interface.
    Left,
    /// In another network namespace.
    Away,
}

/// A network namespace: device and inode of its file.
type Namespace = (u64, u64);

/// The links of the daemon's own network namespace.
struct Source {
    handle: Handle,
    messages: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    connection: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl LinkWatch {
    /// Subscribes to changes, and looks. Where that is forbidden, the interface is taken to stay as it is, and up.
    pub(super) async fn open(interface: Interface, elsewhere: Elsewhere) -> Self {
        let Interface { link, index, mtu, is_ours } = interface;
        let source = subscribe().inspect_err(|error| {
            warn!("the interface's MTU and being set down are not followed: cannot open a netlink socket: {error}");
        });
        let mut watch = Self {
            home: link.network().and_then(|network| Ok(identity(&network)?)).ok(),
            link,
            place: Place::Home(index),
            last: LinkState { mtu, is_up: true },
            source: source.ok(),
            elsewhere,
            ask: false,
            generates_addresses: false,
            is_ours,
        };
        if let Some(state) = watch.look().await {
            watch.last = state;
        }
        watch
    }

    /// As it was last told.
    pub(super) fn state(&self) -> LinkState {
        self.last
    }

    /// The next state that is another than the last; never resolves when there are no more.
    /// Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> LinkState {
        loop {
            let state = if self.ask {
                let state = self.look().await;
                self.ask = false;
                state
            } else {
                self.hear().await
            };
            if let Some(state) = state.filter(|state| self.last != *state) {
                self.last = state;
                return state;
            }
        }
    }

    /// Waits for a message, and understands it.
    async fn hear(&mut self) -> Option<LinkState> {
        let Some(source) = &mut self.source else { return std::future::pending().await };
        let index = match self.place {
            Place::Home(index) => index,
            Place::Left | Place::Away => {
                tokio::select! {
                    _ = source.messages.next() => while let Some(Some(_)) = source.messages.next().now_or_never() {},
                    () = self.elsewhere.hint() => {}
                }
                self.ask = true;
                return None;
            }
        };
        let Some(message) = source.messages.next().await else {
            self.source = None;
            return None;
        };
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                if link.header.index == index =>
            {
                state_of(&link)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                if link.header.index == index && link.header.interface_family == AddressFamily::Unspec =>
            {
                self.leave();
                None
            }
            NetlinkPayload::Overrun(_) => {
                self.ask = true;
                None
            }
            _ => None,
        }
    }

    /// It has left this namespace, by a move or for good.
    fn leave(&mut self) {
        self.place = Place::Left;
        self.ask = true;
        self.generates_addresses = self.is_ours;
        // At once: whoever has moved it will set it up next.
        self.forbid_addresses();
    }

    fn forbid_addresses(&mut self) {
        if !self.generates_addresses {
            return;
        }
        match self.link.generate_no_address_anywhere() {
            // It is up; perhaps it will be down once.
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
            _ => self.generates_addresses = false,
        }
    }

    /// Looks where the interface is, and how. `None` if it is gone, or cannot be looked at.
    async fn look(&mut self) -> Option<LinkState> {
        let handle = &self.source.as_ref()?.handle;
        let name = self.link.name().ok()?;
        let network = self.link.network();
        let is_home = match (&network, self.home) {
            (Ok(network), Some(home)) => identity(network).ok()? == home,
            _ => matches!(self.place, Place::Home(_)), // nobody knows better
        };
        let nsid = match &network {
            _ if is_home => None,
            Ok(network) => Some(elsewhere::nsid(handle, network).await?),
            Err(error) => {
                if self.place == Place::Left {
                    warn!("`{name}` is where its MTU and being set down are not followed: {error}");
                    self.place = Place::Away;
                }
                return None;
            }
        };
        let link = elsewhere::link(handle, &name, nsid).await?;
        let state = state_of(&link)?;
        if is_home {
            self.place = Place::Home(link.header.index);
            return Some(state);
        }
        if self.place != Place::Away {
            info!("`{name}` is in another network namespace now");
            self.leave();
            self.place = Place::Away;
        }
        if !state.is_up {
            self.forbid_addresses();
        }
        Some(state)
    }
}

fn identity(namespace: &OwnedFd) -> nix::Result<Namespace> {
    fstat(namespace).map(|file| (file.st_dev, file.st_ino))
}

fn subscribe() -> io::Result<Source> {
    let (connection, handle, messages) = new_multicast_connection(&[MulticastGroup::Link])?;
    let messages = Box::pin(messages.map(|(message, _)| message));
    Ok(Source { handle, messages, connection: tokio::spawn(connection) })
}

fn state_of(link: &LinkMessage) -> Option<LinkState> {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => usize::try_from(*mtu).ok(),
        _ => None,
    })?;
    Some(LinkState { mtu, is_up: link.header.flags.contains(LinkFlags::Up) })
}
