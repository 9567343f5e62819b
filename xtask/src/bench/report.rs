//! What was measured, for people.

use std::fmt::Write;

use super::{Stage, floor::Floor};
use crate::{
    measure::{Case, Machine, Metric, Results, Settings},
    table::Table,
};

/// Everything a reader needs to judge the figures.
pub(super) struct Report<'a> {
    pub(super) machine: &'a Machine,
    pub(super) results: &'a Results,
    pub(super) floor: Floor,
    pub(super) stages: &'a [Stage],
    pub(super) rounds: u32,
    pub(super) settings: Settings,
}

impl Report<'_> {
    /// For the terminal.
    pub(super) fn text(&self) -> String {
        let (machine, how) = (self.machine.describe(), self.how());
        let mut text = format!("{machine}\n{how}\n\n{}\n{}\n", self.legend(), self.table());
        text.push_str(&self.gains());
        let _ = write!(text, "\n{}\n{}", self.floor.table(), self.distance());
        self.results.notes().iter().for_each(|note| text.push_str(&format!("NOTE {note}\n")));
        text
    }

    /// For `docs/bench`.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "# What each fast path buys\n\nWritten by `cargo xtask bench`; [measuring.md](../measuring.md) says how to \
             read it.\n\n* {}\n* {}\n\n",
            self.machine.describe(),
            self.how()
        );
        let _ = write!(text, "{}\n{}\n![The same as a chart](ablation.svg)\n\n", self.legend(), self.table());
        let _ = writeln!(text, "{}", as_list(&self.gains()));
        let _ = write!(
            text,
            "## The floor\n\nWhat encryption and the system calls alone cost per 64 KiB, measured between the rounds \
             on one thread in a straight line: no lookups, no timers, no wake-ups, no TCP.\n\n{}\n{}",
            self.floor.table(),
            as_list(&self.distance())
        );
        if !self.results.notes().is_empty() {
            let _ = write!(text, "\n## Notes\n\n{}", as_list(&self.results.notes().join("\n")));
        }
        text
    }

    /// What the letters stand for.
    fn legend(&self) -> Table {
        let mut legend = Table::new(["column", "daemon's arguments"]);
        for stage in self.stages {
            legend.row([stage.name.to_owned(), format!("`{}`", stage.arguments.join(" "))]);
        }
        legend
    }

    /// The figures under letters alone: with names it would be wider than any page.
    fn table(&self) -> Table {
        self.results.table_headed(None, |name| name.split_inclusive(')').next().unwrap_or(name))
    }

    fn how(&self) -> String {
        format!(
            "Medians of {} interleaved rounds of {:.1} s; spread is the widest (max − min) / median of a row.",
            self.rounds,
            self.settings.time.as_secs_f64()
        )
    }

    /// What each column gains over the one that it adds to, one line each.
    fn gains(&self) -> String {
        let mut text = String::new();
        for (after, stage) in self.stages.iter().enumerate() {
            let before = self.stages.iter().position(|other| Some(other.letter()) == stage.adds_to);
            let ratio = |metric| {
                let figure = |column| self.results.median(column, Case::Tcp1, metric);
                Some(figure(after)? / figure(before?)?)
            };
            let (Some(rate), Some(cost)) = (ratio(Metric::Gbps), ratio(Metric::MachineCpuPerGb)) else {
                continue;
            };
            let against = stage.adds_to.unwrap_or_default();
            let _ = writeln!(
                text,
                "{} against ({against}): TCP {rate:.2} ×, CPU per byte {cost:.2} ×",
                stage.name
            );
        }
        text
    }

    /// How far each column's daemons are from the floor, one line each.
    fn distance(&self) -> String {
        let floor = self.floor.total().as_secs_f64();
        let mut text = String::new();
        for (column, stage) in self.stages.iter().enumerate() {
            let Some(cost) = self.results.median(column, Case::Tcp1, Metric::DaemonCpuPerGb) else {
                continue;
            };
            let per_buffer = cost * Floor::BYTES as f64 / 1e9;
            let _ = writeln!(
                text,
                "{}: both daemons together use {:.0} µs per 64 KiB of TCP, {:.2} × the floor",
                stage.name,
                per_buffer * 1e6,
                per_buffer / floor
            );
        }
        text
    }
}

fn as_list(lines: &str) -> String {
    lines.lines().map(|line| format!("* {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::stages, *};

    #[test]
    fn markdown_names_the_machine_the_gains_and_the_distance_from_the_floor() {
        let stages = stages();
        let mut results = Results::new(stages.iter().map(|stage| stage.name));
        for column in 0..stages.len() {
            results.add(column, Case::Tcp1, Metric::Gbps, 2_f64.powi(column as i32));
            results.add(column, Case::Tcp1, Metric::MachineCpuPerGb, 8.0);
            results.add(column, Case::Tcp1, Metric::DaemonCpuPerGb, 2.0);
        }
        let machine =
            Machine { cpu: "a CPU".into(), cores: 2, kernel: "6.1".into(), date: "2026-01-01".into() };
        let step = Duration::from_micros(10);
        let floor = Floor {
            tun_read: step,
            seal: step,
            udp_send: step,
            udp_receive: step,
            open: step,
            tun_write: step,
        };
        let settings = Settings { time: Duration::from_secs(3), rung: Duration::from_secs(1) };
        let report =
            Report { machine: &machine, results: &results, floor, stages: &stages, rounds: 5, settings };
        let text = report.markdown();
        for part in [
            "a CPU, 2 cores, Linux 6.1, 2026-01-01",
            "(b) the seed: batches, GSO against (a): TCP 2.00 ×, CPU per byte 1.00 ×",
            "(i) as (g), link cuts trains against (g): TCP 4.00 ×",
            "131 µs per 64 KiB of TCP, 2.18 × the floor",
            "`--batch=50 --no-tun-offload --no-sched-batch --arrangement=tun-threads`",
            "(ablation.svg)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
