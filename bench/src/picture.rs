//! A picture of a run: jobs queued, running and ended over time.

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (960, 480);
const TALL: (u32, u32) = (960, 840);
const QUEUED: RGBColor = RGBColor(0xd9, 0x8a, 0x1f);
const RUNNING: RGBColor = RGBColor(0x2a, 0x6f, 0xb5);
const ENDED: RGBColor = RGBColor(0x3a, 0x8f, 0x4d);

/// Jobs at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the run began, s.
    pub seconds: f64,
    /// Submitted, not leased, not ended.
    pub queued: u64,
    /// Held by workers.
    pub running: u64,
    /// Ended.
    pub ended: u64,
}

/// Draws the samples as SVG: queued and running on the left axis, ended on the right.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, title: &str, samples: &[Sample]) -> Result<()> {
    std::fs::write(path, draw(title, samples)?).with_context(|| format!("{} cannot be written", path.display()))
}

/// The picture as SVG text.
///
/// # Errors
/// When the samples cannot be drawn.
pub fn draw(title: &str, samples: &[Sample]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        plot(&area, title, samples).map_err(|e| anyhow!("the picture cannot be drawn: {e}"))?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type PlotResult = std::result::Result<(), Box<dyn std::error::Error>>;

fn plot(area: &Area<'_>, title: &str, samples: &[Sample]) -> PlotResult {
    let end = samples.last().map_or(1.0, |s| s.seconds.max(0.001));
    let most = |value: fn(&Sample) -> u64| samples.iter().map(value).max().unwrap_or(0);
    let left = most(|s| s.queued.max(s.running)).max(1) as f64 * 1.05;
    let right = most(|s| s.ended).max(1) as f64 * 1.05;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .right_y_label_area_size(80)
        .build_cartesian_2d(0.0..end, 0.0..left)?
        .set_secondary_coord(0.0..end, 0.0..right);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_desc("queued, running")
        .y_label_formatter(&|value| count(*value))
        .draw()?;
    chart.configure_secondary_axes().y_desc("ended").y_label_formatter(&|value| count(*value)).draw()?;
    let line = |value: fn(&Sample) -> u64| samples.iter().map(move |s| (s.seconds, value(s) as f64));
    chart
        .draw_series(AreaSeries::new(line(|s| s.running), 0.0, RUNNING.mix(0.25)).border_style(RUNNING))?
        .label("running")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], RUNNING.filled()));
    chart
        .draw_series(LineSeries::new(line(|s| s.queued), QUEUED.stroke_width(2)))?
        .label("queued")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], QUEUED.filled()));
    chart
        .draw_secondary_series(LineSeries::new(line(|s| s.ended), ENDED.stroke_width(2)))?
        .label("ended (right)")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], ENDED.filled()));
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).draw()?;
    area.present()?;
    Ok(())
}

/// What was measured at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The size.
    pub at: u64,
    /// CPU time of a job, µs.
    pub left: f64,
    /// Jobs a second.
    pub right: f64,
}

/// Draws how cost and rate change with a size, which grows by factors: its axis is logarithmic.
///
/// # Errors
/// When the file cannot be written.
pub fn write_growth(path: &Path, size: &str, points: &[Point]) -> Result<()> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        plot_growth(&area, size, points).map_err(|e| anyhow!("the picture cannot be drawn: {e}"))?;
    }
    std::fs::write(path, svg).with_context(|| format!("{} cannot be written", path.display()))
}

fn plot_growth(area: &Area<'_>, size: &str, points: &[Point]) -> PlotResult {
    let most = |value: fn(&Point) -> f64| points.iter().map(value).fold(1.0, f64::max) * 1.15;
    let (left, right) = (most(|p| p.left), most(|p| p.right));
    let first = points.first().map_or(1.0, |p| p.at.max(1) as f64);
    let last = points.last().map_or(10.0, |p| p.at as f64).max(first * 2.0);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(format!("cost of a job by {size}"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .right_y_label_area_size(80)
        .build_cartesian_2d((first..last).log_scale(), 0.0..left)?
        .set_secondary_coord((first..last).log_scale(), 0.0..right);
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(size)
        .y_desc("CPU of all nodes, µs a job")
        .x_label_formatter(&|value| count(*value))
        .draw()?;
    chart.configure_secondary_axes().y_desc("jobs a second").y_label_formatter(&|value| count(*value)).draw()?;
    let cost = || points.iter().map(|p| (p.at.max(1) as f64, p.left));
    let rate = || points.iter().map(|p| (p.at.max(1) as f64, p.right));
    chart
        .draw_series(LineSeries::new(cost(), RUNNING.stroke_width(2)))?
        .label("CPU, µs a job")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], RUNNING.filled()));
    chart.draw_series(cost().map(|at| Circle::new(at, 3, RUNNING.filled())))?;
    chart
        .draw_secondary_series(LineSeries::new(rate(), ENDED.stroke_width(2)))?
        .label("jobs a second (right)")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], ENDED.filled()));
    chart.configure_series_labels().position(SeriesLabelPosition::LowerLeft).background_style(WHITE.mix(0.8)).draw()?;
    area.present()?;
    Ok(())
}

/// How a figure changed over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// What it is, with its unit.
    pub name: &'static str,
    /// Minutes, and the figure.
    pub points: Vec<(f64, f64)>,
}

/// Draws each course in a panel of its own, one under the other, from zero.
///
/// # Errors
/// When the file cannot be written.
pub fn write_courses(path: &Path, title: &str, courses: &[Course]) -> Result<()> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, TALL).into_drawing_area();
        plot_courses(&area, title, courses).map_err(|e| anyhow!("the picture cannot be drawn: {e}"))?;
    }
    std::fs::write(path, svg).with_context(|| format!("{} cannot be written", path.display()))
}

fn plot_courses(area: &Area<'_>, title: &str, courses: &[Course]) -> PlotResult {
    area.fill(&WHITE)?;
    let panels = area.titled(title, ("sans-serif", 18))?.split_evenly((courses.len().max(1), 1));
    for (panel, course) in panels.iter().zip(courses) {
        let end = course.points.last().map_or(1.0, |point| point.0.max(0.001));
        let most = course.points.iter().map(|point| point.1).fold(1e-3, f64::max) * 1.15;
        let mut chart = ChartBuilder::on(panel)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, 0.0..most)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .y_labels(4)
            .y_desc(course.name)
            .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
            .y_label_formatter(&|value| count(*value))
            .draw()?;
        chart.draw_series(LineSeries::new(course.points.iter().copied(), RUNNING.stroke_width(2)))?;
    }
    area.present()?;
    Ok(())
}

/// A number of jobs, short.
fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", trim(v / 1e6)),
        v if v >= 1e3 => format!("{} k", trim(v / 1e3)),
        v => trim(v),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_lines_and_labels() {
        let sample = |n: u64| Sample { seconds: n as f64, queued: 100 - n, running: 20_000, ended: n * 40_000 };
        let samples: Vec<Sample> = (0..100).map(sample).collect();
        let svg = draw("replay <1>", &samples).expect("it can be drawn");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["queued", "running", "ended (right)", "replay &lt;1&gt;", "20 k", "4 M"] {
            assert!(svg.contains(text), "no {text:?}");
        }
        assert!(svg.matches("<polyline").count() >= 3);
    }

    #[test]
    fn nothing_can_be_drawn_too() {
        assert!(draw("empty", &[]).is_ok());
        let folder = tempfile::tempdir().expect("a folder");
        assert!(write_growth(&folder.path().join("empty.svg"), "shards", &[]).is_ok());
    }

    #[test]
    fn growth_has_both_lines() {
        let points = [1, 8, 64].map(|at| Point { at, left: 20.0, right: 50_000.0 });
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("growth.svg");
        write_growth(&path, "shards", &points).expect("it can be drawn");
        let svg = std::fs::read_to_string(&path).expect("it was written");
        for text in ["cost of a job by shards", "CPU, µs a job", "jobs a second (right)", "50 k"] {
            assert!(svg.contains(text), "no {text:?}");
        }
    }
}
