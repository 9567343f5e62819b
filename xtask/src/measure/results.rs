//! Figures by column, case and metric: medians, ratios, tables, JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use super::case::{Case, Metric};
use crate::table::{Table, median};

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
}

impl Better {
    /// How many times better `ours` is than `theirs`: 1 is equal, 2 twice as good.
    pub(crate) fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Higher => ours / theirs,
            Self::Lower => theirs / ours,
        }
    }

    /// The best of several.
    pub(crate) fn best(self, values: impl IntoIterator<Item = f64>) -> Option<f64> {
        values.into_iter().reduce(|one, other| match self {
            Self::Higher => one.max(other),
            Self::Lower => one.min(other),
        })
    }
}

/// What is measured: a row of tables, in their order.
pub(crate) trait Subject: Copy + Ord + Serialize {
    /// What it is called in tables.
    fn title(&self) -> String;
}

/// What is read off a subject.
pub(crate) trait Figure: Copy + Ord + Serialize {
    /// What it is called in tables.
    fn title(self) -> &'static str;

    /// Which way is good.
    fn better(self) -> Better;

    /// A figure as a table shows it.
    fn format(self, value: f64) -> String;
}

/// Everything measured.
#[derive(Clone, Debug)]
pub(crate) struct Results<C = Case, M = Metric> {
    columns: Vec<String>,
    figures: BTreeMap<(C, M, usize), Vec<f64>>,
    notes: Vec<String>,
}

/// One line of the JSON.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series<'a, C = Case, M = Metric> {
    case: C,
    metric: M,
    column: &'a str,
    median: f64,
    samples: &'a [f64],
}

impl<C: Subject, M: Figure> Results<C, M> {
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        let columns = columns.into_iter().map(str::to_owned).collect();
        Self { columns, figures: BTreeMap::new(), notes: Vec::new() }
    }

    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(crate) fn add(&mut self, column: usize, case: C, metric: M, value: f64) {
        self.figures.entry((case, metric, column)).or_default().push(value);
    }

    /// Something that the reader of the figures must know.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The median over the rounds; `None` for what was not measured.
    pub(crate) fn median(&self, column: usize, case: C, metric: M) -> Option<f64> {
        median(self.figures.get(&(case, metric, column))?)
    }

    /// The cases and metrics there are figures for, in order.
    pub(crate) fn rows(&self) -> Vec<(C, M)> {
        let mut rows: Vec<_> = self.figures.keys().map(|&(case, metric, _)| (case, metric)).collect();
        rows.dedup();
        rows
    }

    /// How far the rounds of a row lie apart, at worst: (max − min) / median.
    fn spread(&self, case: C, metric: M) -> Option<f64> {
        let spread = |column| {
            let figures = self.figures.get(&(case, metric, column))?;
            let (low, high) =
                (Better::Lower.best(figures.iter().copied())?, Better::Higher.best(figures.iter().copied())?);
            Some((high - low) / median(figures)?)
        };
        Better::Higher.best((0..self.columns.len()).filter_map(spread))
    }

    /// One row per case and metric, one column each, medians. Beside every figure but the reference's own:
    /// how many times better the reference is, if one is named.
    pub(crate) fn table(&self, reference: Option<usize>) -> Table {
        self.table_headed(reference, |name| name)
    }

    /// The same with shorter column names.
    pub(crate) fn table_headed(&self, reference: Option<usize>, heading: fn(&str) -> &str) -> Table {
        let columns = self.columns.iter().map(|name| heading(name));
        let mut table = Table::new(["case", "metric"].into_iter().chain(columns).chain(["spread"]));
        for (case, metric) in self.rows() {
            let ours = reference.and_then(|reference| self.median(reference, case, metric));
            let cell = |column| {
                let Some(value) = self.median(column, case, metric) else { return "–".to_owned() };
                let figure = metric.format(value);
                match ours.filter(|_| reference != Some(column)) {
                    Some(ours) => format!("{figure} ({:.1} ×)", metric.better().ratio(ours, value)),
                    None => figure,
                }
            };
            let spread = self
                .spread(case, metric)
                .map_or_else(String::new, |spread| format!("{:.0} %", spread * 100.0));
            let figures = (0..self.columns.len()).map(cell);
            let head = [case.title(), metric.title().to_owned()];
            table.row(head.into_iter().chain(figures).chain([spread]));
        }
        table
    }

    /// Everything, for other programs.
    pub(crate) fn series<'a>(&'a self) -> Result<Vec<Series<'a, C, M>>> {
        let series = |(&(case, metric, column), samples): (&(C, M, usize), &'a Vec<f64>)| {
            let median = median(samples).context("no empty series")?;
            Ok(Series { case, metric, column: &self.columns[column], median, samples })
        };
        self.figures.iter().map(series).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::new(["volley", "other"]);
        for (ours, theirs) in [(4.0, 1.0), (6.0, 1.5), (5.0, 0.5)] {
            results.add(0, Case::Tcp1, Metric::Gbps, ours);
            results.add(1, Case::Tcp1, Metric::Gbps, theirs);
        }
        results.add(0, Case::Ping, Metric::P50, 100.0);
        results.add(1, Case::Ping, Metric::P50, 50.0);
        results.add(0, Case::Rss, Metric::PeakRss, 20.0);
        results
    }

    #[test]
    fn a_table_shows_medians_and_how_much_better_the_reference_is() {
        let table = results().table(Some(0)).to_string();
        let rows: Vec<_> = table.lines().collect();
        assert_eq!(rows.len(), 5, "{table}");
        let cells: Vec<_> = rows[2].split('|').map(str::trim).collect();
        assert_eq!(cells, ["", "TCP, 1 stream", "Gbit/s", "5.00", "1.00 (5.0 ×)", "100 %", ""]);
        assert!(rows[3].contains("50 (0.5 ×)"), "lower is better for times: {}", rows[3]);
        assert!(rows[4].contains('–'), "what was not measured is said: {}", rows[4]);
    }

    #[test]
    fn json_has_every_sample() {
        let results = results();
        let series = serde_json::to_value(results.series().unwrap()).unwrap();
        assert_eq!(series.as_array().unwrap().len(), 5);
        assert_eq!(series[0]["case"], "tcp1");
        assert_eq!(series[0]["column"], "volley");
        assert_eq!(series[0]["median"], 5.0);
        assert_eq!(series[0]["samples"], serde_json::json!([4.0, 6.0, 5.0]));
    }

    #[test]
    fn better_knows_both_ways() {
        assert_eq!(Better::Higher.ratio(4.0, 2.0), 2.0);
        assert_eq!(Better::Lower.ratio(4.0, 2.0), 0.5);
        assert_eq!(Better::Lower.best([3.0, 1.0, 2.0]), Some(1.0));
        assert_eq!(Better::Higher.best([]), None);
    }
}
