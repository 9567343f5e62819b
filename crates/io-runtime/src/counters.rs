//! What the I/O side counted. Plain numbers, owned by the data plane's thread and copied out on request.

/// A histogram of batch sizes with power-of-two buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; Self::BUCKETS],
    sum: u64,
}

impl Histogram {
    /// 1, 2, ≤ 4, … ≤ 128: the kernel neither sends nor receives more than 128 datagrams in one buffer
    /// (`UDP_MAX_SEGMENTS` in linux/udp.h, `UDP_GRO_CNT_MAX` in net/ipv4/udp_offload.c).
    pub const BUCKETS: usize = 8;

    /// Adds one batch of `size` items. Batches past the last bound are counted in the last bucket.
    pub fn record(&mut self, size: usize) {
        let bucket = size.max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)] += 1;
        self.sum += size as u64;
    }

    /// `(largest size the bucket holds, batches in it)`, smallest first.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(i, &count)| (1 << i, count))
    }

    /// Batches recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Items in all of them.
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// Items per batch, 0 when there was none.
    pub fn mean(&self) -> f64 {
        match self.count() {
            0 => 0.0,
            count => self.sum as f64 / count as f64,
        }
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)*
        }

        impl $name {
            /// Every counter with its name, in declaration order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($field), self.$field)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Every way the I/O side loses a packet. What the core drops is in `tunnel_core::Counters`.
    Drops {
        /// Datagrams longer than the path or the interface takes (EMSGSIZE on a plain send).
        udp_too_big,
        /// Datagrams the kernel refused for another reason: no route, a firewall, a dead device.
        udp_refused,
        /// Datagrams that found the socket's send buffer full, or their share of it, for longer than a moment.
        udp_send_full,
        /// Datagrams for an address family we have no socket for, or for which the interface was set down too soon.
        udp_no_socket,
        /// Frames from the TUN that are not packets, or do not match their virtio-net header.
        tun_malformed,
        /// Frames that could not be read from the TUN.
        tun_unreadable,
        /// Packets from the TUN that found the UDP side full, although the loop stops reading in time.
        tun_overrun,
        /// ICMP errors for the TUN, which took nothing more.
        tun_blocked,
        /// Frames for the TUN while the interface was down.
        tun_down,
        /// Frames the TUN refused for another reason.
        tun_refused,
    }
}

impl Drops {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }
}

counters! {
    /// Calls and what they carried.
    Traffic {
        /// `sendmsg` calls, failed ones included.
        udp_send_calls,
        /// Datagrams the kernel took.
        udp_datagrams_sent,
        /// Their bytes, UDP payload.
        udp_bytes_sent,
        /// Batches that found the socket's send buffer full, or their share of it, and waited.
        udp_send_blocked,
        /// GSO sends that failed and were repeated as plain datagrams.
        gso_fallbacks,
        /// Routes on which GSO was found broken, so it is off there until a probe succeeds.
        gso_routes_disabled,
        /// GSO sends tried again on such a route.
        gso_probes,
        /// Pinned source addresses given up because the kernel refused them.
        sources_unpinned,
        /// `recvmmsg` calls, empty ones included.
        udp_recv_calls,
        /// Of these, calls that failed otherwise than by being empty.
        udp_recv_errors,
        /// Datagrams received, after splitting GRO buffers.
        udp_datagrams_received,
        /// Their bytes, UDP payload.
        udp_bytes_received,
        /// TUN reads, empty ones included.
        tun_reads,
        /// Frames read.
        tun_frames_read,
        /// Packets read, after segmenting super-packets.
        tun_packets_read,
        /// Bytes of the frames read, virtio-net headers excluded.
        tun_bytes_read,
        /// TUN writes.
        tun_writes,
        /// Packets for the TUN, before coalescing.
        tun_packets_written,
        /// Super-packets written.
        tun_super_frames_written,
        /// Super-packets the kernel refused, written again packet by packet.
        tun_frames_replayed,
        /// Bytes of the frames written, virtio-net headers excluded.
        tun_bytes_written,
        /// Batches that helpers encrypted or decrypted.
        jobs_helped,
        /// Turns of the drive loop.
        ticks,
        /// Times the loop slept and was woken.
        wakeups,
    }
}

/// A snapshot of everything the I/O side counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoCounters {
    /// Calls and bytes.
    pub traffic: Traffic,
    /// Losses, by reason.
    pub drops: Drops,
    /// Datagrams per successful UDP send.
    pub send_batches: Histogram,
    /// Datagrams per received UDP buffer (more than 1 is GRO at work).
    pub recv_batches: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_buckets_are_powers_of_two() {
        let mut histogram = Histogram::default();
        for size in [1, 2, 3, 4, 5, 64, 65, 128, 4_000] {
            histogram.record(size);
        }
        let counts: Vec<_> = histogram.buckets().collect();
        assert_eq!(counts, [(1, 1), (2, 1), (4, 2), (8, 1), (16, 0), (32, 0), (64, 1), (128, 3)]);
        assert_eq!(histogram.count(), 9);
        assert_eq!(histogram.sum(), 1 + 2 + 3 + 4 + 5 + 64 + 65 + 128 + 4_000);
    }

    #[test]
    fn counters_name_themselves() {
        let drops = Drops { udp_too_big: 2, tun_down: 3, ..Drops::default() };
        assert!(drops.iter().any(|entry| entry == ("udp_too_big", 2)));
        assert_eq!(drops.total(), 5);
    }
}
