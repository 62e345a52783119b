//! Commands of the log, for people.

use super::hex;
use bytes::Bytes;
use moso_queue::command::{Command, JobResult, Submit, Target, read_entry};
use moso_queue::meta::MetaCommand;
use serde_json::{Value, json};

/// Time and commands of an entry, or why they do not decode.
pub fn decode(shard: u16, entry: Bytes) -> Result<(u64, Vec<Value>), String> {
    if shard == 0 {
        let (time, command) = entry.split_first_chunk::<8>().ok_or("too short for the meta group")?;
        let command = MetaCommand::decode(command).map_err(|error| error.to_string())?;
        return Ok((u64::from_le_bytes(*time), vec![meta(&command)]));
    }
    let (time, commands) = read_entry(entry).map_err(|error| error.to_string())?;
    let decoded = commands.into_iter().map(|bytes| Command::decode(bytes).map(|command| shown(&command)));
    Ok((time, decoded.collect::<Result<_, _>>().map_err(|error| error.to_string())?))
}

fn shown(command: &Command) -> Value {
    match command {
        Command::Submit(submit) => submission(submit),
        Command::Lease { session, worker, ttl_ms, request, jobs } => {
            json!({ "lease": jobs, "session": session, "worker": worker, "ttl_ms": ttl_ms, "request": request })
        }
        Command::Results { session, results } => {
            json!({ "results": results.iter().map(result).collect::<Vec<_>>(), "session": session })
        }
        Command::Unheld { session, jobs } => json!({ "unheld": jobs, "session": session }),
        Command::Expire { jobs } => json!({ "expire": jobs }),
        Command::Phase { jobs } => json!({ "phase": jobs }),
        Command::Wake { jobs } => json!({ "wake": jobs }),
        Command::TimeOut { jobs, fail, code } => {
            let jobs: Vec<_> = jobs.iter().map(|(job, state, since)| (job, state.name(), since)).collect();
            json!({ "time_out": jobs, "fail": fail, "code": code })
        }
        Command::Act { action, targets, actor } => {
            let target = |target: &Target| match target {
                Target::Job(job) => json!({ "job": job }),
                Target::Rest(task) => json!({ "rest_of": task }),
            };
            let targets: Vec<_> = targets.iter().map(target).collect();
            json!({ "act": format!("{action:?}"), "targets": targets, "actor": actor })
        }
        Command::Prune { below_ms } => json!({ "prune": below_ms }),
    }
}

fn submission(submit: &Submit) -> Value {
    let bodies: usize = submit.body.len() + submit.jobs.iter().map(|job| job.body.len()).sum::<usize>();
    let dependencies: usize = submit.jobs.iter().map(|job| job.depends_on.len()).sum();
    json!({
        "submit": hex(&submit.submission),
        "name": submit.name,
        "owner": &*submit.class.owner,
        "queue": submit.class.queue,
        "share": submit.class.share,
        "priority": submit.priority,
        "jobs": submit.jobs.len(),
        "array": submit.array,
        "body_bytes": bodies,
        "dependencies": dependencies,
    })
}

fn result(result: &JobResult) -> Value {
    let report = result.report.as_ref();
    json!({
        "job": result.seq,
        "attempt": result.attempt,
        "outcome": format!("{:?}", result.outcome),
        "exit_code": report.map_or(0, |report| report.exit_code),
        "output_bytes": report.map_or(0, |report| report.output.len()),
    })
}

fn meta(command: &MetaCommand) -> Value {
    match command {
        MetaCommand::Put { kind, name, json, expected_version, author } => {
            json!({ "put": kind, "name": name, "object": json, "expected": expected_version, "author": author })
        }
        MetaCommand::Delete { kind, name, expected_version, author } => {
            json!({ "delete": kind, "name": name, "expected": expected_version, "author": author })
        }
        MetaCommand::Bootstrap { cluster, nodes, shards } => {
            let nodes: Vec<u32> = nodes.iter().map(|(node, _)| *node).collect();
            json!({ "bootstrap": cluster, "nodes": nodes, "shards": shards.replicas })
        }
        MetaCommand::Change { word, kind, name, json, expected_version } => {
            json!({ "change": kind, "name": name, "object": json, "expected": expected_version, "by": word })
        }
        MetaCommand::Audit { words } => json!({ "audit": words }),
    }
}
