//! Links in other network namespaces, as far as a daemon sees them that has given up the right to enter any.
//!
//! A namespace knows others by numbers (`nsid`), and gives one to that into which a link moves. By the number, rtnetlink
//! answers questions about another namespace to whoever has `CAP_NET_ADMIN` there, and a socket that was made with
//! `CAP_NET_BROADCAST` hears what happens in all that have one. (It would take `CAP_SYS_ADMIN` to enter: that is given
//! up, and no thread keeps it.) What it hears does not tell where it happened, so it is a hint to look, and no more.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use nix::errno::Errno;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    sys::{AsyncSocket, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::time::sleep;
use tracing::debug;

/// How often an interface is looked at in a namespace of which we hear nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// No number yet (`NETNSA_NSID_NOT_ASSIGNED`, linux/net_namespace.h); in a request: any.
const NOT_ASSIGNED: i32 = -1;

/// Hears of links in all network namespaces that have a number here.
pub(in crate::daemon) struct Elsewhere {
    /// `None` if it may not.
    socket: Option<TokioSocket>,
    is_listening: bool,
}

impl Elsewhere {
    /// Call it with all the privileges that there are. Needs a running event loop.
    pub(in crate::daemon) fn open() -> Self {
        let socket = socket().inspect_err(|error| {
            debug!("of other network namespaces nothing is heard: {error}");
        });
        Self { socket: socket.ok(), is_listening: false }
    }

    /// Resolves when something may have happened. Cancelling it loses nothing.
    pub(super) async fn hint(&mut self) {
        let Some(socket) = &mut self.socket else { return sleep(LOOK_AGAIN).await };
        if !self.is_listening {
            self.is_listening = true;
            if socket.socket_ref().add_membership(MulticastGroup::Link as u32).is_err() {
                self.socket = None;
            }
            return; // what happened before was not heard
        }
        let heard = message(socket).await;
        while let Some(Ok(())) = message(socket).now_or_never() {}
        // A message that there was no room for is one, too.
        if heard.is_err_and(|error| error.raw_os_error() != Some(Errno::ENOBUFS as i32)) {
            self.socket = None;
        }
    }
}

fn socket() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind_auto()?;
    socket.socket_ref().set_listen_all_namespaces(true)?;
    Ok(socket)
}

async fn message(socket: &mut TokioSocket) -> io::Result<()> {
    poll_fn(|context| socket.poll_recv_from_full(context)).await.map(drop)
}

/// The number of a namespace; it gets one if it has none.
pub(super) async fn nsid(handle: &Handle, namespace: &OwnedFd) -> Option<i32> {
    let fd = NsidAttribute::Fd(u32::try_from(namespace.as_raw_fd()).ok()?);
    if let Some(nsid) = assigned(handle, &fd).await {
        return Some(nsid);
    }
    let mut assign = NsidMessage::default();
    assign.attributes = vec![fd.clone(), NsidAttribute::Id(NOT_ASSIGNED)];
    let _answer = request(handle, RouteNetlinkMessage::NewNsId(assign), NLM_F_ACK).await;
    assigned(handle, &fd).await
}

async fn assigned(handle: &Handle, fd: &NsidAttribute) -> Option<i32> {
    let mut question = NsidMessage::default();
    question.attributes = vec![fd.clone()];
    let RouteNetlinkMessage::NewNsId(answer) =
        request(handle, RouteNetlinkMessage::GetNsId(question), 0).await?
    else {
        return None;
    };
    let id = answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id),
        _ => None,
    });
    id.filter(|id| *id != NOT_ASSIGNED)
}

/// A link by its name, here or in the namespace of that number.
pub(super) async fn link(handle: &Handle, name: &str, nsid: Option<i32>) -> Option<LinkMessage> {
    let mut question = LinkMessage::default();
    question.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    question.attributes.extend(nsid.map(LinkAttribute::IfNetnsId));
    match request(handle, RouteNetlinkMessage::GetLink(question), 0).await? {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

/// The first answer, unless it is an error.
async fn request(handle: &Handle, message: RouteNetlinkMessage, flags: u16) -> Option<RouteNetlinkMessage> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    match handle.clone().request(request).ok()?.next().await?.payload {
        NetlinkPayload::InnerMessage(answer) => Some(answer),
        NetlinkPayload::Error(error) if error.code.is_some() => {
            debug!("rtnetlink refused a question: {}", error.to_io());
            None
        }
        _ => None,
    }
}
