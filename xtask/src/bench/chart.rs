//! The figures as bars: one panel per question, one bar per column.

use anyhow::Result;
use plotters::prelude::*;

use crate::measure::{Case, LOST, Metric, Results};

/// Four panels, each readable at the width of a page.
const SIZE: (u32, u32) = (1_120, 700);
/// Okabe and Ito's blue: told apart from the text by everyone.
const BAR: RGBColor = RGBColor(0, 114, 178);
/// Below the panels, three lines that say what the letters mean.
const LEGEND: u32 = 68;
const NAMES_PER_LINE: usize = 4;
const FONT: &str = "sans-serif";

struct Panel {
    title: &'static str,
    case: Case,
    metric: Metric,
    /// Figures are divided by this.
    unit: f64,
}

const PANELS: [Panel; 4] = [
    Panel { title: "TCP, 1 stream: Gbit/s", case: Case::Tcp1, metric: Metric::Gbps, unit: 1.0 },
    Panel {
        title: "TCP, 1 stream: CPU seconds per GB, whole machine (less is better)",
        case: Case::Tcp1,
        metric: Metric::MachineCpuPerGb,
        unit: 1.0,
    },
    Panel {
        title: "UDP, 64 bytes: thousand datagrams/s with < 1 % lost",
        case: Case::Udp64,
        metric: Metric::PacketsPerSecond,
        unit: 1e3,
    },
    Panel {
        title: "ping under TCP: p99 in ms (less is better)",
        case: Case::PingLoad,
        metric: Metric::P99,
        unit: 1e3,
    },
];

/// Draws the panels as SVG. What was not measured has no bar.
///
/// # Errors
/// When drawing fails.
pub(super) fn draw(results: &Results) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (panels, legend) = root.split_vertically(SIZE.1 - LEGEND);
        for (area, panel) in panels.split_evenly((2, 2)).iter().zip(&PANELS) {
            draw_panel(area, panel, results)?;
        }
        for (line, names) in (0..).zip(results.columns().chunks(NAMES_PER_LINE)) {
            legend.draw(&Text::new(names.join("      "), (24, 4 + 20 * line), (FONT, 15)))?;
        }
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(area: &Area<'_>, panel: &Panel, results: &Results) -> Result<()> {
    let columns = results.columns();
    let figures: Vec<_> = (0..columns.len()).map(|column| panel.figure(results, column)).collect();
    let top = figures.iter().filter_map(Figure::value).fold(0.0, f64::max) * 1.15;
    let top = if top > 0.0 { top } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, (FONT, 17))
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..columns.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(0)
        .y_labels(6)
        .label_style((FONT, 14))
        .draw()?;
    for (column, figure) in figures.into_iter().enumerate() {
        let left = column as f64;
        if let Some(value) = figure.value() {
            let bar = [(left + 0.15, 0.0), (left + 0.85, value)];
            chart.draw_series([Rectangle::new(bar, BAR.filled())])?;
        }
        if let Some(label) = figure.label() {
            let above = (left + 0.2, figure.value().unwrap_or_default() + top * 0.06);
            chart.draw_series([Text::new(label, above, (FONT, 14))])?;
        }
        let letter: String = columns[column].chars().take(3).collect();
        let (x, y) = chart.backend_coord(&(left + 0.4, 0.0));
        let (origin_x, origin_y) = area.get_base_pixel();
        area.draw(&Text::new(letter, (x - origin_x, y - origin_y + 6), (FONT, 14)))?;
    }
    Ok(())
}

/// What a panel shows of a column.
enum Figure {
    Value(f64),
    /// The percentile fell among pings that had no answer. As a bar, a second would flatten all others.
    Lost,
    NotMeasured,
}

impl Panel {
    fn figure(&self, results: &Results, column: usize) -> Figure {
        let is_time = matches!(self.metric, Metric::P50 | Metric::P99);
        match results.median(column, self.case, self.metric) {
            None => Figure::NotMeasured,
            Some(micros) if is_time && micros >= LOST.as_secs_f64() * 1e6 => Figure::Lost,
            Some(value) => Figure::Value(value / self.unit),
        }
    }
}

impl Figure {
    fn value(&self) -> Option<f64> {
        if let Self::Value(value) = self { Some(*value) } else { None }
    }

    fn label(&self) -> Option<String> {
        match self {
            Self::Value(value) if *value >= 100.0 => Some(format!("{value:.0}")),
            Self::Value(value) => Some(format!("{value:.2}")),
            Self::Lost => Some("lost".into()),
            Self::NotMeasured => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_for_each_figure_and_none_for_what_is_missing() {
        let mut results = Results::new(["(a) first", "(b) second"]);
        let bars = |svg: &str| svg.matches("<rect").count();
        let nothing = draw(&results).unwrap();
        assert!(!nothing.contains(">\n\n</text>"), "an empty label");
        results.add(0, Case::Tcp1, Metric::Gbps, 1.25);
        results.add(1, Case::Tcp1, Metric::Gbps, 250.0);
        results.add(1, Case::Udp64, Metric::PacketsPerSecond, 500_000.0);
        results.add(0, Case::PingLoad, Metric::P99, 1e6);
        let svg = draw(&results).unwrap();
        assert_eq!(bars(&svg) - bars(&nothing), 3);
        for text in ["1.25", "250", "500", "(b) second", "Gbit/s", ">\nlost"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
