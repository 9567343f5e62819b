//! What the TUN gives, until the turn has had its share or the queue is full.

use std::time::Instant;

use encrypt::Identity;
use gso_queue::QueueConfig;
use tun_device::Segments;
use tunnel_core::{MAX_ICMP_ERROR_LEN, Packets, Sent, SinkFull};

use super::{
    DataPlane, Source,
    jobs::{Outlet, Queue, Works},
};
use crate::{Error, IoCounters, tun::TunPort};

/// Plaintext bytes taken from the TUN in one turn: four full frames. More would make what arrives wait
/// behind what leaves, and fall out of the processor's second-level cache.
const EGRESS_BYTES: usize = 256 << 10;

/// Ciphertext that may wait for a full socket before the TUN is left alone, for as long as a batch waits at most. The
/// socket's own buffer is full by then; anything more here would only be delay.
const BACKLOG_BYTES: usize = 256 << 10;

/// Queue buffers kept for the frame in hand, handshakes and replies while a socket is full. The longest
/// frame of the shortest sensible segments needs a dozen.
const BACKLOG_BUFFERS: usize = 32;
const _: () = assert!(BACKLOG_BUFFERS < QueueConfig::DEFAULT.buffers);

impl<I: Identity, P: TunPort> DataPlane<I, P> {
    /// TUN → tunnel → queue, up to the turn's share.
    pub(super) fn egress(&mut self, now: Instant) -> Result<Source, Error> {
        if !self.ready.tun {
            return Ok(Source::Drained);
        }
        let Self { tunnel, tun, queue, works, sender, ready, counters, config, icmp, .. } = self;
        // Frames from before the interface was set down, or of one that was just set up, wait.
        let is_over = ready.tun_failed || tun.has_ended();
        if sender.is_none() && !is_over {
            return Ok(Source::Down);
        }
        let mut bytes = 0;
        for _ in 0..config.batch.max(1) {
            if bytes >= EGRESS_BYTES {
                return Ok(Source::More);
            }
            if sender.as_ref().is_some_and(|sender| sender.retry_at().is_some()) && is_backed_up(queue) {
                return if is_over { Err(Error::DeviceGone) } else { Ok(Source::Held) };
            }
            let Some(frame) = tun.next_frame(counters)? else {
                // While its interface is being deleted, a TUN device fails and its reads still say that there is
                // nothing yet. It will not call again.
                if ready.tun_failed {
                    return Err(Error::DeviceGone);
                }
                ready.tun = false;
                return Ok(Source::Drained);
            };
            bytes += frame.len();
            let Ok(segments) = Segments::new(frame) else {
                counters.drops.tun_malformed += 1;
                continue;
            };
            counters.traffic.tun_packets_read += segments.remaining() as u64;
            let mut out = Outlet { queue, sender, tunnel, counters, now };
            let answer = send(Frame::new(segments), works, &mut out, icmp);
            works.advance(&mut out);
            if let Some(len) = answer {
                write_packet(&icmp[..len], tun, counters, now)?;
            }
        }
        Ok(Source::More)
    }
}

/// The packets of one frame. All go the same way.
struct Frame<'a>(Segments<'a>);

impl<'a> Frame<'a> {
    fn new(mut segments: Segments<'a>) -> Self {
        segments.next();
        Self(segments)
    }
}

impl Packets for Frame<'_> {
    fn packet(&self) -> Option<&[u8]> {
        self.0.current()
    }

    fn advance(&mut self) {
        self.0.next();
    }
}

/// Seals a frame's packets, or queues or drops them. Gives the length of an ICMP error for their sender, if there is to be
/// one.
fn send<I: Identity>(
    mut frame: Frame<'_>,
    works: &mut Works,
    out: &mut Outlet<'_, I>,
    icmp: &mut [u8; MAX_ICMP_ERROR_LEN],
) -> Option<usize> {
    let mut was_unreachable = false;
    let mut answer = None;
    loop {
        match out.tunnel.send_all(&mut frame, out.now, out.queue) {
            Ok(Sent::Taken) => return answer,
            Ok(Sent::Unreachable) => {
                // One answer is enough for a whole super-packet.
                if let Some(packet) = frame.packet().filter(|_| !was_unreachable) {
                    answer = out.tunnel.answer_unreachable(packet, icmp, out.now);
                }
                was_unreachable = true;
                frame.advance();
            }
            Err(SinkFull) => {
                works.flush_and_wait(false, out);
                if out.queue.free_buffers() == 0 {
                    out.counters.drops.tun_overrun += 1;
                    frame.advance();
                }
            }
        }
    }
}

/// Puts a packet of our own among those for the TUN.
fn write_packet(
    packet: &[u8],
    tun: &mut impl TunPort,
    counters: &mut IoCounters,
    now: Instant,
) -> Result<(), Error> {
    let Some(coalescer) = tun.output(now, counters)? else {
        counters.drops.tun_blocked += 1;
        return Ok(());
    };
    let pushed = coalescer.push(packet);
    debug_assert!(pushed.is_ok(), "output() gives a coalescer with room");
    Ok(())
}

/// So much waits for a full socket that the TUN should wait, too.
fn is_backed_up(queue: &Queue) -> bool {
    queue.bytes() >= BACKLOG_BYTES || queue.free_buffers() < BACKLOG_BUFFERS
}
