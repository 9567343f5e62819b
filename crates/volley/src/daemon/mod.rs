//! The daemon's life: made, ready, serving, gone.

mod args;
mod background;
mod control;
mod link;
mod open;
mod privileges;
mod protection;
mod routes;

use std::{
    env,
    ffi::OsString,
    fs::File,
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use io_runtime::{Backend, DeviceStatus, Handle};
use sd_notify::NotifyState;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::{
    Trouble, WithFix, pcap,
    signals::{EndSignals, event_loop},
    uapi::Socket,
};

pub use self::args::{ArrangementArg, DaemonArgs};
pub(crate) use self::args::{interface_name, switch};

use self::{
    background::Readiness,
    control::DeviceControl,
    link::{Elsewhere, LinkState, LinkWatch},
    open::Device,
};

/// How long the data plane may take to end. The whole daemon has half a second.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

/// `volley NAME`: runs the daemon here, or starts it in the background and returns when it is ready.
///
/// # Errors
/// What a person should read.
pub fn start(args: &DaemonArgs) -> Result<(), Trouble> {
    let backend = Backend::from(args.backend);
    if !backend.is_built() {
        return Err(io_runtime::Error::NotBuilt(backend).into());
    }
    match Readiness::of(args.foreground) {
        Some(readiness) => run(args, readiness),
        None => {
            let mut command = background::this(env::args_os().skip(1));
            let (runtime, mut end) = event_loop()?;
            runtime.block_on(end.unless(background::launch(command.stdin(Stdio::null())))).map(drop)
        }
    }
}

/// Starts a daemon for `name` in the background, whatever the name, and returns when it is ready. Until then it keeps
/// `lock` open: should its parent die, nobody has the lock before it has noticed, and is gone. Dropped, it leaves no
/// daemon.
///
/// # Errors
/// What a person should read.
pub(crate) async fn launch(name: &str, lock: File) -> Result<Child, Trouble> {
    let mut command = background::this(["run", name].map(OsString::from));
    // The daemon is ready long before the interface is set up.
    background::launch(command.env_remove("NOTIFY_SOCKET").stdin(lock)).await
}

fn run(args: &DaemonArgs, readiness: Readiness) -> Result<(), Trouble> {
    let (runtime, mut end) = event_loop()?;
    readiness.start_log(args.level());
    protection::ensure()?;
    let Device { tun, socket, name, interface, capture, metrics } = open::open(args)?;
    let elsewhere = runtime.block_on(async { Elsewhere::open() });
    // Threads take their privileges from the one that starts them.
    privileges::reduce();
    let link = runtime.block_on(LinkWatch::open(interface, elsewhere));
    let LinkState { mtu, is_up } = link.state();
    let config = args.runtime_config(mtu, is_up);
    let handle = match capture {
        None => io_runtime::spawn(tun, config)?,
        Some(capture) => {
            let tap = capture.tap(tun)?;
            runtime.spawn(pcap::keep_flushed(Arc::downgrade(&tap)));
            io_runtime::spawn(tap, config)?
        }
    };
    let ended = runtime.block_on(async {
        let control = DeviceControl::new(handle.clone());
        if let Some(metrics) = metrics {
            let served = metrics.serve(name.clone(), handle.clone());
            tokio::spawn(async {
                if let Err(error) = served.await {
                    warn!("no metrics are offered: {error}");
                }
            });
        }
        tokio::spawn(routes::follow(handle.clone()));
        let ended = live(&control, &handle, &socket, &name, link, readiness, &mut end).await;
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        // The socket first: nobody should find it and then no answer.
        drop(socket);
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
    control: &DeviceControl,
    handle: &Handle,
    socket: &Socket,
    name: &str,
    mut link: LinkWatch,
    readiness: Readiness,
    end: &mut EndSignals,
) -> Result<(), Trouble> {
    let status = tokio::select! {
        biased;
        signal = end.any() => {
            info!("{name} ends before it is ready: {signal}");
            return Ok(());
        }
        status = handle.status() => status.or_trouble("cannot start the data plane")?,
    };
    let mut known = link.state();
    info!("{name} is ready: {}", summary(&status));
    readiness.announce(name)?;

    let serve = socket.serve(control.clone());
    let removed = socket.deleted();
    tokio::pin!(serve, removed);
    loop {
        tokio::select! {
            signal = end.any() => info!("{name} ends: {signal}"),
            () = &mut removed => info!("{name} ends: its socket was removed"),
            served = &mut serve => served.or_trouble("cannot serve the configuration socket")?,
            ended = handle.finished() => return finished(name, ended),
            changed = link.next() => {
                follow(handle, name, known, changed).await;
                known = changed;
                continue;
            }
        }
        return Ok(());
    }
}

/// Has the data plane do as its interface does. When it is gone, the loop sees that itself.
async fn follow(handle: &Handle, name: &str, known: LinkState, changed: LinkState) {
    if changed.mtu != known.mtu {
        info!("{name} follows the MTU: {}", changed.mtu);
        let _ = handle.set_mtu(changed.mtu).await;
    }
    if changed.is_up != known.is_up {
        info!("{name} was set {}", if changed.is_up { "up" } else { "down: its port is closed" });
        let _ = handle.set_link_up(changed.is_up).await;
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
    let on = |on: bool| if on { "on" } else { "off" };
    format!(
        "UDP port {}, {}, GSO {}, GRO {}, TUN checksums {}, TSO in {}, USO in {}, TCP merged out {}, UDP merged out {}, {:?}, {} helpers, batch scheduling {}, MTU {}",
        status.listen_port,
        if features.ipv6 { "IPv4 and IPv6" } else { "IPv4 only" },
        features.udp_gso,
        features.udp_gro,
        on(offloads.checksum),
        on(offloads.tso),
        on(offloads.uso),
        features.tun_coalesce_tcp,
        features.tun_coalesce_udp,
        features.arrangement,
        features.crew,
        features.sched_batch,
        status.mtu,
    )
}
