//! What was computed, for people.

use super::model::Estimate;
use super::simulation::{Percentiles, Simulated};
use super::{Case, Report};
use std::fmt::Write;

/// The tables.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    upkeep(report, &mut out);
    highest(report, &mut out);
    latencies(report, &mut out);
    failures(report, &mut out);
    if report.cases.iter().any(|case| !case.obstacles.is_empty()) {
        section(&mut out, "what does not run as it is, though it was computed");
    }
    for case in report.cases.iter().filter(|case| !case.obstacles.is_empty()) {
        line(&mut out, &[format!(" {}: {}", size(case), case.obstacles.join("; "))]);
    }
    out
}

fn head(report: &Report, out: &mut String) {
    let load = &report.load;
    let _ = writeln!(
        out,
        "scale: {} running, {} queued, {:.1} jobs/s asked, batches of {}, {} workers, {} queues, {} users, seed {}",
        load.running, load.queued, report.rate, load.batch, load.workers, load.queues, load.users, report.seed
    );
    if let Some(case) = report.cases.first() {
        let machine = &case.cluster.machine;
        let _ = writeln!(
            out,
            "{}: {} cores ({} reactors, {} API threads), {} GB, disk {} MB/s, line {} Gbit/s, {} µs away",
            if machine.shared { "all nodes on one machine" } else { "each node" },
            machine.cores,
            machine.reactors(),
            machine.api_threads(),
            machine.memory_bytes / 1e9,
            machine.disk_bytes_per_s / 1e6,
            machine.line_bytes_per_s * 8.0 / 1e9,
            machine.latency_us
        );
    }
}

/// At the rate asked for: what a node does beside jobs, in cores.
fn upkeep(report: &Report, out: &mut String) {
    let title = format!("at {:.1} jobs/s, the busiest node (cores of upkeep)", report.rate);
    section(out, &title);
    let columns = ["hints", "usage", "raft", "beats", "all cores", "hints/s", "hint KB", "line Mbit/s", "parts"];
    header(out, &columns);
    for case in &report.cases {
        let (estimate, upkeep) = (&case.asked, &case.asked.upkeep);
        let cells = [
            number(upkeep.hint_cores),
            number(upkeep.usage_cores),
            number(upkeep.raft_cores),
            number(upkeep.beat_cores),
            number(used_cores(estimate, case)),
            number(upkeep.hints_per_s),
            number(upkeep.hint_bytes / 1e3),
            number(upkeep.hint_line_bytes_per_s * 8.0 / 1e6),
            number(upkeep.beat_parts),
        ];
        row(out, case, &cells);
    }
    section(out, "what a node holds");
    header(out, &["led", "replicas", "peer TCP", "sessions", "memory GB"]);
    for case in &report.cases {
        let estimate = &case.asked;
        let cells = [
            estimate.shards_led.to_string(),
            estimate.replicas.to_string(),
            estimate.connections.to_string(),
            number(estimate.sessions),
            number(estimate.memory_bytes / 1e9),
        ];
        row(out, case, &cells);
    }
}

fn used_cores(estimate: &Estimate, case: &Case) -> f64 {
    let of = |resource| estimate.used.iter().find(|(r, _)| *r == resource).map_or(0.0, |(_, used)| *used);
    of(super::model::Resource::Cores) * case.cluster.machine.cores as f64
}

/// The highest rates.
fn highest(report: &Report, out: &mut String) {
    section(out, "highest rate, jobs/s");
    header(
        out,
        &[
            "model",
            "simulated",
            "hints prompt",
            "one down",
            "cmds/entry",
            "syncs/s",
            "what gives first, then (used part)",
        ],
    );
    for case in &report.cases {
        let Some(highest) = &case.highest else {
            let first = case.asked.used.first().map_or("nothing", |(resource, _)| resource.name());
            row(out, case, &["none: at rest more than the whole of".to_owned(), first.to_owned()]);
            continue;
        };
        let order: Vec<String> =
            highest.used.iter().take(4).map(|(resource, used)| format!("{} {used:.2}", resource.name())).collect();
        let cells = [
            number(highest.jobs_per_s),
            case.full.as_ref().map_or("-".to_owned(), |full| number(full.jobs_per_s)),
            case.prompt_jobs_per_s.map_or("none".to_owned(), number),
            case.one_down_jobs_per_s.map_or("none".to_owned(), number),
            number(highest.commands_per_entry),
            number(highest.syncs_per_s),
            format!("  {}", order.join(", ")),
        ];
        row(out, case, &cells);
    }
}

/// Simulated at half of the highest rate.
fn latencies(report: &Report, out: &mut String) {
    let runs: Vec<(&Case, &Simulated)> =
        report.cases.iter().filter_map(|case| Some((case, case.half.as_ref()?))).collect();
    if runs.is_empty() {
        return;
    }
    section(out, "simulated at half of it: ms, p50 / p99; used parts");
    header(out, &["jobs/s", "submit", "dispatch", "finish", "hint age", "reactor", "API", "s"]);
    for (case, run) in runs {
        let cells = [
            number(run.jobs_per_s),
            both(&run.submit_ms),
            both(&run.dispatch_ms),
            both(&run.finish_ms),
            both(&run.hint_ms),
            format!("{:.2}", run.reactor_used),
            format!("{:.2}", run.api_used),
            format!("{:.2}", run.seconds),
        ];
        row(out, case, &cells);
    }
}

/// Simulated with a node that fails.
fn failures(report: &Report, out: &mut String) {
    let mut titled = false;
    for case in &report.cases {
        let Some(run) = &case.failure else { continue };
        let Some(failover) = &run.failover else { continue };
        if !std::mem::replace(&mut titled, true) {
            section(out, "simulated, a node fails (its connections break at once)");
            header(out, &["jobs/s", "shards", "heirs", "p50 ms", "last ms", "gap ms", "renewed", "repeated"]);
        }
        let cells = [
            number(run.jobs_per_s),
            failover.shards.to_string(),
            failover.heirs.to_string(),
            number(failover.leaderless_p50_ms),
            number(failover.leaderless_max_ms),
            number(failover.dispatch_gap_ms),
            number(failover.leases_renewed),
            failover.repeated.to_string(),
        ];
        row(out, case, &cells);
    }
}

fn size(case: &Case) -> String {
    format!("{} nodes, {} shards", case.cluster.nodes, case.cluster.shards)
}

fn both(times: &Percentiles) -> String {
    format!("{:.2}/{:.1}", times.p50, times.p99)
}

fn section(out: &mut String, title: &str) {
    let _ = writeln!(out, "\n{title}");
}

fn header(out: &mut String, columns: &[&str]) {
    let mut cells = vec![format!("{:>6} {:>6}", "nodes", "shards")];
    cells.extend(columns.iter().map(|column| format!("{column:>12}")));
    line(out, &cells);
}

fn row(out: &mut String, case: &Case, cells: &[String]) {
    let mut line_cells = vec![format!("{:>6} {:>6}", case.cluster.nodes, case.cluster.shards)];
    line_cells.extend(cells.iter().map(|cell| format!("{cell:>12}")));
    line(out, &line_cells);
}

fn line(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "{}", cells.join(" ").trim_end());
}

/// Three digits, or whole numbers.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v if v >= 0.001 => format!("{v:.3}"),
        v => format!("{v:.1e}"),
    }
}
