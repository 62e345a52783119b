//! A picture of the highest rates over the number of nodes, by model and by simulation.

use super::Report;
use anyhow::{Context, Result, anyhow};
use plotters::coord::combinators::IntoLogRange;
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

const SIZE: (u32, u32) = (960, 480);
const COLOURS: [RGBColor; 4] =
    [RGBColor(0x2a, 0x6f, 0xb5), RGBColor(0xd9, 0x8a, 0x1f), RGBColor(0x3a, 0x8f, 0x4d), RGBColor(0x9a, 0x3f, 0x8f)];

/// Draws the report as SVG: lines are the model, circles the simulation, the grey line is the rate asked for.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    std::fs::write(path, draw(report)?).with_context(|| format!("{} cannot be written", path.display()))
}

/// The picture as SVG text.
///
/// # Errors
/// When it cannot be drawn.
pub fn draw(report: &Report) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        plot(&area, report).map_err(|e| anyhow!("the picture cannot be drawn: {e}"))?;
    }
    Ok(svg)
}

/// Points (nodes, jobs a second) of one number of shards.
#[derive(Default)]
struct Line {
    model: Vec<(f64, f64)>,
    simulated: Vec<(f64, f64)>,
}

fn lines(report: &Report) -> BTreeMap<usize, Line> {
    let mut lines: BTreeMap<usize, Line> = BTreeMap::new();
    for case in &report.cases {
        let line = lines.entry(case.cluster.shards).or_default();
        let nodes = case.cluster.nodes as f64;
        line.model.extend(case.highest.iter().map(|highest| (nodes, highest.jobs_per_s.max(1.0))));
        line.simulated.extend(case.full.iter().map(|full| (nodes, full.jobs_per_s.max(1.0))));
    }
    lines
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn plot(area: &Area<'_>, report: &Report) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let lines = lines(report);
    let points = || lines.values().flat_map(|line| line.model.iter().chain(&line.simulated)).copied();
    let most = |of: fn((f64, f64)) -> f64, least: f64| points().map(of).fold(least, f64::max);
    let (right, top) = (most(|p| p.0, 10.0) * 1.3, most(|p| p.1, report.rate.max(10.0)) * 2.0);
    area.fill(&WHITE)?;
    let title = format!("highest rate, batches of {}, {} jobs running", report.load.batch, report.load.running);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d((1.0..right).log_scale(), (1.0..top).log_scale())?;
    let label = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("nodes")
        .y_desc("jobs a second")
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .draw()?;
    let grey = RGBColor(0x88, 0x88, 0x88);
    let rate = report.rate.max(1.0);
    chart
        .draw_series(LineSeries::new([(1.0, rate), (right, rate)], grey))?
        .label(format!("{rate:.0} jobs/s asked"))
        .legend(move |(x, y)| Rectangle::new([(x, y - 1), (x + 14, y + 1)], grey.filled()));
    for ((shards, line), colour) in lines.iter().zip(COLOURS.iter().copied().cycle()) {
        chart
            .draw_series(LineSeries::new(line.model.iter().copied(), colour.stroke_width(2)))?
            .label(format!("{shards} shards"))
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled()));
        chart.draw_series(line.simulated.iter().map(|&point| Circle::new(point, 4, colour)))?;
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).draw()?;
    area.present()?;
    Ok(())
}
