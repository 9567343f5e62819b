//! Following the interface's MTU, which `ip link set mtu` and `wg-quick` change under us.

use std::{io, pin::Pin};

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use rtnetlink::{
    Handle, MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::task::JoinHandle;
use tracing::warn;

/// Tells every new MTU of one interface.
pub(super) struct MtuWatch {
    index: u32,
    last: usize,
    source: Option<Source>,
}

struct Source {
    handle: Handle,
    messages: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    connection: JoinHandle<()>,
    /// The MTU is to be asked for, because messages may have been missed.
    ask: bool,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl MtuWatch {
    /// Subscribes to changes from `mtu`. Where that is forbidden, the MTU at the start stays in force.
    pub(super) fn open(index: u32, mtu: usize) -> Self {
        let source = subscribe()
            .inspect_err(|error| warn!("MTU changes are not followed: cannot open a netlink socket: {error}"))
            .ok();
        Self { index, last: mtu, source }
    }

    /// The next MTU, bytes; never resolves when there are no more.
    /// Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> usize {
        while let Some(source) = &mut self.source {
            let mtu = if source.ask {
                let mtu = current(&source.handle, self.index).await;
                source.ask = false;
                mtu
            } else {
                let Some(message) = source.messages.next().await else {
                    self.source = None;
                    break;
                };
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                        if link.header.index == self.index =>
                    {
                        mtu_of(&link)
                    }
                    NetlinkPayload::Overrun(_) => {
                        source.ask = true;
                        None
                    }
                    _ => None,
                }
            };
            if let Some(mtu) = mtu.filter(|mtu| self.last != *mtu) {
                self.last = mtu;
                return mtu;
            }
        }
        std::future::pending().await
    }
}

fn subscribe() -> io::Result<Source> {
    let (connection, handle, messages) = new_multicast_connection(&[MulticastGroup::Link])?;
    let messages = Box::pin(messages.map(|(message, _)| message));
    Ok(Source { handle, messages, connection: tokio::spawn(connection), ask: true })
}

async fn current(handle: &Handle, index: u32) -> Option<usize> {
    let link = handle.link().get().match_index(index).execute().try_next().await.ok()??;
    mtu_of(&link)
}

fn mtu_of(link: &LinkMessage) -> Option<usize> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => usize::try_from(*mtu).ok(),
        _ => None,
    })
}
