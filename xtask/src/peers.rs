//! Whom to measure beside Volley: those that are installed, and those named on the command line.

use std::{path::Path, str::FromStr};

use anyhow::{Context, Error, Result, bail, ensure};
use netlab::{Implementation, find_program};

/// The implementations that are looked for.
pub(crate) const KNOWN: [&str; 3] = ["wireguard-go", "boringtun-cli", "gotatun"];

/// `--peer name='command {iface}'`.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) implementation: Implementation,
}

impl FromStr for Peer {
    type Err = Error;

    fn from_str(argument: &str) -> Result<Self> {
        let (name, command) = argument.split_once('=').context("say name='command {iface}'")?;
        let name = name.trim();
        ensure!(!name.is_empty(), "say name='command {{iface}}': the name is missing");
        let implementation = Implementation::template(name, command)?;
        let program = implementation.program();
        let is_path = program.components().count() > 1;
        let found = if is_path { program.is_file() } else { find_on_path(program) };
        ensure!(found, "{name}: there is no program {}", program.display());
        Ok(Self { implementation })
    }
}

fn find_on_path(program: &Path) -> bool {
    program.to_str().and_then(find_program).is_some()
}

/// What the search for [`KNOWN`] gave.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) found: Vec<Implementation>,
    /// One sentence for each that is not installed.
    pub(crate) missing: Vec<String>,
}

/// Looks for the known implementations, or for those named alone, which must then be there.
pub(crate) fn known_peers(only: &[String]) -> Result<Known> {
    if let Some(unknown) = only.iter().find(|name| !KNOWN.contains(&name.as_str())) {
        bail!("{unknown:?} is none of {}: name it with --peer", KNOWN.join(", "));
    }
    let mut known = Known::default();
    for name in KNOWN {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        match Implementation::find(name) {
            Some(implementation) => known.found.push(implementation),
            None => known.missing.push(format!(
                "{name} is not installed (looked on the path, in $VOLLEY_PEERS_DIR and in ~/.cache/volley-peers/bin)"
            )),
        }
    }
    if !only.is_empty() && !known.missing.is_empty() {
        bail!("{}", known.missing.join("; "));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_name_and_a_command_with_the_interface() {
        let peer: Peer = "other=sh -c {iface}".parse().unwrap();
        assert_eq!(peer.implementation.name(), "other");
        assert_eq!(peer.implementation.program(), Path::new("sh"));
        let with_equals: Peer = "other=sh --tun={iface}".parse().unwrap();
        assert_eq!(with_equals.implementation.name(), "other");
    }

    #[test]
    fn a_peer_that_cannot_be_started_is_refused_before_anything_is_measured() {
        for (argument, part) in [
            ("sh {iface}", "say name="),
            ("=sh {iface}", "the name is missing"),
            ("other=sh -f wg0", "{iface}"),
            ("other=", "empty"),
            ("other=no-such-program-here {iface}", "no program no-such-program-here"),
            ("other=/no/such/program {iface}", "no program /no/such/program"),
        ] {
            let error = argument.parse::<Peer>().unwrap_err().to_string();
            assert!(error.contains(part), "{argument}: {error}");
        }
    }

    #[test]
    fn an_unknown_name_is_pointed_to_the_other_option() {
        let error = known_peers(&["wiregard-go".into()]).unwrap_err().to_string();
        assert!(error.contains("--peer"), "{error}");
    }
}
