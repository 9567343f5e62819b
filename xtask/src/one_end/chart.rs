//! The figures as bars: what is carried on the left, what it costs on the right.

use anyhow::Result;

use super::row::{Metric, Row};
use crate::{
    bars::{self, Bar, Group, Panel},
    measure::{Figure, Results, Subject},
};

/// Draws it as SVG. The first `ours` columns are Volley's.
///
/// # Errors
/// When drawing fails.
pub(super) fn draw(results: &Results<Row, Metric>, ours: usize) -> Result<String> {
    bars::draw(&[
        panel(results, ours, Metric::Gbps, "Carried, Gbit/s"),
        panel(results, ours, Metric::CpuPerGb, "CPU seconds per GB at that rate (less is better)"),
    ])
}

fn panel(results: &Results<Row, Metric>, ours: usize, metric: Metric, title: &str) -> Panel {
    let mut rows: Vec<Row> = results.rows().into_iter().map(|(row, _)| row).collect();
    rows.dedup();
    let bar = |row, column: usize, name: &str| {
        let value = results.median(column, row, metric);
        Bar {
            name: name.to_owned(),
            value,
            label: value.map_or_else(|| "–".to_owned(), |value| metric.format(value)),
            is_ours: column < ours,
        }
    };
    let group = |row: Row| Group {
        heading: Some(row.title()),
        bars: results.columns().iter().enumerate().map(|(column, name)| bar(row, column, name)).collect(),
    };
    Panel { title: title.to_owned(), groups: rows.into_iter().map(group).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::one_end::row::Case;

    #[test]
    fn both_panels_name_every_daemon_under_every_row() {
        let mut results = Results::new(["volley", "wireguard-go"]);
        let rows = Row::all(&[], &[1, 2]);
        assert_eq!(rows.len(), 8);
        for row in &rows {
            results.add(0, *row, Metric::Gbps, 10.0);
            results.add(1, *row, Metric::CpuPerGb, 2.0);
        }
        let svg = draw(&results, 1).unwrap();
        for name in ["volley", "wireguard-go", "–"] {
            assert_eq!(svg.matches(&format!(">\n{name}\n")).count(), 2 * rows.len(), "{name}");
        }
        let heading = Row::all(&[Case::SendTcp], &[2])[0].title();
        assert_eq!(svg.matches(&heading).count(), 2, "{heading}");
    }
}
