//! The daemon's life: made, ready, serving, gone.

mod background;
mod control;
mod link;
mod open;

use std::{sync::Arc, time::Duration};

use io_runtime::{DeviceStatus, Handle};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tracing::{error, info, warn};

use crate::{Trouble, WithFix, cli::DaemonArgs, log, metrics::Metrics, pcap, uapi::server::Socket};

use self::{background::Readiness, control::DeviceControl, link::MtuWatch};

/// How long the data plane may take to end. The whole daemon has half a second.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

/// `volley NAME`: runs the daemon here, or starts it in the background and returns when it is ready.
///
/// # Errors
/// What a person should read.
pub fn start(args: &DaemonArgs) -> Result<(), Trouble> {
    match Readiness::of(args.foreground) {
        Some(readiness) => run(args, readiness),
        None => background::launch(),
    }
}

fn run(args: &DaemonArgs, readiness: Readiness) -> Result<(), Trouble> {
    log::init(args.level());
    let device = open::open(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_trouble("cannot start the event loop")?;
    let metrics = args.metrics.map(Metrics::bind).transpose()?;
    let config = args.runtime_config(device.mtu);
    let handle = match &args.pcap {
        None => io_runtime::spawn(device.tun, config)?,
        Some(file) => {
            let tap = pcap::tap(device.tun, file)?;
            runtime.spawn(pcap::keep_flushed(Arc::downgrade(&tap)));
            io_runtime::spawn(tap, config)?
        }
    };
    let ended = runtime.block_on(async {
        if let Some(metrics) = metrics {
            info!("metrics are at http://{}/metrics", metrics.address());
            tokio::spawn(metrics.serve(device.name.clone(), handle.clone()));
        }
        let ended = live(&handle, &device.socket, &device.name, device.index, readiness).await;
        // The socket first: nobody should find it and then no answer.
        drop(device.socket);
        handle.shutdown();
        if timeout(SHUTDOWN_TIMEOUT, handle.finished()).await.is_err() {
            warn!("the data plane takes too long to end; leaving it behind");
        }
        ended
    });
    // What still runs in the background must not hold the process up.
    runtime.shutdown_background();
    ended
}

/// From ready until something ends it.
async fn live(
    handle: &Handle,
    socket: &Socket,
    name: &str,
    index: u32,
    readiness: Readiness,
) -> Result<(), Trouble> {
    let listen = |kind| signal(kind).or_trouble("cannot listen for signals");
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;

    let status = handle.status().await.or_trouble("cannot start the data plane")?;
    let mut mtu = MtuWatch::open(index, status.mtu);
    info!("{name} is ready: {}", summary(&status));
    readiness.announce(name)?;

    let serve = socket.serve(DeviceControl::new(handle.clone()));
    let removed = removed(socket);
    tokio::pin!(serve, removed);
    loop {
        tokio::select! {
            _ = interrupt.recv() => info!("{name} ends: SIGINT"),
            _ = terminate.recv() => info!("{name} ends: SIGTERM"),
            _ = hangup.recv() => info!("{name} ends: SIGHUP"),
            () = &mut removed => info!("{name} ends: its socket was removed"),
            served = &mut serve => served.or_trouble("cannot serve the configuration socket")?,
            ended = handle.finished() => return finished(name, ended),
            changed = mtu.next() => {
                info!("{name} follows the MTU: {changed}");
                // When the data plane is gone, the loop sees that itself.
                let _ = handle.set_mtu(changed).await;
                continue;
            }
        }
        return Ok(());
    }
}

/// Resolves when the socket's file is gone. Where it cannot be watched, other reasons to end remain.
async fn removed(socket: &Socket) {
    if let Err(error) = socket.deleted().await {
        warn!("the removal of the configuration socket would not be noticed: {error}");
        std::future::pending::<()>().await;
    }
}

fn finished(name: &str, ended: Result<(), io_runtime::Error>) -> Result<(), Trouble> {
    match ended {
        Ok(()) => Ok(()),
        Err(io_runtime::Error::DeviceGone) => {
            info!("{name} ends: its interface was deleted");
            Ok(())
        }
        Err(failure) => {
            error!("{name} ends: {failure}");
            Err(failure.into())
        }
    }
}

/// One line of what is on, and why the rest is off.
fn summary(status: &DeviceStatus) -> String {
    let features = &status.features;
    let offloads = features.tun_offloads;
    let offloads = [("checksum", offloads.checksum), ("tso", offloads.tso), ("uso", offloads.uso)];
    let offloads: Vec<_> = offloads.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let offloads = if offloads.is_empty() { "off".to_owned() } else { offloads.join("+") };
    format!(
        "UDP port {}, {}, GSO {}, GRO {}, TUN offloads {offloads}, coalescing {}, {:?}, MTU {}",
        status.listen_port,
        if features.ipv6 { "IPv4 and IPv6" } else { "IPv4 only" },
        features.udp_gso,
        features.udp_gro,
        features.tun_coalesce,
        features.arrangement,
        status.mtu,
    )
}
