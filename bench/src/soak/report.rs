//! What a soak saw, as JSON, as a picture and for people.

use crate::args::{Common, Soak};
use crate::books::Balance;
use crate::picture::{self, Course};
use anyhow::Result;
use serde::Serialize;
use std::fmt::{Display, Formatter, Write};
use std::path::Path;

/// Growth that counts as flat: what is in use in the last third against the second.
const FLAT: f64 = 1.25;
/// Latency that counts as flat, likewise: its median over the rows.
const FLAT_LATENCY: f64 = 1.5;

/// What was seen in one stretch of time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Row {
    /// Since the load began.
    pub minutes: f64,
    /// Jobs ended a second.
    pub jobs_per_s: f64,
    /// Submitted and not ended.
    pub queued: u64,
    /// Submission due to acknowledged.
    pub submit_p50_ms: f64,
    /// See before.
    pub submit_p99_ms: f64,
    /// Submission due to end acknowledged.
    pub whole_p50_ms: f64,
    /// See before.
    pub whole_p99_ms: f64,
    /// CPU time of all nodes.
    pub cpu_us_per_job: Option<f64>,
    /// Written by all nodes.
    pub disk_bytes_per_job: Option<f64>,
    /// Resident memory of all nodes.
    pub memory_mib: f64,
    /// Of it live jobs, tasks and indexes, by the nodes' own count.
    pub jobs_mib: f64,
    /// Data folders of all nodes.
    pub data_mib: f64,
}

impl Row {
    /// What the columns are.
    pub fn head() -> String {
        format!(
            "{:>7}{:>9}{:>9}{:>10}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}{:>8}{:>9}",
            "minute",
            "jobs/s",
            "queued",
            "sub p50",
            "sub p99",
            "all p50",
            "all p99",
            "CPU µs",
            "written",
            "RSS MiB",
            "jobs",
            "data MiB"
        )
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let known = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
        write!(
            f,
            "{:>7.1}{:>9.0}{:>9}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>9}{:>9}{:>9.0}{:>8.0}{:>9.0}",
            self.minutes,
            self.jobs_per_s,
            self.queued,
            self.submit_p50_ms,
            self.submit_p99_ms,
            self.whole_p50_ms,
            self.whole_p99_ms,
            known(self.cpu_us_per_job, 1),
            known(self.disk_bytes_per_job, 0),
            self.memory_mib,
            self.jobs_mib,
            self.data_mib
        )
    }
}

/// The run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// What was asked.
    pub asked: String,
    /// Seed of the bodies.
    pub seed: u64,
    /// Length of the run, s.
    pub seconds: f64,
    /// Jobs submitted, and those that ended once.
    pub jobs: u64,
    /// See before.
    pub ended: u64,
    /// Jobs lost, ended twice, and results refused because the attempt was no longer current.
    pub lost: u64,
    /// See before.
    pub doubled: u64,
    /// See before.
    pub stale_refused: u64,
    /// What was wrong.
    pub problems: Vec<String>,
    /// One for each stretch of time.
    pub rows: Vec<Row>,
}

impl Report {
    /// Before the run.
    pub fn new(asked: &Soak, common: &Common) -> Report {
        Report { asked: asked.describe(), seed: common.seed, ..Report::default() }
    }

    /// Every job ended once, and nothing grew.
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Enters the books, what is left in the cluster, and whether the rows are flat.
    pub fn balanced(&mut self, balance: &Balance, left: u64) {
        self.jobs = balance.submitted;
        self.ended = balance.ended();
        (self.lost, self.doubled, self.stale_refused) = (balance.lost, balance.doubled, balance.stale);
        let mut problem = |wrong: bool, text: String| {
            if wrong {
                self.problems.push(text);
            }
        };
        problem(balance.lost > 0, format!("{} jobs lost", balance.lost));
        problem(balance.doubled > 0, format!("{} jobs ended twice", balance.doubled));
        problem(balance.unasked > 0, format!("{} jobs ended that nobody submitted", balance.unasked));
        problem(balance.refused > 0, format!("{} results refused", balance.refused));
        problem(left > 0, format!("{left} jobs are still in the cluster"));
        for course in Self::courses() {
            let Some((second, last)) = course.thirds(&self.rows) else { continue };
            let grown = format!("{}: {second:.1} in the second third, {last:.1} in the last", course.name);
            problem(last > second * course.flat, grown);
        }
    }

    fn courses() -> [Trend; 4] {
        let trend = |name, value, most, flat| Trend { name, value, most, flat };
        [
            trend("memory, MiB", |row| row.memory_mib, true, FLAT),
            trend("data, MiB", |row| row.data_mib, true, FLAT),
            trend("submit p99, ms", |row| row.submit_p99_ms, false, FLAT_LATENCY),
            trend("whole p99, ms", |row| row.whole_p99_ms, false, FLAT_LATENCY),
        ]
    }

    /// Draws the rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn draw(&self, path: &Path) -> Result<()> {
        let line = |name: &'static str, value: fn(&Row) -> f64| {
            let points = self.rows.iter().map(|row| (row.minutes, value(row))).collect();
            Course { name, points }
        };
        let lines = [
            line("jobs a second", |row| row.jobs_per_s),
            line("submit p99, ms", |row| row.submit_p99_ms),
            line("memory of all nodes, MiB", |row| row.memory_mib),
            line("data of all nodes, MiB", |row| row.data_mib),
        ];
        picture::write_courses(path, &format!("soak: {}", self.asked), &lines)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = format!(
            "\n{} jobs in {:.0} s, {:.0} a second; {} ended, lost {}, doubled {}, stale results refused {}\n",
            self.jobs,
            self.seconds,
            self.ended as f64 / self.seconds.max(1e-6),
            self.ended,
            self.lost,
            self.doubled,
            self.stale_refused
        );
        for course in Self::courses() {
            if let Some((second, last)) = course.thirds(&self.rows) {
                let what = if course.most { "most" } else { "median" };
                // Writing to a string cannot fail.
                let _ = writeln!(out, "{}: {what} {second:.1} in the second third, {last:.1} in the last", course.name);
            }
        }
        for problem in &self.problems {
            let _ = writeln!(out, "WRONG: {problem}");
        }
        out + if self.ok() { "ok: every job ended once, and nothing grew\n" } else { "NOT OK\n" }
    }
}

/// A figure of the rows that should stay where it is.
struct Trend {
    name: &'static str,
    value: fn(&Row) -> f64,
    /// Its most counts; else its median.
    most: bool,
    /// More than so many times as much is growth.
    flat: f64,
}

impl Trend {
    /// In the second and in the last third of the rows; the first fills what has a fixed size.
    fn thirds(&self, rows: &[Row]) -> Option<(f64, f64)> {
        let third = rows.len() / 3;
        let of = |rows: &[Row]| {
            let mut values: Vec<f64> = rows.iter().map(self.value).collect();
            values.sort_unstable_by(f64::total_cmp);
            let at = if self.most { values.len().checked_sub(1)? } else { values.len() / 2 };
            values.get(at).copied()
        };
        Some((of(rows.get(third..third * 2)?)?, of(rows.get(third * 2..)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(memory: impl Fn(u32) -> f64) -> Report {
        let row = |n: u32| Row { minutes: n.into(), memory_mib: memory(n), submit_p99_ms: 10.0, ..Row::default() };
        let mut report = Report { rows: (0..60).map(row).collect(), ..Report::default() };
        report.balanced(&Balance { submitted: 5, finished: 5, ..Balance::default() }, 0);
        report
    }

    #[test]
    fn what_grows_is_named() {
        let flat = report(|n| 500.0 + f64::from(n % 7));
        assert!(flat.ok(), "{:?}", flat.problems);
        let grown = report(|n| 100.0 + 10.0 * f64::from(n));
        assert!(!grown.ok());
        assert!(grown.text().contains("WRONG: memory"), "{}", grown.text());
        // The first third may grow.
        assert!(report(|n| f64::from(n.min(20))).ok());
    }

    #[test]
    fn a_job_that_is_left_is_a_problem() {
        let mut report = Report::default();
        report.balanced(&Balance { submitted: 5, finished: 4, lost: 1, ..Balance::default() }, 1);
        assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
        // Too short for thirds.
        assert!(report.text().contains("NOT OK"));
    }

    #[test]
    fn the_picture_has_a_panel_for_each_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("soak.svg");
        report(|_| 5.0).draw(&path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for text in ["jobs a second", "submit p99, ms", "data of all nodes, MiB"] {
            assert!(svg.contains(text), "no {text:?}");
        }
        assert!(Report::default().draw(&folder.path().join("empty.svg")).is_ok());
    }
}
