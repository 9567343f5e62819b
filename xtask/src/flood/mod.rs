//! `cargo xtask flood`: what floods of handshakes, and honest crowds, do to a running tunnel.

mod attack;
mod client;
mod report;
mod scene;
mod strangers;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use netlab::Implementation;

use self::{
    report::Report,
    scene::{Beside, Scene},
};
use crate::measure::{Machine, volley_binary};

/// Floods a running tunnel with handshakes, and has crowds of honest clients come at once.
///
/// Two daemons with a tunnel that carries TCP and pings; initiations arrive at one of them from a network of strangers. The
/// same traffic without a flood, and with the flood sent to a port where nobody looks at it, takes turns with it: what the
/// generators and the kernel cost is in the latter, too.
#[derive(Args, Debug)]
pub(crate) struct Flood {
    /// Rounds; figures are medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these parts.
    #[arg(long, value_delimiter = ',', value_enum)]
    parts: Vec<Part>,
    /// Seconds of TCP for each measurement; beside a flood at least 8, so that clients can try twice.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Initiations a second from as many addresses.
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// Initiations a second from a thousand senders that have a cookie.
    #[arg(long, default_value_t = 5_000)]
    proven_rate: u32,
    /// Flood this binary instead of building one.
    #[arg(long, value_name = "FILE")]
    volley: Option<PathBuf>,
    /// Flood another implementation (wireguard-go, boringtun-cli, gotatun).
    #[arg(long, value_name = "NAME", conflicts_with = "volley")]
    implementation: Option<String>,
    /// Arguments for volley, say `--backend=native`.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    with: Vec<String>,
    /// Write the tables as Markdown, too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A flood from as many addresses as messages.
    Unproven,
    /// A flood by strangers that have a cookie.
    Proven,
    /// A thousand clients that come back at once from one address.
    Crowd,
    /// Five thousand peers that rekey in the same second.
    Rekey,
}

impl Flood {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.seconds.is_finite() && self.seconds >= 0.5, "--seconds: at least a half");
        let implementation = self.implementation()?;
        netlab::enter_user_namespace()?;
        let machine = Machine::here()?;
        let warning = machine.warn_if_busy()?;
        let parts = if self.parts.is_empty() { Part::value_variants() } else { &self.parts };
        let mut report = Report::default();
        for round in 1..=self.rounds {
            for part in parts {
                tell!("round {round} of {}: {part:?} …", self.rounds);
                self.measure(*part, &implementation, &mut report).with_context(|| format!("{part:?}"))?;
            }
        }
        let mut text = format!("{}\n\nMedians of {} rounds.\n\n{report}", machine.describe(), self.rounds);
        warning.into_iter().for_each(|warning| text += &format!("NOTE {warning}\n"));
        say!("{text}");
        if let Some(file) = &self.markdown {
            fs::write(file, &text).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    fn implementation(&self) -> Result<Implementation> {
        if let Some(name) = &self.implementation {
            return Implementation::find(name).with_context(|| format!("{name} is not installed"));
        }
        let arguments: Vec<&str> = self.with.iter().map(String::as_str).collect();
        Ok(Implementation::volley(&volley_binary(self.volley.as_deref())?, &arguments))
    }

    fn measure(&self, part: Part, implementation: &Implementation, report: &mut Report) -> Result<()> {
        let scene = Scene::start(implementation)?;
        match part {
            Part::Unproven | Part::Proven => self.flood(part, &scene, report)?,
            Part::Crowd => report.crowd(&scene.crowd(1000)?),
            Part::Rekey => {
                let [before, meanwhile] = scene.rekey(5000)?;
                report.rekey(&before, &meanwhile);
            }
        }
        Ok(())
    }

    /// The tunnel without a flood, beside one to a port where nobody looks at it, and beside one to the daemon, while clients
    /// connect.
    fn flood(&self, part: Part, scene: &Scene, report: &mut Report) -> Result<()> {
        let time = Duration::from_secs_f64(self.seconds);
        let rate = if part == Part::Proven { self.proven_rate } else { self.rate };
        let flood = scene.unproven()?;
        report.beside(part, "without", &scene.beside(time)?);

        let running = flood.start(scene.victim(), Scene::DEAF_PORT, rate);
        let beside = scene.beside(time);
        let (mut flood, sent) = running.stop()?;
        report.beside(part, "deaf port", &Beside { flood: Some(sent), ..beside? });

        if part == Part::Proven {
            flood = scene.proven(flood)?;
        }
        let clients = scene.good_clients(8)?;
        let running = flood.start(scene.victim(), Scene::PORT, rate);
        let clients = clients.connect(scene);
        let beside = scene.beside(time.max(scene::TWO_TRIES));
        let arrivals = clients.end();
        let (_, sent) = running.stop()?;
        report.beside(part, "flooded", &Beside { flood: Some(sent), ..beside? });
        let [known, unknown] = arrivals?;
        report.clients(part, "peer at its endpoint", &known);
        report.clients(part, "peer at a new address", &unknown);
        Ok(())
    }
}
