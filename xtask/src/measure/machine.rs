//! What it was measured on, and whether anything else was running.

use std::{fs, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// More than this share of the machine busy before we start is noise worth a warning.
const QUIET: f64 = 0.05;

/// The machine and the day.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) date: String,
}

impl Machine {
    /// Asks the kernel.
    pub(crate) fn here() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's version")?;
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("date")?;
        ensure!(date.status.success(), "date failed");
        Ok(Self {
            cpu: cpu_model(&cpuinfo).unwrap_or("unknown CPU").to_owned(),
            cores: thread::available_parallelism()?.get(),
            kernel: kernel.trim().to_owned(),
            date: String::from_utf8(date.stdout)?.trim().to_owned(),
        })
    }

    /// One line for under a title.
    pub(crate) fn describe(&self) -> String {
        format!("{}, {} cores, Linux {}, {}", self.cpu, self.cores, self.kernel, self.date)
    }

    /// The share of the machine that is busy with other things now.
    pub(crate) fn busy_share(&self) -> Result<f64> {
        let time = Duration::from_secs(1);
        let before = netlab::machine_busy()?;
        thread::sleep(time);
        let busy = netlab::machine_busy()? - before;
        Ok(busy.as_secs_f64() / time.as_secs_f64() / self.cores as f64)
    }

    /// A warning, if others use the machine at the same time.
    pub(crate) fn warn_if_busy(&self) -> Result<Option<String>> {
        let share = self.busy_share()?;
        Ok((share > QUIET).then(|| {
            format!(
                "the machine was {:.0} % busy before we started: take the figures as rough",
                share * 100.0
            )
        }))
    }
}

fn cpu_model(cpuinfo: &str) -> Option<&str> {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    // Arm has no model name, only numbers.
    field("model name").or_else(|| field("CPU part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_found_on_both_architectures() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(cpu_model("processor\t: 0\nCPU part\t: 0xd0c\n"), Some("0xd0c"));
        assert_eq!(cpu_model(""), None);
    }
}
