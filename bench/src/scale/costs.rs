//! What each step costs, in one place: everything that the model and the simulation know of moso's speed.
//!
//! A default is one of three kinds, and [`SOURCES`] says which. *Measured*: it follows from a figure of
//! `bench/SCALE.md`, and the command beside it gives it anew. *Counted*: it is a constant or an encoding in the code.
//! *Assumed*: nothing has measured it yet; the command beside it would, and `bench/SCALE.md` says what hangs on it.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Costs of the steps of a job's life and of the cluster's own upkeep. CPU is in µs of one core, kernel included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Costs {
    /// A client's call at the node that it reaches: read, routed, answered. µs.
    pub call_us: f64,
    /// A job in such a call: decoded, encoded, its body copied. µs.
    pub call_job_us: f64,
    /// A frame between two nodes: both sides' system calls and wake-ups together. Raft's frames are written by reactors
    /// and log writers, which is part of `entry_us` and `write_us`: of them only the reader's half is charged. µs.
    pub frame_us: f64,
    /// A message in a frame, both sides together. µs.
    pub message_us: f64,
    /// Messages to one node within this time share a frame. µs.
    pub coalesce_us: f64,
    /// A command at a replica, its jobs aside. µs.
    pub command_us: f64,
    /// A Raft entry at a replica: proposed or appended, sent, committed. µs.
    pub entry_us: f64,
    /// A job in a command at the leader: applied, filed or leased, its record stored. µs.
    pub job_leader_us: f64,
    /// The same at a follower. µs.
    pub job_follower_us: f64,
    /// A write to the log, its sync, and what is sent after it: CPU. µs.
    pub write_us: f64,
    /// A write to the log and its sync: how long it takes beside that. µs.
    pub sync_us: f64,
    /// A heartbeat message at the node that the worker is connected to. µs.
    pub beat_call_us: f64,
    /// The part of a heartbeat message that is for one shard, at its leader. µs.
    pub part_us: f64,
    /// A job in a heartbeat message. µs.
    pub beat_us: f64,
    /// A tick of an idle replica, or a Raft heartbeat taken by one. µs.
    pub tick_us: f64,
    /// An entry of a hint (a queue with work in a shard), written or read. µs.
    pub hint_entry_us: f64,
    /// An entry looked at when a lease request chooses a shard. µs.
    pub scan_entry_us: f64,
    /// A queue, share or user of one node added to the cluster's use of resources. µs.
    pub usage_entry_us: f64,
    /// A live job when a new leader files leases and ready jobs. µs.
    pub takeover_job_us: f64,
    /// A call at the load generator, when it shares the machine. µs.
    pub generator_call_us: f64,
    /// A job at the load generator, all its steps. µs.
    pub generator_job_us: f64,
    /// Written by one replica for a job's whole life, log, memtables and compactions, if it lives for more than 1 s: what
    /// comes and goes sooner is only in the log. Bytes.
    pub disk_job_bytes: f64,
    /// A job in a message between nodes or to a worker, its body aside. Bytes.
    pub wire_job_bytes: f64,
    /// What a frame costs on the line beside its messages: Ethernet, IP, TCP and the frame's own head. Bytes.
    pub wire_frame_bytes: f64,
    /// A Raft heartbeat or its answer. Bytes.
    pub wire_raft_bytes: f64,
    /// A job in a heartbeat message: id, attempt, phase. Bytes.
    pub wire_beat_bytes: f64,
    /// A shard's figures in a hint. Bytes.
    pub wire_hint_shard_bytes: f64,
    /// A queue with work in a hint. Bytes.
    pub wire_hint_entry_bytes: f64,
    /// A queue, share or user in the use of resources. Bytes.
    pub wire_usage_entry_bytes: f64,
    /// Resident memory of a live job on a replica. Bytes.
    pub job_bytes: f64,
    /// Resident memory of a node without shards: the states' memtables, the block cache, a write of the log. Bytes.
    pub node_bytes: f64,
    /// Resident memory of an empty replica: a RocksDB instance of its own. Bytes.
    pub replica_bytes: f64,
    /// Read buffers of a connection to or from another node. Bytes.
    pub connection_bytes: f64,
    /// A worker's session. Bytes.
    pub session_bytes: f64,
    /// A kept hint entry in memory. Bytes.
    pub hint_entry_bytes: f64,
}

/// How a default is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// From a figure of `bench/SCALE.md`.
    Measured,
    /// From the code.
    Counted,
    /// Not known yet.
    Assumed,
}

/// Whole life cycles, batches of 100.
const LIFE_100: &str = "lifecycle --nodes 3 --jobs 1600000 --batch 100 --body 1024 --queues 8";
/// Whole life cycles, one job a call.
const LIFE_1: &str = "lifecycle --nodes 3 --jobs 220000 --batch 1 --body 1024 --queues 8";
/// One job a call at half of that rate, with `perf` on the nodes for the threads' parts and the system calls.
const PERF_1: &str = "perf record and perf trace on the nodes under: latency --nodes 3 --rate 5000 --seconds 20";
/// The same where threads need not wait for a core.
const STAGES: &str = "moso_stage_seconds and system calls under: latency --rate 5000, a machine for each node";
/// Heartbeats at the highest rate.
const FLOOD: &str = "running --nodes 3 --jobs 200000 --heartbeat 60s --flood --seconds 15";
/// A million held jobs.
const HELD: &str = "running --nodes 3 --jobs 1000000 --heartbeat 60s --seconds 60 --through 50000";
/// One replica instead of three: what the leader alone costs.
const ALONE: &str = "lifecycle --nodes 1 --jobs 500000 --batch 100 --body 1024 --queues 8, against --nodes 3";
/// Idle replicas: the node's own moso_cpu_us and moso_rss_bytes.
const IDLE_SHARDS: &str =
    "moso up --nodes 3 --shards 6, then 384: moso_cpu_us and moso_rss_bytes of /metrics over 60 s";
/// The same steps on data of the same shape, without a cluster.
const CALIBRATE: &str = "scale --calibrate";

/// Where each default comes from: field, kind, and the command of `moso-bench` (or the place in the code) that gives it.
/// How the values follow from the figures is in `bench/SCALE.md`.
pub const SOURCES: [(&str, Kind, &str); 35] = [
    ("call_us", Kind::Measured, PERF_1),
    ("call_job_us", Kind::Assumed, LIFE_100),
    ("frame_us", Kind::Measured, PERF_1),
    ("message_us", Kind::Measured, FLOOD),
    ("coalesce_us", Kind::Assumed, STAGES),
    ("command_us", Kind::Measured, LIFE_1),
    ("entry_us", Kind::Measured, LIFE_1),
    ("job_leader_us", Kind::Assumed, ALONE),
    ("job_follower_us", Kind::Assumed, ALONE),
    ("write_us", Kind::Measured, PERF_1),
    ("sync_us", Kind::Assumed, STAGES),
    ("beat_call_us", Kind::Measured, FLOOD),
    ("part_us", Kind::Measured, FLOOD),
    ("beat_us", Kind::Measured, FLOOD),
    ("tick_us", Kind::Assumed, IDLE_SHARDS),
    ("hint_entry_us", Kind::Measured, CALIBRATE),
    ("scan_entry_us", Kind::Measured, CALIBRATE),
    ("usage_entry_us", Kind::Measured, CALIBRATE),
    ("takeover_job_us", Kind::Assumed, "replay --nodes 3 --kill-every 20s, with MOSO_LOG=debug"),
    ("generator_call_us", Kind::Measured, LIFE_1),
    ("generator_job_us", Kind::Measured, LIFE_100),
    ("disk_job_bytes", Kind::Measured, LIFE_100),
    ("wire_job_bytes", Kind::Counted, "client/proto/proto, node/queue/src/command/encoding.rs"),
    ("wire_frame_bytes", Kind::Counted, "node/src/peer/frame.rs"),
    ("wire_raft_bytes", Kind::Counted, "node/shard/src/wire.rs"),
    ("wire_beat_bytes", Kind::Counted, "node/src/router.rs HeartbeatCall"),
    ("wire_hint_shard_bytes", Kind::Counted, "node/src/directory.rs ShardStatus, as postcard"),
    ("wire_hint_entry_bytes", Kind::Counted, "node/src/hints.rs QueueHint, as postcard"),
    ("wire_usage_entry_bytes", Kind::Counted, "node/src/directory.rs Usage, as postcard"),
    ("job_bytes", Kind::Measured, HELD),
    ("node_bytes", Kind::Counted, "node/src/config.rs: 192 + 64 MiB; node/src/log_writer.rs WRITE_BYTES_MAX: 8 MiB"),
    ("replica_bytes", Kind::Assumed, IDLE_SHARDS),
    ("connection_bytes", Kind::Counted, "node/src/limits.rs PEER_READ_BYTES"),
    ("session_bytes", Kind::Counted, "node/src/sessions.rs STREAMS_MAX"),
    ("hint_entry_bytes", Kind::Counted, "node/src/hints.rs QueueHint in memory"),
];

impl Default for Costs {
    fn default() -> Self {
        Costs {
            call_us: 14.0,
            call_job_us: 0.5,
            frame_us: 12.0,
            message_us: 0.5,
            coalesce_us: 250.0,
            command_us: 1.0,
            entry_us: 21.0,
            job_leader_us: 2.6,
            job_follower_us: 1.7,
            write_us: 230.0,
            sync_us: 300.0,
            beat_call_us: 14.0,
            part_us: 1.0,
            beat_us: 0.05,
            tick_us: 1.0,
            hint_entry_us: 0.022,
            scan_entry_us: 0.000_3,
            usage_entry_us: 0.042,
            takeover_job_us: 0.5,
            generator_call_us: 8.4,
            generator_job_us: 2.8,
            disk_job_bytes: 2_692.0,
            wire_job_bytes: 60.0,
            wire_frame_bytes: 80.0,
            wire_raft_bytes: 60.0,
            wire_beat_bytes: 8.0,
            wire_hint_shard_bytes: 40.0,
            wire_hint_entry_bytes: 5.0,
            wire_usage_entry_bytes: 8.0,
            job_bytes: 547.0,
            node_bytes: 264.0 * 1024.0 * 1024.0,
            replica_bytes: 1024.0 * 1024.0,
            connection_bytes: 64.0 * 1024.0,
            session_bytes: 10.0 * 1024.0,
            hint_entry_bytes: 16.0,
        }
    }
}

impl Costs {
    /// The costs of a file; what it does not name keeps its default.
    ///
    /// # Errors
    /// When the file cannot be read, or names what is no cost, or a cost below zero.
    pub fn read(path: &Path) -> Result<Costs> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Costs::parse(&text).with_context(|| format!("costs of {}", path.display()))
    }

    fn parse(text: &str) -> Result<Costs> {
        const FORM: &str = "a costs file is a JSON object of numbers, named as the `costs` in a report that \
                            `moso-bench scale --json FILE` writes";
        let value: serde_json::Value = serde_json::from_str(text).context(FORM)?;
        // Serde would take an array as well, in the order of the fields.
        ensure!(value.is_object(), FORM);
        let costs: Costs = serde_json::from_value(value).context(FORM)?;
        costs.check()?;
        Ok(costs)
    }

    fn check(&self) -> Result<()> {
        let serde_json::Value::Object(values) = serde_json::to_value(self)? else {
            bail!("costs are numbers by name");
        };
        for (name, value) in values {
            // What is not finite has become null.
            let Some(value) = value.as_f64() else { bail!("{name} is not a number: give one of at least 0") };
            ensure!(value >= 0.0, "{name} = {value}: a cost is at least 0; its unit is in its name");
        }
        ensure!(self.sync_us > 0.0, "sync_us = 0: a sync takes time; 1 is as good as none");
        Ok(())
    }

    /// Written by one replica for a job with a body of so many bytes. The measured one has 1 KiB, which is written to the
    /// log and to the state.
    pub fn disk_bytes(&self, body_bytes: f64) -> f64 {
        (self.disk_job_bytes + 2.0 * (body_bytes - 1_024.0)).max(0.0)
    }

    /// Names of the costs that nothing has measured.
    pub fn assumed() -> impl Iterator<Item = &'static str> {
        SOURCES.iter().filter(|(_, kind, _)| *kind == Kind::Assumed).map(|(name, ..)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_has_its_source() {
        let value = serde_json::to_value(Costs::default()).expect("plain numbers");
        let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut sources: Vec<&str> = SOURCES.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        sources.sort_unstable();
        assert_eq!(names, sources);
        assert!(SOURCES.iter().all(|(_, _, from)| !from.is_empty()));
        Costs::default().check().expect("the defaults are in range");
    }

    #[test]
    fn a_file_changes_what_it_names() {
        let costs = Costs::parse(r#"{"call_us": 30, "sync_us": 1500.5}"#).expect("it can be read");
        assert_eq!(costs, Costs { call_us: 30.0, sync_us: 1_500.5, ..Costs::default() });
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("costs.json");
        std::fs::write(&path, serde_json::to_string(&costs).expect("plain numbers")).expect("it can be written");
        assert_eq!(Costs::read(&path).expect("it can be read"), costs);
    }

    #[test]
    fn what_is_no_cost_is_refused() {
        for (text, told) in [
            (r#"{"call_ms": 30}"#, "call_ms"),
            (r#"{"call_us": -1}"#, "call_us = -1"),
            (r#"{"sync_us": 0}"#, "sync_us"),
            (r#"{"call_us": "fast"}"#, "fast"),
            ("[1]", "JSON object"),
            ("call_us = 30", "expected"),
        ] {
            let error = Costs::parse(text).expect_err(text);
            assert!(format!("{error:#}").contains(told), "{text}: {error:#}");
        }
        let missing = Costs::read(Path::new("no/such/costs.json")).expect_err("no such file");
        assert!(format!("{missing:#}").contains("no/such/costs.json"), "{missing:#}");
    }
}
