//! The UDP side: sockets, sending with the failure rules, receiving.

mod edge;
mod gso_routes;
mod plain_call;
mod received;
mod receiver;
mod sender;
mod shares;
mod socket;
mod sys;

pub(crate) use edge::Sockets;
pub(crate) use received::{Received, Train};
pub(crate) use receiver::{Receiver, is_refused};
pub(crate) use sender::{Context, Sender};
pub(crate) use socket::{Family, SocketOptions, UdpSocket, max_gso_segments};
pub use socket::{RECV_BUFFER, SEND_BUFFER};
