//! The figures as bars: one panel per question.

use anyhow::Result;

use super::{
    case::{Case, LOST, Metric},
    results::Results,
};
use crate::bars::{self, Bar, Group};

/// A question, and where its answer stands.
struct Question {
    title: &'static str,
    case: Case,
    metric: Metric,
    /// Figures are divided by this.
    unit: f64,
}

const QUESTIONS: [Question; 4] = [
    Question { title: "One TCP stream, Gbit/s", case: Case::Tcp1, metric: Metric::Gbps, unit: 1.0 },
    Question {
        title: "One TCP stream, CPU seconds per GB (less is better)",
        case: Case::Tcp1,
        metric: Metric::MachineCpuPerGb,
        unit: 1.0,
    },
    Question {
        title: "UDP of 64 bytes, thousands per second",
        case: Case::Udp64,
        metric: Metric::PacketsPerSecond,
        unit: 1e3,
    },
    Question {
        title: "Ping beside a TCP stream, p99 in ms (less is better)",
        case: Case::PingLoad,
        metric: Metric::P99,
        unit: 1e3,
    },
];

/// Draws the questions that there are answers to, as SVG; `is_ours` tells Volley's columns.
///
/// # Errors
/// When drawing fails.
pub(crate) fn draw(results: &Results, is_ours: impl Fn(usize) -> bool) -> Result<String> {
    let panels: Vec<_> = QUESTIONS
        .iter()
        .map(|question| bars::Panel {
            title: question.title.to_owned(),
            groups: vec![Group { heading: None, bars: question.bars(results, &is_ours) }],
        })
        .filter(|panel| {
            panel.groups.iter().flat_map(|group| &group.bars).any(|bar| bar.label != NOT_MEASURED)
        })
        .collect();
    bars::draw(&panels)
}

const NOT_MEASURED: &str = "–";

impl Question {
    fn bars(&self, results: &Results, is_ours: impl Fn(usize) -> bool) -> Vec<Bar> {
        let bar = |(column, name): (usize, &String)| {
            let is_time = matches!(self.metric, Metric::P50 | Metric::P99);
            let (value, label) = match results.median(column, self.case, self.metric) {
                None => (None, NOT_MEASURED.to_owned()),
                // The percentile fell among pings that had no answer. As a bar, a second would flatten all others.
                Some(micros) if is_time && micros >= LOST.as_secs_f64() * 1e6 => (None, "lost".to_owned()),
                Some(value) => (Some(value / self.unit), figure(value / self.unit)),
            };
            Bar { name: name.clone(), value, label, is_ours: is_ours(column) }
        };
        results.columns().iter().enumerate().map(bar).collect()
    }
}

fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_asks_what_was_measured_and_names_everybody() {
        let mut results = Results::new(["volley", "another"]);
        assert!(!draw(&results, |_| true).unwrap().contains("Gbit/s"));
        results.add(0, Case::Tcp1, Metric::Gbps, 1.25);
        results.add(1, Case::Tcp1, Metric::Gbps, 250.0);
        results.add(1, Case::Udp64, Metric::PacketsPerSecond, 500_000.0);
        results.add(0, Case::PingLoad, Metric::P99, 1e6);
        let svg = draw(&results, |column| column == 0).unwrap();
        for text in ["1.25", "250", "500", "lost", "–"] {
            assert!(svg.contains(&format!(">\n{text}\n")), "{text}");
        }
        for name in ["volley", "another"] {
            assert_eq!(svg.matches(&format!(">\n{name}\n")).count(), 3, "{name}");
        }
        assert!(!svg.contains("CPU"), "nobody measured it");
    }
}
