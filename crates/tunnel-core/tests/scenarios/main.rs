//! Whole tunnels in memory, with simulated time: one scenario per file.

#[expect(dead_code, reason = "the simulation uses the rest")]
mod native;
mod netem;
mod probe;
mod world;

mod allowed_ips;
mod back_pressure;
mod bad_input;
mod batches;
mod ecn;
mod expiry;
mod flood;
mod frames;
mod handshake_and_data;
mod hostile_input;
mod idle_peers;
mod key_change;
mod last_handshake;
mod link;
mod lossy_network;
mod nested;
mod persistent_keepalive;
mod preshared_key;
mod rekey;
mod roaming;
mod routing_loop;
mod soak;
mod source_check;
mod trains;
mod under_load;
mod unreachable;
mod updates;
mod waiting_queue;

#[global_allocator]
static ALLOCATOR: allocation_counter::CountingAllocator = allocation_counter::CountingAllocator;

/// The event loop may live on any thread.
const _: fn() = || {
    fn assert_send<T: Send>() {}
    assert_send::<tunnel_core::Tunnel<encrypt::boring::BoringIdentity>>();
};
