//! UDP GSO and GRO, tried with a train of datagrams over the loopback.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::Check;

/// Bytes of one datagram of the train. Equal segments are what some kernels corrupt.
const SEGMENT: u16 = 100;
/// Datagrams in it.
const SEGMENTS: u16 = 8;
/// The loopback takes microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of a train.
#[derive(Debug)]
pub(super) enum Train {
    /// The kernel did not take it.
    Refused(io::Error),
    /// It did not arrive whole.
    Lost,
    /// It arrived, and was not what was sent.
    Corrupted,
    /// It arrived as single datagrams.
    Split,
    /// It arrived in one piece.
    Whole,
}

/// Sends one train to ourselves.
pub(super) fn probe() -> Train {
    match send_train() {
        Ok(receiver) => receive_train(&receiver),
        Err(error) => Train::Refused(error),
    }
}

/// Gives the socket at which the train arrives.
fn send_train() -> io::Result<UdpSocket> {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    // Where there is no UDP_GRO, the train arrives split, which tells the same.
    let _ = setsockopt(&receiver, sockopt::UdpGroSegment, &true);
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    setsockopt(&sender, sockopt::UdpGsoSegment, &SEGMENT.into())?;
    sender.send_to(&train(), receiver.local_addr()?)?;
    Ok(receiver)
}

/// No two of its segments are alike.
fn train() -> Vec<u8> {
    (0..SEGMENT * SEGMENTS).map(|at| (at % 251) as u8).collect()
}

fn receive_train(receiver: &UdpSocket) -> Train {
    let sent = train();
    let mut received = Vec::with_capacity(sent.len());
    let mut buffer = vec![0; sent.len() + 1];
    let mut pieces = 0;
    while received.len() < sent.len() {
        let Ok(len) = receiver.recv(&mut buffer) else { return Train::Lost };
        received.extend_from_slice(&buffer[..len]);
        pieces += 1;
        if len == 0 {
            return Train::Corrupted;
        }
    }
    match pieces {
        _ if received != sent => Train::Corrupted,
        1 => Train::Whole,
        _ => Train::Split,
    }
}

/// `trusted` is false on kernels of which Volley knows that they corrupt trains, and where it sends none.
pub(super) fn judge_gso(train: &Train, trusted: bool) -> Check {
    const NAME: &str = "UDP GSO";
    match train {
        Train::Whole | Train::Split if trusted => {
            Check::pass(NAME, format!("{SEGMENTS} datagrams left in one call, and arrived unharmed"))
        }
        Train::Refused(error) if is_unsupported(error) => Check::warn(
            NAME,
            "this kernel sends one datagram per call",
            "run Linux 4.18 or later; until then expect a fraction of the speed",
        ),
        Train::Refused(error) => not_checked(NAME, &error.to_string()),
        Train::Lost => not_checked(NAME, "the loopback lost it"),
        _ if !trusted => Check::warn(
            NAME,
            "switched off, because this kernel is known to corrupt it",
            "see `kernel` above",
        ),
        _ => Check::fail(
            NAME,
            "the kernel corrupts trains of datagrams",
            "start Volley with --no-udp-gso or VOLLEY_NO_UDP_GSO=1, and update the kernel",
        ),
    }
}

pub(super) fn judge_gro(train: &Train) -> Check {
    const NAME: &str = "UDP GRO";
    match train {
        Train::Whole => Check::pass(NAME, format!("{SEGMENTS} datagrams arrived in one call")),
        Train::Split => Check::warn(
            NAME,
            "this kernel delivers one datagram at a time",
            "run Linux 5.0 or later; until then expect to receive more slowly",
        ),
        Train::Refused(_) | Train::Lost | Train::Corrupted => not_checked(NAME, "no train of datagrams came"),
    }
}

fn not_checked(name: &'static str, why: &str) -> Check {
    Check::warn(
        name,
        format!("not checked: {why}"),
        "ip link set lo up, and look at the firewall's rules for lo",
    )
}

/// The kernel does not know the option at all.
fn is_unsupported(error: &io::Error) -> bool {
    let unknown = [Errno::ENOPROTOOPT, Errno::EINVAL, Errno::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| unknown.contains(&Errno::from_raw(code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome::{Fail, Pass, Warn};

    #[test]
    fn a_train_over_the_loopback_arrives() {
        // Whole or split is the kernel's business; anything else would be news.
        let train = probe();
        assert!(matches!(train, Train::Whole | Train::Split), "{train:?}");
    }

    #[test]
    fn what_became_of_the_train_is_judged() {
        let refused = |errno: Errno| Train::Refused(errno.into());
        for (train, gso, gro) in [
            (Train::Whole, Pass, Pass),
            (Train::Split, Pass, Warn),
            (Train::Corrupted, Fail, Warn),
            (Train::Lost, Warn, Warn),
            (refused(Errno::ENOPROTOOPT), Warn, Warn),
            (refused(Errno::ENETUNREACH), Warn, Warn),
        ] {
            assert_eq!((judge_gso(&train, true).outcome, judge_gro(&train).outcome), (gso, gro), "{train:?}");
        }
        assert!(judge_gso(&refused(Errno::ENETUNREACH), true).found.starts_with("not checked: "));
        assert!(judge_gso(&refused(Errno::ENOPROTOOPT), true).fix.unwrap().contains("4.18"));
    }

    #[test]
    fn on_a_kernel_known_to_corrupt_trains_that_is_no_failure() {
        for train in [Train::Whole, Train::Corrupted] {
            assert_eq!(judge_gso(&train, false).outcome, Warn);
        }
    }

    #[test]
    fn a_train_is_told_from_its_pieces_and_from_another() {
        let receiver = || {
            let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            receiver
        };
        let arrive = |pieces: &[&[u8]]| {
            let (sender, receiver) = (receiver(), receiver());
            for piece in pieces {
                sender.send_to(piece, receiver.local_addr().unwrap()).unwrap();
            }
            receive_train(&receiver)
        };
        let sent = train();
        assert!(matches!(arrive(&[&sent]), Train::Whole));
        assert!(matches!(arrive(&[&sent[..100], &sent[100..]]), Train::Split));
        assert!(matches!(arrive(&[&sent[100..], &sent[..100]]), Train::Corrupted));
        assert!(matches!(arrive(&[&sent[..1], &sent]), Train::Corrupted));
        assert!(matches!(arrive(&[b""]), Train::Corrupted));
    }
}
