//! Bars for people: each with its name before it and its figure behind it, so that nothing has to be looked up.

use anyhow::Result;
use plotters::prelude::*;

/// Figures of one kind, side by side with others.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) groups: Vec<Group>,
}

/// Bars under a heading, compared with each other.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) heading: Option<String>,
    pub(crate) bars: Vec<Bar>,
}

#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    /// What was not measured, or cannot be drawn, is `None`.
    pub(crate) value: Option<f64>,
    /// How the figure is written.
    pub(crate) label: String,
    /// Whether it is ours.
    pub(crate) is_ours: bool,
}

/// Okabe and Ito's blue and orange: told apart from each other and from the text by everyone.
const OURS: RGBColor = RGBColor(0, 114, 178);
const OTHERS: RGBColor = RGBColor(230, 159, 0);
const FONT: &str = "sans-serif";
const PANEL_WIDTH: i32 = 560;
const MARGIN: i32 = 16;
/// Where bars start, and how long the longest one is: names stand before them, figures behind.
const NAMES: i32 = 200;
const LONGEST: f64 = 265.0;
const TITLE_HEIGHT: i32 = 34;
const HEADING_HEIGHT: i32 = 26;
const BAR_HEIGHT: i32 = 16;
const ROW_HEIGHT: i32 = 21;
const GROUP_GAP: i32 = 8;

/// Draws panels in rows of two as SVG.
///
/// # Errors
/// When drawing fails.
pub(crate) fn draw(panels: &[Panel]) -> Result<String> {
    let heights: Vec<i32> =
        panels.chunks(2).map(|pair| pair.iter().map(Panel::height).max().unwrap_or(0)).collect();
    let width = PANEL_WIDTH * panels.len().min(2) as i32;
    let height = heights.iter().sum::<i32>();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width.max(1) as u32, height.max(1) as u32))
            .into_drawing_area();
        root.fill(&WHITE)?;
        let mut top = 0;
        for (pair, height) in panels.chunks(2).zip(heights) {
            for (column, panel) in (0..).zip(pair) {
                panel.draw(&root, column * PANEL_WIDTH, top)?;
            }
            top += height;
        }
        root.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl Panel {
    fn height(&self) -> i32 {
        MARGIN + TITLE_HEIGHT + self.groups.iter().map(Group::height).sum::<i32>() + MARGIN
    }

    fn draw(&self, area: &Area<'_>, left: i32, top: i32) -> Result<()> {
        let values = self.groups.iter().flat_map(|group| &group.bars).filter_map(|bar| bar.value);
        let scale = LONGEST / values.fold(f64::MIN_POSITIVE, f64::max);
        let (left, mut y) = (left + MARGIN, top + MARGIN);
        area.draw(&Text::new(self.title.clone(), (left, y), (FONT, 18).into_font().style(FontStyle::Bold)))?;
        y += TITLE_HEIGHT;
        for group in &self.groups {
            if let Some(heading) = &group.heading {
                area.draw(&Text::new(heading.clone(), (left, y), (FONT, 15)))?;
                y += HEADING_HEIGHT;
            }
            for bar in &group.bars {
                bar.draw(area, left, y, scale)?;
                y += ROW_HEIGHT;
            }
            y += GROUP_GAP;
        }
        Ok(())
    }
}

impl Group {
    fn height(&self) -> i32 {
        let heading = if self.heading.is_some() { HEADING_HEIGHT } else { 0 };
        heading + ROW_HEIGHT * self.bars.len() as i32 + GROUP_GAP
    }
}

impl Bar {
    fn draw(&self, area: &Area<'_>, left: i32, top: i32, scale: f64) -> Result<()> {
        let start = left + NAMES;
        area.draw(&Text::new(self.name.clone(), (left + 12, top + 2), (FONT, 14)))?;
        let length = (self.value.unwrap_or(0.0) * scale) as i32;
        if self.value.is_some() {
            let colour = if self.is_ours { OURS } else { OTHERS };
            let corners = [(start, top), (start + length.max(1), top + BAR_HEIGHT)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
        }
        area.draw(&Text::new(self.label.clone(), (start + length + 6, top + 2), (FONT, 14)))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_has_its_name_and_its_figure() {
        let bar = |name: &str, value: Option<f64>, label: &str| Bar {
            name: name.into(),
            value,
            label: label.into(),
            is_ours: name == "volley",
        };
        let bars = vec![
            bar("volley", Some(12.5), "12.5"),
            bar("another", Some(2.5), "2.5"),
            bar("a third", None, "lost"),
        ];
        let group = Group { heading: Some("TCP".into()), bars };
        let panel = Panel { title: "Gbit/s".into(), groups: vec![group.clone(), group] };
        let svg = draw(&[panel.clone(), panel.clone(), panel]).unwrap();
        let rectangles = |colour: RGBColor| {
            let RGBColor(red, green, blue) = colour;
            svg.matches(&format!("#{red:02X}{green:02X}{blue:02X}")).count()
        };
        assert_eq!((rectangles(OURS), rectangles(OTHERS)), (6, 6), "what was lost has no bar");
        for text in ["volley", "another", "a third", "12.5", "lost", "Gbit/s", "TCP"] {
            assert!(svg.contains(&format!(">\n{text}\n")), "{text}\n{svg}");
        }
    }

    #[test]
    fn nothing_measured_is_an_empty_picture() {
        assert!(draw(&[]).unwrap().contains("<svg"));
    }
}
