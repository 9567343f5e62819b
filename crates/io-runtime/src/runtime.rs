//! Starting the data plane, and reporting how it ended.

use std::{
    any::Any,
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use encrypt::Identity;
use tun_device::{CoalesceConfig, TunDevice};

use crate::{
    Arrangement, Backend, Crew, Error, Feature, Features, Handle, RuntimeConfig,
    alarm::Alarm,
    crew::MAX_HELPERS,
    drive::DataPlane,
    handle::Control,
    kernel::Release,
    tun::{Inline, Threads, TunPort},
    udp::{Sockets, max_gso_segments},
};

/// With this many cores, threads of their own take the TUN's copies off the busiest core. With fewer they
/// only take turns, and every hop between them costs a wake-up. See docs/threads.md for the numbers.
const CORES_FOR_TUN_THREADS: usize = 4;

/// Helpers that [`Crew::Auto`] takes at most: with so many, what the loop alone has to do is the limit. See docs/threads.md.
const MOST_BY_THEMSELVES: usize = 3;

/// Starts the data plane on a thread of its own and gives the handle to it.
///
/// Sockets are opened in the calling thread's network namespace, before this returns.
///
/// # Errors
/// [`Error`] when the sockets, the event loop or the threads cannot be made; nothing is left behind then.
pub fn spawn<D: TunDevice + AsFd>(device: D, config: RuntimeConfig) -> Result<Handle, Error> {
    let sockets = bind(&config)?;
    let backend = Some(config.backend);
    match config.backend {
        #[cfg(feature = "boringtun")]
        Backend::Boringtun => start::<encrypt::boring::BoringIdentity, D>(device, sockets, config, backend),
        #[cfg(not(feature = "boringtun"))]
        missing @ Backend::Boringtun => Err(Error::NotBuilt(missing)),
        Backend::Native => start::<encrypt::native::NativeIdentity, D>(device, sockets, config, backend),
    }
}

/// [`spawn`] with a crypto backend of the caller's.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_with<I, D>(device: D, config: RuntimeConfig) -> Result<Handle, Error>
where
    I: Identity + 'static,
    D: TunDevice + AsFd,
{
    let sockets = bind(&config)?;
    start::<I, D>(device, sockets, config, None)
}

fn bind(config: &RuntimeConfig) -> Result<Sockets, Error> {
    Ok(Sockets::bind(config.listen_port, config.fwmark, config.socket_options())?)
}

/// [`spawn_with`], once there are sockets.
pub(crate) fn start<I, D>(
    device: D,
    sockets: Sockets,
    config: RuntimeConfig,
    backend: Option<Backend>,
) -> Result<Handle, Error>
where
    I: Identity + 'static,
    D: TunDevice + AsFd,
{
    let features = features(&config, &device, &sockets, Release::running(), backend);
    tracing::debug!(
        port = sockets.port,
        ipv6 = features.ipv6,
        arrangement = ?features.arrangement,
        crew = features.crew,
        backend = ?features.backend,
        udp_gso = %features.udp_gso,
        segments = features.udp_gso_segments,
        udp_gro = %features.udp_gro,
        tun_coalesce_tcp = %features.tun_coalesce_tcp,
        tun_coalesce_udp = %features.tun_coalesce_udp,
        sched_batch = %features.sched_batch,
        tun_offloads = ?features.tun_offloads,
        send_buffer = features.udp_send_buffer,
        recv_buffer = features.udp_recv_buffer,
        "data plane"
    );

    let alarm = Arc::new(Alarm::new().map_err(start_error)?);
    let (handle, control) = Handle::new(Arc::clone(&alarm));
    let (report, started) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("volley-data".into())
        .spawn(move || live::<I, D>(device, sockets, config, features, alarm, control, &report))
        .map_err(|error| Error::Start(error.into()))?;
    started.recv().unwrap_or_else(|_| Err(Error::Panicked("while it started".into())))?;
    Ok(handle)
}

/// The data plane's thread, from first to last.
fn live<I: Identity + 'static, D: TunDevice + AsFd>(
    device: D,
    sockets: Sockets,
    config: RuntimeConfig,
    features: Features,
    alarm: Arc<Alarm>,
    control: Control,
    started: &mpsc::SyncSender<Result<(), Error>>,
) {
    let Control { requests, outcome } = control;
    let life = AssertUnwindSafe(|| {
        let device = Arc::new(device);
        let coalesce = coalesce_config(&features);
        match features.arrangement {
            Arrangement::TunThreads => {
                let tun = Threads::start(device, coalesce, &config, &alarm).map_err(start_error)?;
                let plane = DataPlane::<I, _>::new(tun, sockets, config, features, alarm, requests)?;
                run(plane, started)
            }
            Arrangement::Inline | Arrangement::Auto => {
                let tun = Inline::new(device, coalesce);
                let plane = DataPlane::<I, _>::new(tun, sockets, config, features, alarm, requests)?;
                run(plane, started)
            }
        }
    });
    let result = catch_unwind(life).unwrap_or_else(|panic| Err(Error::Panicked(panic_message(&*panic))));
    match &result {
        Ok(()) => tracing::debug!("the data plane has ended"),
        Err(error) => tracing::debug!(%error, "the data plane has ended"),
    }
    // Whoever waits for the start hears of a failure; later there is nobody.
    let _ = started.try_send(result.clone());
    outcome.send_replace(Some(result));
}

fn run<I: Identity, P: TunPort>(
    mut plane: DataPlane<I, P>,
    started: &mpsc::SyncSender<Result<(), Error>>,
) -> Result<(), Error> {
    let _ = started.send(Ok(()));
    let ended = plane.run();
    // A thread's panic is the cause of whatever else went wrong.
    plane.close().and(ended)
}

fn start_error(error: std::io::Error) -> Error {
    Error::Start(error.into())
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").into()
}

fn features(
    config: &RuntimeConfig,
    device: &impl TunDevice,
    sockets: &Sockets,
    release: Option<Release>,
    backend: Option<Backend>,
) -> Features {
    let offloads = device.offloads();
    let udp_gso = udp_gso(config.udp_gso, sockets.v4.has_gso(), release);
    let (udp_send_buffer, udp_recv_buffer) = sockets.v4.buffer_sizes();
    Features {
        arrangement: arrangement(config.arrangement),
        crew: helpers(config.crew, backend),
        backend,
        ipv6: sockets.v6.is_some(),
        udp_gso,
        udp_gso_segments: if udp_gso.is_on() { max_gso_segments() } else { 1 },
        udp_gro: feature(config.udp_gro, sockets.v4.has_gro()),
        tun_coalesce_tcp: feature(config.tun_coalesce, offloads.tso),
        tun_coalesce_udp: feature(config.tun_coalesce, offloads.uso),
        sched_batch: feature(config.sched_batch, true), // its thread will know better
        tun_offloads: offloads,
        udp_send_buffer,
        udp_recv_buffer,
    }
}

fn feature(wanted: bool, supported: bool) -> Feature {
    match (wanted, supported) {
        (false, _) => Feature::Disabled,
        (true, false) => Feature::Unsupported,
        (true, true) => Feature::On,
    }
}

fn udp_gso(wanted: bool, supported: bool, release: Option<Release>) -> Feature {
    match feature(wanted, supported) {
        Feature::On if release.is_some_and(Release::corrupts_gso) => Feature::KernelBug,
        other => other,
    }
}

fn arrangement(wanted: Arrangement) -> Arrangement {
    match wanted {
        Arrangement::Auto => {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            if cores >= CORES_FOR_TUN_THREADS { Arrangement::TunThreads } else { Arrangement::Inline }
        }
        chosen => chosen,
    }
}

/// How many helpers there will be.
fn helpers(wanted: Crew, backend: Option<Backend>) -> usize {
    match wanted {
        _ if backend == Some(Backend::Boringtun) => 0, // it would leave them nothing to do
        Crew::Auto => {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            (cores - 1).min(MOST_BY_THEMSELVES)
        }
        Crew::Helpers(helpers) => helpers.min(MAX_HELPERS),
    }
}

fn coalesce_config(features: &Features) -> CoalesceConfig {
    CoalesceConfig {
        tso: features.tun_coalesce_tcp.is_on(),
        uso: features.tun_coalesce_udp.is_on(),
        ..CoalesceConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gso_is_off_on_kernels_that_corrupt_it_and_says_why() {
        let bad = Release::parse("7.1.2");
        assert_eq!(udp_gso(true, true, bad), Feature::KernelBug);
        assert_eq!(udp_gso(true, true, Release::parse("7.1.5")), Feature::On);
        assert_eq!(udp_gso(true, true, None), Feature::On);
        assert_eq!(udp_gso(false, true, bad), Feature::Disabled);
        assert_eq!(udp_gso(true, false, bad), Feature::Unsupported);
        assert!(Feature::KernelBug.to_string().contains("7.1.4"));
    }

    #[test]
    fn auto_is_resolved() {
        assert_ne!(arrangement(Arrangement::Auto), Arrangement::Auto);
        assert_eq!(arrangement(Arrangement::TunThreads), Arrangement::TunThreads);
    }
}
