//! What an overload run found.

use super::nodes::Memory;
use super::tally::{Spread, Tally};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// Everything a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Name of the command.
    pub command: &'static str,
    /// Nodes.
    pub nodes: u32,
    /// Connections asked for, and most that were open at once.
    pub connections: usize,
    /// Most connections open at once.
    pub open_peak: u64,
    /// Length of the load, s.
    pub seconds: f64,
    /// Submissions a second that the cluster carried before.
    pub capacity_per_s: f64,
    /// Submissions a second that were to be offered.
    pub asked_per_s: f64,
    /// Submissions a second that were offered.
    pub offered_per_s: f64,
    /// Submissions a second that were recorded.
    pub carried_per_s: f64,
    /// Submissions a second that were refused.
    pub refused_per_s: f64,
    /// Part of the refusals that said when to come back.
    pub told_when: f64,
    /// Submissions without an answer.
    pub unanswered: u64,
    /// Connections that a node ended, and those that could not be made.
    pub connections_ended: u64,
    /// Times that a connection could not be made.
    pub unconnected: u64,
    /// From submission to answer.
    pub answers: Spread,
    /// Jobs held through the load.
    pub held: u64,
    /// Leases lost.
    pub leases_lost: u64,
    /// Times that a worker's stream broke.
    pub streams_broken: u64,
    /// From heartbeat to answer.
    pub heartbeats: Spread,
    /// From result to acknowledgement.
    pub results: Spread,
    /// Heartbeats before the load.
    pub heartbeats_before: Spread,
    /// Each node's memory.
    pub memory: Vec<Memory>,
    /// What the nodes refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// From the end of the load until all was as before, s; `None`: not within the time.
    pub normal_after_s: Option<f64>,
    /// All held.
    pub ok: bool,
    /// What was wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// Takes in what became of the submissions in the seconds of the load.
    pub fn take(&mut self, tally: &Tally) {
        let per_s = |count: u64| count as f64 / self.seconds.max(1e-6);
        let (later, refused) = (tally.later.load(Relaxed), tally.refused.load(Relaxed));
        self.offered_per_s = per_s(tally.offered.load(Relaxed));
        self.carried_per_s = per_s(tally.carried.load(Relaxed));
        self.refused_per_s = per_s(later + refused);
        self.told_when = if later + refused == 0 { 1.0 } else { later as f64 / (later + refused) as f64 };
        self.unanswered = tally.lost.load(Relaxed);
        self.connections_ended = tally.ended.load(Relaxed);
        self.unconnected = tally.unconnected.load(Relaxed);
        self.answers = tally.times.spread();
    }

    /// Judges.
    pub fn judge(&mut self, recover_s: f64) {
        let mut problems = Vec::new();
        if self.leases_lost > 0 {
            problems.push(format!("{} leases were lost", self.leases_lost));
        }
        for Memory { node, peak_mib, limit_mib } in &self.memory {
            if peak_mib > limit_mib {
                problems.push(format!("node {node} took {peak_mib} MiB, its limit is {limit_mib}"));
            }
        }
        if self.told_when < 1.0 {
            problems.push(format!("only {:.4} of the refusals said when to come back", self.told_when));
        }
        if self.normal_after_s.is_none() {
            problems.push(format!("{recover_s} s after the load all was not as before"));
        }
        self.problems.extend(problems);
        self.ok = self.problems.is_empty();
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<22} {value}");
        };
        let spread =
            |s: &Spread| format!("{:.1} / {:.1} / {:.1} ms p50/p99/max of {}", s.p50_ms, s.p99_ms, s.max_ms, s.count);
        line("carried before", format!("{:.0} submissions/s", self.capacity_per_s));
        let factor = self.offered_per_s / self.capacity_per_s.max(1e-6);
        line("asked for", format!("{:.0}/s from {} connections", self.asked_per_s, self.connections));
        line(
            "offered",
            format!("{:.0}/s ({factor:.1}-fold), {} connections at most", self.offered_per_s, self.open_peak),
        );
        line("carried", format!("{:.0}/s", self.carried_per_s));
        let told = 100.0 * self.told_when;
        line("refused", format!("{:.0}/s, {told:.2} % told when to come back", self.refused_per_s));
        line("without answer", format!("{}", self.unanswered));
        line("answers", spread(&self.answers));
        let (ended, unconnected) = (self.connections_ended, self.unconnected);
        line("connections", format!("{ended} ended by a node, {unconnected} times not made"));
        line(
            "jobs held",
            format!("{}, {} leases lost, {} streams broken", self.held, self.leases_lost, self.streams_broken),
        );
        line("heartbeats", spread(&self.heartbeats));
        line("heartbeats before", spread(&self.heartbeats_before));
        line("results", spread(&self.results));
        for Memory { node, peak_mib, limit_mib } in &self.memory {
            line("memory", format!("node {node}: {peak_mib} MiB at most, limit {limit_mib}"));
        }
        for (reason, count) in self.refused.iter().filter(|(_, count)| **count > 0) {
            line("nodes refused", format!("{reason}: {count}"));
        }
        let after = self.normal_after_s.map_or("not in time".to_owned(), |s| format!("after {s:.1} s"));
        line("as before", after);
        for problem in &self.problems {
            line("wrong", problem.clone());
        }
        line("", if self.ok { "ok" } else { "FAILED" }.to_owned());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_hold_is_judged() {
        let good = Report {
            told_when: 1.0,
            normal_after_s: Some(1.0),
            memory: vec![Memory { node: 1, peak_mib: 10, limit_mib: 20 }],
            ..Report::default()
        };
        let wrong = |change: fn(&mut Report)| {
            let mut report = good.clone();
            change(&mut report);
            report.judge(10.0);
            assert_eq!(report.ok, report.problems.is_empty());
            report.problems.join("; ")
        };
        assert_eq!(wrong(|_| {}), "");
        assert!(wrong(|r| r.leases_lost = 1).contains("leases"));
        assert!(wrong(|r| r.memory[0].peak_mib = 21).contains("limit is 20"));
        assert!(wrong(|r| r.told_when = 0.999).contains("come back"));
        assert!(wrong(|r| r.normal_after_s = None).contains("10 s"));
    }
}
