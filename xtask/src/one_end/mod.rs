//! `cargo xtask one-end`: one end of a tunnel alone, so that daemons are compared without the other end's cost.

mod chart;
mod contestant;
mod report;
mod row;
mod run;

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::{
    contestant::{Contestant, Variant},
    report::Report,
    row::{Case, Row},
    run::{Settings, run_rounds},
};
use crate::{
    cargo,
    measure::{Machine, to_json, volley_binary},
    peers::{Known, Peer, known_peers},
};

/// Measures each daemon's sending and receiving by a ladder of rates.
#[derive(Args, Debug)]
#[command(
    after_help = "How: to let a daemon send, full packets are put into its interface, 45 a call, and its peers' host drops \
what is longer than a handshake. To let it receive, a load program shakes hands, seals everything beforehand and sends trains; \
behind the tunnel the kernel drops. A ladder of rates finds what is carried with less than 1 % lost; the daemon's CPU time is \
read there and at half of it. Needs root, or user namespaces, and nft. docs/measuring.md says more.

Examples:
  cargo xtask one-end --alone --variant 'native=--backend native' --variant 'boringtun=--backend boringtun'
  cargo xtask one-end --alone --variant 'crew=VOLLEY_CREW=1' --variant 'no crew=VOLLEY_CREW=0' --cores 2
  cargo xtask one-end --peer mine='/path/to/daemon -f {iface}' --cases send-tcp,receive-tcp
  cargo xtask one-end --alone --free-cipher --cores 1     # what everything but the cipher costs
  cargo xtask one-end --cases peers                       # 1, 100 and 1,000 peers in turn"
)]
pub(crate) struct OneEnd {
    /// Rounds, the daemons taking turns in each; figures are medians.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these cases; all but `peers` if none is named.
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
    /// How many processors a daemon may use; each of these in turn. The load has the others, if there are any.
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = default_cores())]
    cores: Vec<usize>,
    /// Volley in some other way than by default: name='[VARIABLE=VALUE …] [--option …]'. Replaces the default one.
    #[arg(long = "variant", value_name = "NAME=HOW")]
    variants: Vec<Variant>,
    /// One more implementation, by the command that runs it in the foreground: name='command {iface}'.
    #[arg(long = "peer", value_name = "NAME=COMMAND")]
    peers: Vec<Peer>,
    /// Only these of the implementations that are looked for (wireguard-go, boringtun-cli, gotatun). Each must be there.
    #[arg(long, value_delimiter = ',', value_name = "NAME", conflicts_with = "alone")]
    only: Vec<String>,
    /// None of the implementations that are looked for.
    #[arg(long)]
    alone: bool,
    /// Also Volley's own backend with a cipher that costs nothing: what is left is what the rest of it costs. Builds a
    /// second daemon that protects nothing, and serves nothing but this.
    #[arg(long)]
    free_cipher: bool,
    /// Seconds for each rung of a ladder.
    #[arg(long, default_value_t = 0.4)]
    seconds: f64,
    /// How much is sealed beforehand, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memory: u32,
    /// One round of a tenth of a second a rung, shown and not written: whether it works, not how well.
    #[arg(long)]
    quick: bool,
    /// Measure this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    volley: Option<PathBuf>,
    /// Where table and chart go, such as docs/bench; by default nowhere.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write every sample as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One, and two where there are two.
fn default_cores() -> Vec<usize> {
    let all = thread::available_parallelism().map_or(1, usize::from);
    (1..=all.min(2)).collect()
}

impl OneEnd {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.seconds.is_finite() && self.seconds >= 0.05, "--seconds: at least a twentieth");
        ensure!(netlab::find_program("nft").is_some(), "there is no nft: install nftables");
        let (rounds, seconds) = if self.quick { (1, 0.1) } else { (self.rounds, self.seconds) };
        let settings =
            Settings { time: Duration::from_secs_f64(seconds), memory: self.memory as usize * (1 << 20) };
        let rows = Row::all(&self.cases, &self.cores);
        let (contestants, ours, missing) = self.contestants()?;
        netlab::enter_user_namespace()?;
        let machine = Machine::here()?;
        missing.iter().for_each(|missing| tell!("NOT MEASURED: {missing}"));
        let minutes = settings.estimate(contestants.len(), &rows, rounds).as_secs() / 60 + 1;
        tell!(
            "{} daemons, {} rows, {rounds} rounds: about {minutes} minutes …",
            contestants.len(),
            rows.len()
        );

        let warning = machine.warn_if_busy()?;
        let (mut results, threads) = run_rounds(&contestants, &rows, rounds, &settings)?;
        missing.into_iter().chain(warning).for_each(|note| results.note(note));
        let report = Report { machine: &machine, results: &results, threads: &threads, rounds, settings };
        say!("{}", report.text());
        if let Some(folder) = &self.out {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            let files = [("one-end.md", report.markdown()), ("one-end.svg", chart::draw(&results, ours)?)];
            for (name, text) in files {
                let file = folder.join(name);
                fs::write(&file, text).with_context(|| file.display().to_string())?;
                tell!("Wrote {}", file.display());
            }
        }
        if let Some(file) = &self.json {
            fs::write(file, to_json(&machine, &results, rounds, settings.time)?)
                .with_context(|| file.display().to_string())?;
        }
        let failed = results.notes().iter().any(|note| note.starts_with("round "));
        ensure!(!failed, "daemons failed; see the notes");
        Ok(())
    }

    /// Everybody who is measured, Volley first, and how many are Volley; then who was looked for and not found.
    fn contestants(&self) -> Result<(Vec<Contestant>, usize, Vec<String>)> {
        let known = if self.alone { Known::default() } else { known_peers(&self.only)? };
        let volley = volley_binary(self.volley.as_deref())?;
        let mut contestants: Vec<_> = match &self.variants[..] {
            [] => vec![Contestant::new(Variant::default().implementation(&volley))],
            variants => {
                variants.iter().map(|variant| Contestant::new(variant.implementation(&volley))).collect()
            }
        };
        if self.free_cipher {
            contestants.push(Contestant::without_cipher(&cargo::build_volley_without_cipher()?)?);
        }
        let ours = contestants.len();
        contestants.extend(known.found.into_iter().map(Contestant::new));
        contestants.extend(self.peers.iter().map(|peer| Contestant::new(peer.implementation.clone())));
        contestant::ensure_distinct(&contestants)?;
        Ok((contestants, ours, known.missing))
    }
}
