//! Names of endpoints to addresses, patiently: at boot the network may not be there yet.

use std::{
    env, io,
    net::{SocketAddr, ToSocketAddrs},
    thread,
    time::Duration,
};

use io_runtime::DeviceUpdate;

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

/// The file as an update, all endpoints resolved.
pub(super) fn update(config: &Config) -> Result<DeviceUpdate, Trouble> {
    let tries = match env::var("WG_ENDPOINT_RESOLUTION_RETRIES") {
        Ok(text) if text == "infinity" => u32::MAX,
        Ok(text) => text.parse().map_err(|_| {
            Trouble::new(format!("WG_ENDPOINT_RESOLUTION_RETRIES is `{text}`"))
                .fix("use a number or `infinity`")
        })?,
        Err(_) => RETRIES,
    };
    config.update(|endpoint| resolve(endpoint, tries)).map_err(|(endpoint, error)| {
        Trouble::new(format!("cannot resolve the endpoint {endpoint}: {error}"))
            .fix("check the name, and the DNS")
    })
}

fn resolve(endpoint: &Endpoint, tries: u32) -> io::Result<SocketAddr> {
    let mut pause = FIRST_PAUSE;
    let mut left = tries;
    loop {
        let error = match (endpoint.host.as_str(), endpoint.port).to_socket_addrs() {
            Ok(mut addresses) => {
                return addresses.next().ok_or_else(|| io::Error::other("it has no address"));
            }
            Err(error) => error,
        };
        if left == 0 || !is_temporary(&error) {
            return Err(error);
        }
        left -= 1;
        let seconds = pause.as_secs_f32();
        output::notice(format_args!("volley: {endpoint}: {error}; trying again in {seconds:.1} s"));
        thread::sleep(pause);
        pause = (pause * 6 / 5).min(LONGEST_PAUSE);
    }
}

/// The standard library tells a resolver's EAI_AGAIN by its text alone.
fn is_temporary(error: &io::Error) -> bool {
    let text = error.to_string();
    ["Temporary failure", "Try again"].iter().any(|sign| text.contains(sign))
}
