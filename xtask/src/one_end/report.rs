//! What was measured, for people.

use std::fmt::Write;

use super::{
    row::{Metric, Row},
    run::{Settings, Threads},
};
use crate::{
    measure::{Machine, Results, Subject},
    table::{Table, median},
};

/// Everything a reader needs to judge the figures.
pub(super) struct Report<'a> {
    pub(super) machine: &'a Machine,
    pub(super) results: &'a Results<Row, Metric>,
    pub(super) threads: &'a Threads,
    pub(super) rounds: u32,
    pub(super) settings: Settings,
}

/// Threads that take less of a processor are not worth a line.
const NOTHING: f64 = 0.005;

impl Report<'_> {
    /// For the terminal.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n\n{}\n", self.machine.describe(), self.how(), self.table());
        let _ =
            write!(text, "Processors taken by each thread at the full rate:\n\n{}\n", self.thread_table());
        self.results.notes().iter().for_each(|note| text.push_str(&format!("NOTE {note}\n")));
        text
    }

    /// For `docs/bench`.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "# One end alone\n\nWritten by `cargo xtask one-end`; [measuring.md](../measuring.md) says how to read it.\n\n\
             * {}\n* {}\n\n![The same as a chart](one-end.svg)\n\n{}\n## Threads\n\nProcessors taken by each thread at \
             the full rate.\n\n{}",
            self.machine.describe(),
            self.how(),
            self.table(),
            self.thread_table()
        );
        if !self.results.notes().is_empty() {
            text.push_str("\n## Notes\n\n");
            self.results.notes().iter().for_each(|note| text.push_str(&format!("* {note}\n")));
        }
        text
    }

    fn table(&self) -> Table {
        self.results.table((self.results.columns().len() > 1).then_some(0))
    }

    fn how(&self) -> String {
        format!(
            "Medians of {} interleaved rounds, rungs of {:.2} s; Gbit/s of inner packets with less than 1 % lost; CPU is the \
             daemon's; in brackets how many times better the first column is; spread is the widest (max − min) / \
             median of a row.",
            self.rounds,
            self.settings.time.as_secs_f64()
        )
    }

    fn thread_table(&self) -> Table {
        let mut table = Table::new(["daemon", "work", "thread", "processors"]);
        for ((row, column, thread), samples) in self.threads {
            let Some(cores) = median(samples).filter(|cores| *cores >= NOTHING) else { continue };
            let name = self.results.columns()[*column].clone();
            table.row([name, row.title(), thread.clone(), format!("{cores:.2}")]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::one_end::row::Case;

    #[test]
    fn markdown_has_every_row_the_threads_and_the_notes() {
        let mut results = Results::new(["native", "boringtun"]);
        let mut threads = Threads::new();
        for row in Row::all(&[Case::SendTcp, Case::Peers], &[1]) {
            results.add(0, row, Metric::Gbps, 12.0);
            results.add(1, row, Metric::Gbps, 10.0);
            results.add(0, row, Metric::CpuPerGb, 0.7654);
            threads.insert((row, 0, "volley data".into()), vec![0.9, 1.0, 0.8]);
            threads.insert((row, 0, "idle".into()), vec![0.0]);
        }
        results.note("boringtun is not there".into());
        let machine =
            Machine { cpu: "a CPU".into(), cores: 2, kernel: "6.1".into(), date: "2026-01-01".into() };
        let settings = Settings { time: Duration::from_millis(400), memory: 1 };
        let report = Report { machine: &machine, results: &results, threads: &threads, rounds: 5, settings };
        let text = report.markdown();
        for part in [
            "a CPU, 2 cores, Linux 6.1, 2026-01-01",
            "5 interleaved rounds, rungs of 0.40 s",
            "10.00 (1.2 ×)",
            "0.765",
            "sends lone packets to 1000 peers, 1 core",
            "volley data |       0.90 |",
            "* boringtun is not there",
            "(one-end.svg)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("idle"));
    }
}
