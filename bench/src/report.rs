//! The report of a run, as JSON and for people.

use crate::books::Balance;
use crate::check::Count;
use crate::histogram::{Percentiles, Step};
use crate::monitor::Seen;
use crate::run::Run;
use moso_proto::JobState;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Sites shown one by one.
const SITES_SHOWN: usize = 10;

/// Everything a run found. Keys that do not apply are left out of the JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Name of the command.
    pub command: String,
    /// Seed of the run.
    pub seed: u64,
    /// Nodes of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
    /// The server, if it is not a moso cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerServer>,
    /// Jobs asked for.
    pub jobs: u64,
    /// Jobs of one submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Bytes of a body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<usize>,
    /// Length of the measurement, s.
    pub seconds: f64,
    /// Jobs ended per second of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs_per_s: Option<f64>,
    /// Rates of its parts.
    #[serde(skip_serializing_if = "Phases::is_empty")]
    pub phases: Phases,
    /// Jobs that ended, by the generator's books.
    pub ended: u64,
    /// Submitted jobs whose end was never acknowledged.
    pub lost: u64,
    /// Ends accepted twice.
    pub doubled: u64,
    /// Results refused because the attempt was no longer current.
    pub stale_refused: u64,
    /// Every asked job ended exactly once, by the books and by the cluster.
    pub ok: bool,
    /// What was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Jobs by state, as the cluster counts them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, u64>,
    /// Latencies by step.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub latency_ms: BTreeMap<&'static str, Percentiles>,
    /// What the nodes used.
    #[serde(skip_serializing_if = "Server::is_empty")]
    pub server: Server,
    /// What the generator used.
    pub generator: Generator,
    /// Most jobs held by workers at once.
    pub peak_running: u64,
    /// Nodes killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kills: Option<u64>,
    /// What came of nodes that were killed while jobs were held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<Failover>,
    /// Ends by site: name, finished, failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<(String, u64, u64)>,
}

/// Nodes killed while jobs were held; times in s, from the kill.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Failover {
    /// Which.
    pub killed: String,
    /// Longest time without a lease of a job that was submitted meanwhile, of any shard.
    pub no_lease_any_s: f64,
    /// The same of the shard where it was longest.
    pub no_lease_worst_s: f64,
    /// Until every held job's heartbeat had been taken by its leader.
    pub leases_live_s: f64,
    /// From the start of the killed nodes until all were ready.
    pub ready_s: f64,
    /// Held jobs whose workers were told that they are no longer theirs.
    pub leases_lost: u64,
}

/// Rates of the parts of a run, jobs a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Phases {
    /// From the start to the last acknowledged submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submit_per_s: Option<f64>,
    /// From the first lease to the last end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_per_s: Option<f64>,
    /// Leases while none ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_per_s: Option<f64>,
}

impl Phases {
    fn is_empty(&self) -> bool {
        *self == Phases::default()
    }
}

/// A server that is not a moso cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PeerServer {
    /// What it is.
    pub kind: String,
    /// Its version, if it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Settings that decide what an acknowledgement is worth, as far as the server tells.
    pub settings: BTreeMap<String, String>,
}

impl std::fmt::Display for PeerServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if !self.version.is_empty() {
            write!(f, " {}", self.version)?;
        }
        self.settings.iter().try_for_each(|(name, value)| write!(f, ", {name} {value}"))
    }
}

/// What the nodes used, all together unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Server {
    /// CPU time per ended job, µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_job: Option<f64>,
    /// Most resident memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_mib: Option<f64>,
    /// Bytes written to disk per ended job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes_per_job: Option<f64>,
    /// Growth of one node's resident memory per job held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_running_job: Option<f64>,
    /// The same by the nodes' own count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_bytes_per_running_job: Option<f64>,
    /// Heartbeats of single jobs per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeats_per_s: Option<f64>,
    /// Cores used above those of the idle cluster while jobs were held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_cpu_cores: Option<f64>,
    /// Jobs per second through another queue while jobs were held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through_per_s: Option<f64>,
}

impl Server {
    fn is_empty(&self) -> bool {
        *self == Server::default()
    }
}

/// What the generator used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Generator {
    /// CPU time per ended job, µs.
    pub cpu_us_per_job: f64,
}

impl Report {
    /// A report of a command.
    pub fn new(command: &str, seed: u64, jobs: u64) -> Report {
        Report { command: command.to_owned(), seed, jobs, ..Report::default() }
    }

    /// Enters what the monitor saw and what the run's histograms hold.
    pub fn measured<C>(&mut self, run: &Run<C>, seen: &Seen) {
        let ended = run.books.ended_count().max(1) as f64;
        self.seconds = seen.seconds;
        self.jobs_per_s = Some(ended / seen.seconds.max(1e-6));
        if let Some(used) = seen.used {
            self.server.cpu_us_per_job = Some(used.cpu_us as f64 / ended);
            self.server.disk_bytes_per_job = Some(used.written_bytes as f64 / ended);
            self.server.rss_mib = Some(seen.rss_peak_bytes as f64 / f64::from(1 << 20));
        }
        self.generator.cpu_us_per_job = seen.generator_cpu_us as f64 / ended;
        self.peak_running = run.running_peak();
        let step = |step: Step| Some((step.name(), run.latencies.percentiles(step)?));
        self.latency_ms = Step::ALL.into_iter().filter_map(step).collect();
        self.sites = run.by_site();
    }

    /// Enters the two accounts and compares them.
    pub fn checked(&mut self, balance: &Balance, count: &Count) {
        self.balanced(balance);
        self.states.clone_from(&count.states);
        let asked = self.jobs;
        let mut problem = |wrong: bool, text: String| self.problem(wrong, text);
        problem(count.missing > 0, format!("{} jobs unknown to the cluster", count.missing));
        problem(count.ended() != asked, format!("{} of {asked} jobs ended by the cluster's count", count.ended()));
        let unseen = asked.saturating_sub(balance.finished + balance.failed);
        let finished = count.of(JobState::Finished);
        // Ends whose acknowledgement never came may be of either kind.
        problem(
            finished < balance.finished || finished > balance.finished + unseen,
            format!("{finished} jobs finished by the cluster's count, {} by the books", balance.finished),
        );
        self.ok = self.problems.is_empty();
    }

    /// Enters the books, and how many jobs another server still has: it keeps no account of those that ended.
    #[cfg(any(test, feature = "peers"))]
    pub fn checked_peer(&mut self, balance: &Balance, left: u64) {
        self.balanced(balance);
        self.problem(left > 0, format!("{left} jobs are still on the server"));
        self.ok = self.problems.is_empty();
    }

    fn balanced(&mut self, balance: &Balance) {
        self.ended = balance.ended();
        self.lost = balance.lost;
        self.doubled = balance.doubled;
        self.stale_refused = balance.stale;
        let asked = self.jobs;
        self.problem(balance.lost > 0, format!("{} jobs lost", balance.lost));
        self.problem(balance.doubled > 0, format!("{} jobs ended twice", balance.doubled));
        self.problem(balance.submitted != asked, format!("{} of {asked} jobs submitted", balance.submitted));
        self.problem(balance.unasked > 0, format!("{} jobs ended that nobody submitted", balance.unasked));
        self.problem(balance.refused > 0, format!("{} results refused", balance.refused));
    }

    fn problem(&mut self, wrong: bool, text: String) {
        if wrong {
            self.problems.push(text);
        }
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:>24}  {value}");
        };
        if let Some(peer) = &self.peer {
            line("server", peer.to_string());
        }
        line("jobs", format!("{} in {:.2} s", self.jobs, self.seconds));
        let rates = [
            ("rate", self.jobs_per_s),
            ("submit", self.phases.submit_per_s),
            ("lease", self.phases.lease_per_s),
            ("drain", self.phases.drain_per_s),
            ("through while held", self.server.through_per_s),
        ];
        for (name, rate) in rates {
            if let Some(rate) = rate {
                line(name, format!("{rate:.0} jobs/s"));
            }
        }
        line("peak running", self.peak_running.to_string());
        for (step, p) in Step::ALL.into_iter().filter_map(|s| Some((s.name(), self.latency_ms.get(s.name())?))) {
            let name = format!("{step} latency");
            line(
                &name,
                format!(
                    "p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1} ms",
                    p.p50, p.p90, p.p99, p.p999, p.max
                ),
            );
        }
        self.server_text(&mut line);
        self.site_text(&mut line);
        for failover in &self.failovers {
            let Failover { killed, no_lease_any_s, no_lease_worst_s, leases_live_s, ready_s, leases_lost } = failover;
            line(
                killed,
                format!(
                    "no lease for {no_lease_any_s:.2} s of any shard, {no_lease_worst_s:.2} s of the worst; all leases \
                     live after {leases_live_s:.2} s, {leases_lost} lost; ready {ready_s:.2} s after the start"
                ),
            );
        }
        for (state, jobs) in &self.states {
            line(state, format!("{jobs} jobs"));
        }
        if let Some(kills) = self.kills {
            line("nodes killed", kills.to_string());
        }
        line(
            "check",
            format!("lost {}, doubled {}, stale results refused {}", self.lost, self.doubled, self.stale_refused),
        );
        for problem in &self.problems {
            line("WRONG", problem.clone());
        }
        if self.ok {
            line("", "every job ended exactly once".to_owned());
        }
        text
    }

    fn server_text(&self, line: &mut impl FnMut(&str, String)) {
        let server = &self.server;
        let figures = [
            ("nodes' CPU", server.cpu_us_per_job, "µs/job"),
            ("written to disk", server.disk_bytes_per_job, "bytes/job"),
            ("memory, one node", server.bytes_per_running_job, "bytes/running job"),
            ("by its own count", server.counted_bytes_per_running_job, "bytes/running job"),
            ("heartbeats", server.heartbeats_per_s, "jobs/s"),
        ];
        for (name, figure, unit) in figures {
            if let Some(figure) = figure {
                line(name, format!("{figure:.1} {unit}"));
            }
        }
        if let Some(cores) = server.heartbeat_cpu_cores {
            line("nodes' CPU for them", format!("{cores:.3} cores"));
        }
        if let (Some(mib), Some(nodes)) = (server.rss_mib, self.nodes) {
            line("nodes' memory", format!("{mib:.0} MiB at most, {nodes} nodes"));
        }
        line("generator's CPU", format!("{:.1} µs/job", self.generator.cpu_us_per_job));
    }

    fn site_text(&self, line: &mut impl FnMut(&str, String)) {
        let mut sites = self.sites.clone();
        sites.sort_by_key(|(name, finished, failed)| (u64::MAX - finished - failed, name.clone()));
        let words = |finished: u64, failed: u64| format!("{finished} finished, {failed} failed");
        for (name, finished, failed) in sites.iter().take(SITES_SHOWN) {
            line(name, words(*finished, *failed));
        }
        if let Some(rest) = sites.get(SITES_SHOWN..).filter(|rest| !rest.is_empty()) {
            let finished = rest.iter().map(|site| site.1).sum();
            let failed = rest.iter().map(|site| site.2).sum();
            line(&format!("{} more sites", rest.len()), words(finished, failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean() -> (Balance, Count) {
        let balance = Balance { submitted: 100, finished: 98, failed: 2, ..Balance::default() };
        let states = [("finished", 98), ("failed", 2)];
        let count = Count { tasks: 1, states: states.map(|(name, n)| (name.to_owned(), n)).into(), missing: 0 };
        (balance, count)
    }

    #[test]
    fn the_json_has_the_agreed_keys() {
        let mut report = Report::new("lifecycle", 7, 100);
        let (balance, count) = clean();
        report.checked(&balance, &count);
        report.batch = Some(10);
        report.phases.submit_per_s = Some(5.0);
        report.nodes = Some(3);
        report.server.cpu_us_per_job = Some(1.5);
        report.server.rss_mib = Some(0.0);
        let p = Percentiles { p50: 1.0, p90: 2.0, p99: 3.0, p999: 4.0, max: 5.0 };
        report.latency_ms.insert("submit", p);
        let json = serde_json::to_value(&report).expect("JSON");
        let expected = serde_json::json!({
            "command": "lifecycle", "seed": 7, "nodes": 3, "jobs": 100, "batch": 10,
            "seconds": 0.0, "phases": {"submit_per_s": 5.0},
            "ended": 100, "lost": 0, "doubled": 0, "stale_refused": 0, "ok": true,
            "states": {"failed": 2, "finished": 98},
            "latency_ms": {"submit": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "p999": 4.0, "max": 5.0}},
            "server": {"cpu_us_per_job": 1.5, "rss_mib": 0.0},
            "generator": {"cpu_us_per_job": 0.0}, "peak_running": 0,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_report_of_another_server_leaves_out_what_it_does_not_tell() {
        let settings = [("fsync".to_owned(), "on".to_owned())].into();
        let mut report = Report::new("peer", 7, 100);
        report.peer = Some(PeerServer { kind: "postgres".to_owned(), version: "15.1".to_owned(), settings });
        report.checked_peer(&clean().0, 0);
        assert!(report.ok);
        assert!(report.text().contains("postgres 15.1, fsync on"), "{}", report.text());
        let json = serde_json::to_value(&report).expect("JSON");
        let expected = serde_json::json!({
            "command": "peer", "seed": 7, "jobs": 100,
            "peer": {"kind": "postgres", "version": "15.1", "settings": {"fsync": "on"}},
            "seconds": 0.0, "ended": 100, "lost": 0, "doubled": 0, "stale_refused": 0, "ok": true,
            "generator": {"cpu_us_per_job": 0.0}, "peak_running": 0,
        });
        assert_eq!(json, expected);
        report.checked_peer(&clean().0, 1);
        assert!(!report.ok && report.text().contains("1 jobs are still on the server"));
    }

    #[test]
    fn each_kind_of_disagreement_is_a_problem() {
        type Change = fn(&mut Balance, &mut Count);
        let changes: [Change; 7] = [
            |balance, _| balance.lost = 1,
            |balance, _| balance.doubled = 1,
            |balance, _| balance.submitted = 99,
            |balance, _| balance.unasked = 1,
            |_, count| count.missing = 1,
            |_, count| _ = count.states.insert("finished".to_owned(), 97),
            |_, count| {
                count.states.insert("finished".to_owned(), 99);
                count.states.insert("failed".to_owned(), 1);
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let (mut balance, mut count) = clean();
            change(&mut balance, &mut count);
            let mut report = Report::new("replay", 1, 100);
            report.checked(&balance, &count);
            assert!(!report.ok, "change {number}");
            assert!(report.text().contains("WRONG"));
        }
    }

    #[test]
    fn the_text_names_ten_sites_and_sums_the_rest() {
        let mut report = Report::new("replay", 1, 100);
        report.sites = (0..13).map(|n| (format!("s{n}"), 100 - n, n)).collect();
        report.sites[12].1 = 1_000;
        let text = report.text();
        assert!(text.contains("s12  1000 finished") && text.contains("s6  94 finished"));
        assert!(text.contains("3 more sites  276 finished, 24 failed"), "{text}");
    }
}
