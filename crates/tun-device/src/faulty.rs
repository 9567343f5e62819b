//! A device that fails when told to, to prove what its user does about it.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    sync::Mutex,
};

use nix::errno::Errno;

use crate::{GsoType, Offloads, TunDevice, VnetHeader};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The call answers `WouldBlock`, although the descriptor may be ready.
    WouldBlock,
    /// EINVAL: the kernel refuses this frame.
    Refused,
    /// The interface is down.
    Down,
    /// ENOBUFS: the kernel is out of memory for now.
    NoBuffers,
    /// The interface was deleted.
    Gone,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::WouldBlock => Errno::EAGAIN.into(),
            Self::Refused => Errno::EINVAL.into(),
            Self::Down => io::ErrorKind::NetworkDown.into(),
            Self::NoBuffers => Errno::ENOBUFS.into(),
            Self::Gone => io::ErrorKind::UnexpectedEof.into(),
        }
    }
}

/// A call about to be made.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// [`TunDevice::recv`].
    Recv,
    /// [`TunDevice::send`] of this frame.
    Send(&'a [u8]),
}

impl Call<'_> {
    /// Whether it sends a super-packet.
    pub fn is_super_packet(&self) -> bool {
        match self {
            Self::Recv => false,
            Self::Send(frame) => {
                VnetHeader::parse(frame).is_ok_and(|header| header.gso_type != GsoType::None)
            }
        }
    }
}

/// A device around which calls fail as a plan says. A failed call does not reach the device.
pub struct Faulty<D> {
    device: D,
    plan: Mutex<Box<Plan>>,
}

type Plan = dyn for<'a> FnMut(Call<'a>) -> Option<Fault> + Send;

impl<D> Faulty<D> {
    /// `plan` is asked before every call: `None` lets it through.
    pub fn new(device: D, plan: impl for<'a> FnMut(Call<'a>) -> Option<Fault> + Send + 'static) -> Self {
        Self { device, plan: Mutex::new(Box::new(plan)) }
    }

    /// A kernel that answers EINVAL to every super-packet, as some stable ones do.
    pub fn refusing_super_packets(device: D) -> Self {
        Self::new(device, |call| call.is_super_packet().then_some(Fault::Refused))
    }

    /// Sends fail as the script says, one entry each, and go through when it has ended.
    pub fn scripted_sends(device: D, script: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let mut script: std::collections::VecDeque<_> = script.into_iter().collect();
        Self::new(device, move |call| match call {
            Call::Recv => None,
            Call::Send(_) => script.pop_front().flatten(),
        })
    }

    /// One send in `one_in`, on average, fails with one of `faults`; the same ones for the same seed.
    pub fn seeded_sends(device: D, seed: u64, one_in: u32, faults: &[Fault]) -> Self {
        let faults = faults.to_vec();
        let mut state = seed;
        Self::new(device, move |call| {
            let is_send = matches!(call, Call::Send(_));
            if !is_send || faults.is_empty() {
                return None;
            }
            let draw = split_mix(&mut state);
            let hit = (draw as u32).is_multiple_of(one_in.max(1));
            hit.then(|| faults[(draw >> 32) as usize % faults.len()])
        })
    }

    /// The device inside.
    pub const fn device(&self) -> &D {
        &self.device
    }

    fn fault(&self, call: Call<'_>) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        plan(call).map_or(Ok(()), |fault| Err(fault.error()))
    }
}

impl<D: TunDevice> TunDevice for Faulty<D> {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn offloads(&self) -> Offloads {
        self.device.offloads()
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.fault(Call::Recv)?;
        self.device.recv(buf)
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.fault(Call::Send(frame))?;
        self.device.send(frame)
    }
}

impl<D: AsFd> AsFd for Faulty<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl<D: fmt::Debug> fmt::Debug for Faulty<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("device", &self.device).finish_non_exhaustive()
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to scatter faults.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryTun;

    #[test]
    fn a_script_is_followed_and_then_ends() {
        let (tun, host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let script = [Some(Fault::WouldBlock), None, Some(Fault::Down), Some(Fault::Gone)];
        let tun = Faulty::scripted_sends(tun, script);
        let kinds: Vec<_> = (0..5).map(|_| tun.send(&[0; 30]).map_err(|error| error.kind())).collect();
        assert_eq!(
            kinds,
            [
                Err(io::ErrorKind::WouldBlock),
                Ok(()),
                Err(io::ErrorKind::NetworkDown),
                Err(io::ErrorKind::UnexpectedEof),
                Ok(())
            ]
        );
        let mut buf = [0; 64];
        assert!(host.recv(&mut buf).is_ok() && host.recv(&mut buf).is_ok() && host.recv(&mut buf).is_err());
    }

    #[test]
    fn seeded_faults_repeat() {
        let run = |seed| {
            let (tun, _host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
            let tun = Faulty::seeded_sends(tun, seed, 3, &[Fault::NoBuffers]);
            (0..50).map(|_| tun.send(&[0; 30]).is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).contains(&true) && run(1).contains(&false));
    }

    #[test]
    fn refusing_super_packets_lets_plain_ones_through() {
        let (tun, _host) = MemoryTun::pair("mem0", Offloads::ALL).unwrap();
        let tun = Faulty::refusing_super_packets(tun);
        let mut frame = [0; 60];
        tun.send(&frame).unwrap();
        frame[1] = GsoType::TcpV6 as u8;
        assert_eq!(tun.send(&frame).unwrap_err().raw_os_error(), Some(Errno::EINVAL as i32));
    }
}
