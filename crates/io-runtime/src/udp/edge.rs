//! The UDP edge: one port, on IPv4 and on IPv6.

use std::io;

use nix::libc;

use super::socket::{Family, SocketOptions, UdpSocket};
use crate::{Error, UpdateError};

/// Attempts at finding a port that is free on both families, when any port will do.
const PORT_ATTEMPTS: usize = 32;

/// Sockets for both address families on one port.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) v4: UdpSocket,
    /// Absent where the system has no IPv6.
    pub(crate) v6: Option<UdpSocket>,
    pub(crate) port: u16,
}

/// Why there are no sockets.
#[derive(Debug)]
pub(crate) enum BindError {
    AddrInUse(u16),
    Io(io::Error),
}

impl Sockets {
    /// Binds to `port`, or to any that is free on both families if it is 0.
    pub(crate) fn bind(port: u16, fwmark: u32, options: SocketOptions) -> Result<Self, BindError> {
        let attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        let mut taken = port;
        for _ in 0..attempts {
            match Self::bind_once(port, fwmark, options) {
                Err(BindError::AddrInUse(port)) => taken = port,
                result => return result,
            }
        }
        Err(BindError::AddrInUse(taken))
    }

    fn bind_once(port: u16, fwmark: u32, options: SocketOptions) -> Result<Self, BindError> {
        let v4 =
            UdpSocket::bind(Family::V4, port, fwmark, options).map_err(|error| bind_error(error, port))?;
        let port = v4.port().map_err(BindError::Io)?;
        let v6 = match UdpSocket::bind(Family::V6, port, fwmark, options) {
            Ok(socket) => Some(socket),
            Err(error) if means_no_ipv6(&error) => {
                tracing::info!(%error, "no IPv6 here: going on with IPv4 alone");
                None
            }
            Err(error) => return Err(bind_error(error, port)),
        };
        Ok(Self { v4, v6, port })
    }
}

fn bind_error(error: io::Error, port: u16) -> BindError {
    match error.kind() {
        io::ErrorKind::AddrInUse => BindError::AddrInUse(port),
        _ => BindError::Io(error),
    }
}

/// The kernel has no IPv6, or it is switched off.
fn means_no_ipv6(error: &io::Error) -> bool {
    let absent = [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|errno| absent.contains(&errno))
}

impl From<BindError> for Error {
    fn from(error: BindError) -> Self {
        match error {
            BindError::AddrInUse(port) => Self::AddrInUse(port),
            BindError::Io(error) => Self::Socket(error.into()),
        }
    }
}

impl From<BindError> for UpdateError {
    fn from(error: BindError) -> Self {
        match error {
            BindError::AddrInUse(port) => Self::AddrInUse(port),
            BindError::Io(error) => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::IoSliceMut,
        net::{Ipv4Addr, UdpSocket as StdSocket},
    };

    use nix::sys::socket::{getsockopt, sockopt};
    use quinn_udp::RecvMeta;

    use super::*;
    use crate::udp::SEND_BUFFER;

    const OPTIONS: SocketOptions = SocketOptions { gro: true, send_buffer: SEND_BUFFER };

    #[test]
    fn any_port_is_the_same_on_both_families() {
        let sockets = Sockets::bind(0, 0, OPTIONS).unwrap();
        assert_ne!(sockets.port, 0);
        if let Some(v6) = &sockets.v6 {
            assert_eq!(v6.port().unwrap(), sockets.port);
        }
    }

    #[test]
    fn a_busy_port_is_named() {
        let busy = StdSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = busy.local_addr().unwrap().port();
        assert!(matches!(Sockets::bind(port, 0, OPTIONS), Err(BindError::AddrInUse(p)) if p == port));
    }

    #[test]
    fn the_gro_switch_reaches_the_kernel() {
        for gro in [true, false] {
            let sockets = Sockets::bind(0, 0, SocketOptions { gro, ..OPTIONS }).unwrap();
            assert_eq!(getsockopt(&sockets.v4, sockopt::UdpGroSegment).unwrap(), gro && sockets.v4.has_gro());
        }
    }

    #[test]
    fn receive_timestamps_are_off() {
        let sockets = Sockets::bind(0, 0, OPTIONS).unwrap();
        assert!(!getsockopt(&sockets.v4, sockopt::ReceiveTimestampns).unwrap());
    }

    /// With quinn-udp's receive timestamps on, the ECN control message would not fit beside GRO's.
    #[test]
    fn ecn_arrives_on_both_families_with_gro_on() {
        use super::super::socket::DatagramSocket as _;
        use quinn_udp::{EcnCodepoint, Transmit};
        let mut sockets = Sockets::bind(0, 0, OPTIONS).unwrap();
        let port = sockets.port;
        let v4 = Some((&mut sockets.v4, std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        let v6 = sockets.v6.as_mut().map(|v6| (v6, (std::net::Ipv6Addr::LOCALHOST, port).into()));
        for (socket, destination) in v4.into_iter().chain(v6) {
            let transmit = Transmit {
                destination,
                ecn: Some(EcnCodepoint::Ce),
                contents: &[7; 300],
                segment_size: Some(100),
                src_ip: Some(destination.ip()),
            };
            socket.try_send(&transmit).unwrap();
            let mut buffer = [0; 1_000];
            let mut meta = [RecvMeta::default()];
            let count = socket.recv(&mut [IoSliceMut::new(&mut buffer)], &mut meta).unwrap();
            assert_eq!((count, meta[0].len, meta[0].stride), (1, 300, 100));
            assert_eq!(meta[0].ecn, Some(EcnCodepoint::Ce));
            assert_eq!(meta[0].dst_ip, Some(destination.ip()));
        }
    }
}
