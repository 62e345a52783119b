//! What a run under faults found, as JSON and for people.

use super::checker::{Rule, Verdict, Violation};
use super::gaps::{Felt, KindFelt, by_kind, felt};
use super::history::{Event, What};
use super::load::Operations;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Violations shown one by one.
const SHOWN: usize = 20;

/// Operations in the calm times between faults.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Calm {
    /// How many calm times.
    pub times: u64,
    /// All together, s.
    pub seconds: f64,
    /// Operations answered in them.
    pub operations: u64,
    /// Operations a second over all of them.
    pub per_s: f64,
    /// Operations a second in the slowest.
    pub slowest_per_s: f64,
    /// What was asked for at least, over all of them.
    pub least_per_s: f64,
}

impl Calm {
    /// Adds a calm time.
    pub fn add(&mut self, seconds: f64, operations: u64) {
        let rate = operations as f64 / seconds.max(f64::EPSILON);
        self.slowest_per_s = if self.times == 0 { rate } else { self.slowest_per_s.min(rate) };
        self.times += 1;
        self.seconds += seconds;
        self.operations += operations;
        self.per_s = self.operations as f64 / self.seconds.max(f64::EPSILON);
    }
}

/// Everything a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// Name of the command.
    pub command: String,
    /// Seed of the run.
    pub seed: u64,
    /// Nodes and shards of the cluster.
    pub nodes: u32,
    /// See `nodes`.
    pub shards: u16,
    /// From the start of the load to its end, s.
    pub seconds: f64,
    /// From then until every job had ended, s.
    pub drain_seconds: f64,
    /// Operations answered, by kind.
    pub operations: Operations,
    /// Calm times.
    pub calm: Calm,
    /// Faults by kind.
    pub faults: BTreeMap<String, KindFelt>,
    /// Each fault.
    pub each_fault: Vec<Felt>,
    /// Kinds left out, and why.
    pub skipped: BTreeMap<String, String>,
    /// Tries of submissions without an answer; refused, by code.
    pub submits_unknown: u64,
    /// See `submits_unknown`.
    pub submits_refused: BTreeMap<String, u64>,
    /// Lease requests without an answer.
    pub leases_unknown: u64,
    /// Results without an answer; refused, by code.
    pub results_unknown: u64,
    /// See `results_unknown`.
    pub results_refused: BTreeMap<String, u64>,
    /// Workers that died without a word.
    pub workers_died: u64,
    /// Acknowledged jobs or tasks that are not there in the end.
    pub lost: u64,
    /// Jobs with two successes or two records, submissions with two tasks.
    pub doubled: u64,
    /// Results accepted although a later attempt had been given.
    pub stale_accepted: u64,
    /// What the history says.
    pub verdict: Verdict,
    /// What else must not have been.
    pub problems: Vec<String>,
    /// No rule was broken, and there is no problem.
    pub ok: bool,
}

impl Report {
    /// Fills in what the history says.
    pub fn take_history(&mut self, events: &[Event]) {
        self.each_fault = felt(events);
        self.faults = by_kind(&self.each_fault);
        for event in events {
            match &event.what {
                What::SubmitUnknown { .. } => self.submits_unknown += 1,
                What::SubmitFail { code, .. } => *self.submits_refused.entry(code.clone()).or_default() += 1,
                What::LeaseUnknown { .. } => self.leases_unknown += 1,
                What::ResultUnknown { .. } => self.results_unknown += 1,
                What::ResultFail { code, .. } => *self.results_refused.entry(code.clone()).or_default() += 1,
                What::WorkerDied { .. } => self.workers_died += 1,
                _ => {}
            }
        }
    }

    /// Fills in the verdict, and judges.
    pub fn judge(&mut self, verdict: Verdict) {
        self.lost = verdict.broken(Rule::Lost);
        self.doubled = verdict.broken(Rule::Doubled) + verdict.broken(Rule::SubmissionDoubled);
        self.stale_accepted = verdict.broken(Rule::StaleAccepted);
        if self.calm.per_s < self.calm.least_per_s {
            let Calm { per_s, least_per_s, .. } = self.calm;
            let text = format!("{per_s:.1} operations/s in the calm times, at least {least_per_s} were asked for");
            self.problems.push(text);
        }
        self.ok = verdict.violations.is_empty() && self.problems.is_empty();
        self.verdict = verdict;
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let v = &self.verdict;
        let ops = &self.operations;
        writeln!(out)?;
        writeln!(
            out,
            "seed {}, {} nodes, {} shards, {:.1} s under load",
            self.seed, self.nodes, self.shards, self.seconds
        )?;
        writeln!(
            out,
            "operations  {} ({} submissions, {} leases, {} heartbeats, {} results)",
            ops.sum(),
            ops.submits,
            ops.leases,
            ops.heartbeats,
            ops.results
        )?;
        writeln!(
            out,
            "calm        {} times, {:.1} s: {:.1} operations/s, {:.1} in the slowest",
            self.calm.times, self.calm.seconds, self.calm.per_s, self.calm.slowest_per_s
        )?;
        writeln!(out, "jobs        {} acknowledged, {} more of abandoned submissions", v.jobs, v.jobs_unacknowledged)?;
        writeln!(
            out,
            "successes   {} acknowledged, {} recorded without anybody being told; {} leases beyond the first",
            v.successes, v.successes_unseen, v.leases_again
        )?;
        writeln!(
            out,
            "no answer   {} submissions, {} lease requests, {} results; {} workers died",
            self.submits_unknown, self.leases_unknown, self.results_unknown, self.workers_died
        )?;
        writeln!(out, "refused     submissions {:?}, results {:?}", self.submits_refused, self.results_refused)?;
        writeln!(out, "drained     every job ended {:.1} s after the load", self.drain_seconds)?;
        self.write_faults(out)?;
        writeln!(out, "lost {}, doubled {}, stale accepted {}", self.lost, self.doubled, self.stale_accepted)?;
        self.write_violations(out)?;
        writeln!(out, "{}", if self.ok { "ok: no rule was broken" } else { "NOT OK" })
    }

    fn write_faults(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\nfaults, and the longest time of each without a lease, ms (median / longest):")?;
        writeln!(out, "{:18}{:>5}{:>20}{:>20}{:>16}", "", "", "any shard", "the worst shard", "live again")?;
        for (kind, felt) in &self.faults {
            writeln!(
                out,
                "{kind:18}{:>5}{:>20}{:>20}{:>16.0}",
                felt.faults,
                format!("{:.0} / {:.0}", felt.gap_median_ms, felt.gap_longest_ms),
                format!("{:.0} / {:.0}", felt.shard_gap_median_ms, felt.shard_gap_longest_ms),
                felt.recovered_longest_ms
            )?;
        }
        for (kind, reason) in &self.skipped {
            writeln!(out, "{kind:18} left out: {reason}")?;
        }
        writeln!(out)
    }

    fn write_violations(&self, out: &mut String) -> std::fmt::Result {
        for Violation { rule, ns, text } in self.verdict.violations.iter().take(SHOWN) {
            writeln!(out, "VIOLATION {rule} at {:.3} s: {text}", *ns as f64 / 1e9)?;
        }
        let count = self.verdict.violations.len();
        if count > SHOWN {
            writeln!(out, "… {} more violations; --json has all", count - SHOWN)?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(out, "PROBLEM {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_run_is_not_ok() {
        let mut report = Report { calm: Calm { least_per_s: 50.0, ..Calm::default() }, ..Report::default() };
        report.calm.add(2.0, 140);
        report.calm.add(2.0, 40);
        assert_eq!((report.calm.per_s, report.calm.slowest_per_s), (45.0, 20.0));
        report.judge(Verdict::default());
        assert!(!report.ok && report.text().contains("45.0 operations/s"), "{}", report.text());
        let mut report = Report::default();
        report.judge(Verdict::default());
        assert!(report.ok);
    }

    #[test]
    fn a_violation_is_not_ok_and_is_said() {
        let violation = |rule| Violation { rule, ns: 1_500_000_000, text: "job 7".to_owned() };
        let rules = [Rule::Lost, Rule::Doubled, Rule::SubmissionDoubled, Rule::StaleAccepted];
        let verdict = Verdict { violations: rules.map(violation).to_vec(), ..Verdict::default() };
        let mut report = Report::default();
        report.judge(verdict);
        assert_eq!((report.lost, report.doubled, report.stale_accepted, report.ok), (1, 2, 1, false));
        assert!(report.text().contains("VIOLATION submission_doubled at 1.500 s: job 7"), "{}", report.text());
    }
}
