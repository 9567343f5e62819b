//! Names of endpoints to addresses, patiently: at boot the network may not be there yet.

use std::{
    collections::{HashMap, hash_map::Entry},
    env, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    thread,
    time::Duration,
};

use io_runtime::DeviceUpdate;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    Trouble,
    config::{Config, Endpoint},
    output,
};

/// Tries after the first, unless `WG_ENDPOINT_RESOLUTION_RETRIES` says otherwise: `wg`'s number.
const RETRIES: u32 = 15;

/// The pause before the second try. Each next one is a fifth longer, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The file as an update, all endpoints resolved. It may take minutes, and can be dropped meanwhile.
pub(super) async fn update(config: &Config) -> Result<DeviceUpdate, Trouble> {
    let tries = tries()?;
    let mut known = HashMap::new();
    for endpoint in config.peers.iter().filter_map(|peer| peer.endpoint.as_ref()) {
        if let Entry::Vacant(unknown) = known.entry(endpoint.to_string()) {
            let address = resolve(endpoint, tries).await.map_err(|error| {
                Trouble::new(format!("cannot resolve the endpoint {endpoint}: {error}"))
                    .fix("check the name, and the DNS")
            })?;
            unknown.insert(address);
        }
    }
    let address = |endpoint: &Endpoint| {
        known.get(&endpoint.to_string()).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    config.update(address).map_err(|(endpoint, error)| Trouble::new(format!("{endpoint}: {error}")))
}

fn tries() -> Result<u32, Trouble> {
    match env::var("WG_ENDPOINT_RESOLUTION_RETRIES") {
        Ok(text) if text == "infinity" => Ok(u32::MAX),
        Ok(text) => text.parse().map_err(|_| {
            Trouble::new(format!("WG_ENDPOINT_RESOLUTION_RETRIES is `{text}`"))
                .fix("use a number or `infinity`")
        }),
        Err(_) => Ok(RETRIES),
    }
}

async fn resolve(endpoint: &Endpoint, tries: u32) -> io::Result<SocketAddr> {
    if let Ok(address) = endpoint.host.parse::<IpAddr>() {
        return Ok((address.to_canonical(), endpoint.port).into());
    }
    let mut pause = FIRST_PAUSE;
    let mut left = tries;
    loop {
        let error = match look_up(endpoint).await {
            Ok(address) => return Ok(address),
            Err(error) => error,
        };
        if left == 0 || !is_temporary(&error) {
            return Err(error);
        }
        left -= 1;
        let seconds = pause.as_secs_f32();
        output::notice(format_args!("volley: {endpoint}: {error}; trying again in {seconds:.1} s"));
        sleep(pause).await;
        pause = (pause * 6 / 5).min(LONGEST_PAUSE);
    }
}

/// Asks the C library in a thread of its own, which is left behind if nobody waits for the answer: it cannot be
/// interrupted.
async fn look_up(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    let (answer, answered) = oneshot::channel();
    let wanted = (endpoint.host.clone(), endpoint.port);
    thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let addresses = wanted.to_socket_addrs();
        let first =
            addresses.and_then(|mut all| all.next().ok_or_else(|| io::Error::other("it has no address")));
        // Dropped by whoever has asked, it is not needed.
        let _ = answer.send(first);
    })?;
    answered.await.unwrap_or_else(|_| Err(io::Error::other("the resolver failed")))
}

/// The standard library tells a resolver's EAI_AGAIN by its text alone.
fn is_temporary(error: &io::Error) -> bool {
    let text = error.to_string();
    ["Temporary failure", "Try again"].iter().any(|sign| text.contains(sign))
}
