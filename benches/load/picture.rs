//! The picture: CPU per lookup against the number of names registered.
//!
//! The background is painted, so that it reads the same on a light and on a dark page.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::lookups::Point;
use crate::server::Kind;

/// The paper and the ink.
const PAPER: RGBColor = RGBColor(255, 255, 255);
const INK: RGBColor = RGBColor(36, 41, 47);
const FAINT: RGBColor = RGBColor(216, 222, 228);

/// Colours that people who see red and green alike can tell apart.
fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Bare => RGBColor(110, 119, 129),
        Kind::Ours => RGBColor(0, 114, 178),
        Kind::Stock => RGBColor(213, 94, 0),
    }
}

/// What a line is called at its end.
fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Bare => "bare loop",
        Kind::Ours => "hardened-epmd",
        Kind::Stock => "stock epmd, which ends at 1,017 names",
    }
}

/// Draws `points` into `file`, with `caption` under the title.
pub(crate) fn draw(points: &[Point], file: &Path, caption: &str) -> Result<(), Box<dyn Error>> {
    let most_names = points.iter().map(|point| point.names).max();
    let most_names = most_names.ok_or("nothing was measured")? as f64;
    let costs = points.iter().flat_map(|point| &point.cost);
    let (least_cost, most_cost) = costs
        .map(|(_, cost)| *cost)
        .fold((f64::INFINITY, 0.0_f64), |(least, most), cost| {
            (least.min(cost), most.max(cost))
        });

    let root = SVGBackend::new(file, (860, 460)).into_drawing_area();
    root.fill(&PAPER)?;
    root.draw_text(
        "Server CPU per lookup, by names registered",
        &("sans-serif", 20).into_font().color(&INK),
        (16, 14),
    )?;
    root.draw_text(
        caption,
        &("sans-serif", 12).into_font().color(&INK),
        (16, 42),
    )?;
    let mut chart = ChartBuilder::on(&root)
        .margin_top(70)
        .margin_right(150)
        .margin_left(8)
        .margin_bottom(8)
        .x_label_area_size(44)
        .y_label_area_size(56)
        // Logarithmic upwards as well: stock's cost at many names would flatten all else to one line.
        .build_cartesian_2d(
            (1.0..most_names).log_scale(),
            (least_cost * 0.7..most_cost * 1.5).log_scale(),
        )?;
    let text = ("sans-serif", 13).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(PAPER)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(text.clone())
        .axis_desc_style(text)
        .x_desc("names registered")
        .y_desc("microseconds of CPU, logarithmic")
        .x_label_formatter(&|names| format!("{names:.0}"))
        .y_label_formatter(&|cost| format!("{cost:.0}"))
        .draw()?;
    for kind in Kind::ALL {
        let line: Vec<_> = points
            .iter()
            .filter_map(|point| Some((point.names as f64, cost_of(point, kind)?)))
            .collect();
        let Some(&end) = line.last() else { continue };
        let colour = colour(kind);
        chart.draw_series(LineSeries::new(
            line.iter().copied(),
            colour.stroke_width(2),
        ))?;
        chart.draw_series(
            line.iter()
                .map(|&point| Circle::new(point, 3, colour.filled())),
        )?;
        // The bare loop and ours end close to each other: one label goes under its line.
        let vertical = if kind == Kind::Bare {
            VPos::Top
        } else {
            VPos::Bottom
        };
        let style = ("sans-serif", 13)
            .into_font()
            .color(&colour)
            .pos(Pos::new(HPos::Left, vertical));
        let words = format!("{}: {:.1} us", label(kind), end.1);
        chart.draw_series([EmptyElement::at(end) + Text::new(words, (8, 0), style)])?;
    }
    root.present()?;
    Ok(())
}

/// What a lookup costs `kind` at `point`.
fn cost_of(point: &Point, kind: Kind) -> Option<f64> {
    let mut costs = point.cost.iter();
    costs.find(|(of, _)| *of == kind).map(|(_, cost)| *cost)
}
