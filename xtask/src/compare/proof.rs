//! The goals that Volley set itself, and whether these figures reach them.

use std::fmt;

use crate::{
    measure::{Case, Figure as _, Metric, Results},
    peers::KNOWN,
};

/// One goal: how many times better than the best of the known implementations.
struct Goal {
    what: &'static str,
    case: Case,
    metric: Metric,
    times: f64,
}

const GOALS: [Goal; 5] = [
    Goal { what: "TCP, 1 stream, throughput", case: Case::Tcp1, metric: Metric::Gbps, times: 5.0 },
    Goal {
        what: "TCP, 1 stream, machine-wide CPU per GB",
        case: Case::Tcp1,
        metric: Metric::MachineCpuPerGb,
        times: 5.0,
    },
    Goal {
        what: "UDP, 64 bytes, highest rate",
        case: Case::Udp64,
        metric: Metric::PacketsPerSecond,
        times: 2.5,
    },
    Goal { what: "idle ping, p50", case: Case::Ping, metric: Metric::P50, times: 1.0 },
    Goal { what: "ping under TCP, p99", case: Case::PingLoad, metric: Metric::P99, times: 2.0 },
];

/// Peak memory under load, MiB.
const MEMORY: f64 = 48.0;

/// A goal, and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    reached: bool,
    text: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.reached { "PASS " } else { "SHORT" }, self.text)
    }
}

/// Every goal that there are figures for. Volley is column 0.
pub(super) fn verdicts(results: &Results) -> Vec<Verdict> {
    GOALS.iter().filter_map(|goal| goal.verdict(results)).chain(memory(results)).collect()
}

impl Goal {
    fn verdict(&self, results: &Results) -> Option<Verdict> {
        let ours = results.median(0, self.case, self.metric)?;
        let rivals = rivals(results, self.case, self.metric);
        let better = self.metric.better();
        let best = better.best(rivals.iter().map(|&(_, value)| value))?;
        let (name, _) = rivals.iter().find(|&&(_, value)| value == best)?;
        let ratio = better.ratio(ours, best);
        let absent: Vec<_> =
            KNOWN.into_iter().filter(|known| rivals.iter().all(|(name, _)| name != known)).collect();
        let without =
            if absent.is_empty() { String::new() } else { format!(" — without {}", absent.join(", ")) };
        let text = format!(
            "{}: {ratio:.2} × better than the best ({name}), goal {} ×{without}",
            self.what, self.times
        );
        Some(Verdict { reached: ratio >= self.times, text })
    }
}

fn memory(results: &Results) -> Option<Verdict> {
    let ours = results.median(0, Case::Rss, Metric::PeakRss)?;
    let theirs = rivals(results, Case::Rss, Metric::PeakRss);
    let theirs: Vec<_> = theirs.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
    let text = format!("peak memory under load: {ours:.1} MiB, goal {MEMORY} MiB ({})", theirs.join(", "));
    Some(Verdict { reached: ours <= MEMORY, text })
}

/// The known implementations' figures: goals are set against these, not against what else is named.
fn rivals(results: &Results, case: Case, metric: Metric) -> Vec<(&str, f64)> {
    let known = results.columns().iter().enumerate().filter(|(_, name)| KNOWN.contains(&name.as_str()));
    known.filter_map(|(column, name)| Some((name.as_str(), results.median(column, case, metric)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(figures: [f64; 4]) -> Results {
        let mut results = Results::new(["volley", "wireguard-go", "gotatun", "something-else"]);
        for (column, value) in figures.into_iter().enumerate() {
            results.add(column, Case::Tcp1, Metric::Gbps, value);
            results.add(column, Case::Ping, Metric::P50, value);
        }
        results
    }

    #[test]
    fn the_best_of_the_known_is_the_measure() {
        let verdicts = verdicts(&results([3.0, 0.5, 0.6, 9.0]));
        assert_eq!(verdicts.len(), 2);
        let tcp = verdicts[0].to_string();
        assert!(tcp.starts_with("PASS "), "{tcp}");
        assert!(
            tcp.contains("5.00 ×") && tcp.contains("(gotatun)") && tcp.contains("without boringtun-cli"),
            "{tcp}"
        );
        let ping = verdicts[1].to_string();
        assert!(ping.starts_with("SHORT") && ping.contains("(wireguard-go)"), "{ping}");
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        assert_eq!(verdicts(&Results::new(["volley", "gotatun"])), []);
    }

    #[test]
    fn memory_is_stated_beside_theirs() {
        let mut results = Results::new(["volley", "gotatun"]);
        results.add(0, Case::Rss, Metric::PeakRss, 48.5);
        results.add(1, Case::Rss, Metric::PeakRss, 10.0);
        let [memory] = &verdicts(&results)[..] else { panic!("one verdict") };
        assert!(
            memory.to_string().starts_with("SHORT") && memory.to_string().contains("gotatun 10.0"),
            "{memory}"
        );
    }
}
