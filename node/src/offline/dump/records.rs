//! Records of a replica's state, for people.

use super::line::Line;
use super::{Printer, hex};
use crate::error::Error;
use crate::fault::damaged_record;
use crate::offline::folder::ReplicaFolder;
use crate::offline::replay::AnyMachine;
use crate::store::keys::EndedKind;
use crate::store::{SharedRocks, StateStore};
use crate::views::decode_change;
use bytes::Bytes;
use moso_proto::object::kind;
use moso_queue::Machine;
use moso_queue::job::{EndedJob, Job};
use moso_queue::meta::MetaMachine;
use moso_queue::task::{EndedTask, Task};
use std::collections::BTreeSet;
use std::io;

/// Prints a replica's state; what cannot be read is said.
///
/// # Errors
/// Of printing.
pub fn dump(replica: &ReplicaFolder, shared: &SharedRocks, printer: &mut Printer<'_>) -> io::Result<()> {
    let shard = replica.shard;
    let store = match StateStore::open_read_only(&replica.path, shard, shared) {
        Ok(store) => store,
        Err(error) => return printer.error(shard, &error),
    };
    let applied = store.applied();
    let (at, conf) = applied.map_or_else(Default::default, |(at, conf)| (at, conf));
    let head = Line::new("replica")
        .with("shard", shard)
        .with("peer", replica.peer)
        .with("applied", at.index)
        .with("term", at.term)
        .with("voters", conf.voters)
        .with_some("learners", conf.learners)
        .with_some("voters_outgoing", conf.voters_outgoing);
    printer.print(&head)?;
    match AnyMachine::load(shard, &store) {
        Ok(AnyMachine::Meta(machine)) => return dump_meta(&machine, printer),
        Ok(AnyMachine::Shard(machine)) => dump_machine(&machine, printer)?,
        Err(error) => printer.error(shard, &error)?,
    }
    dump_stored(shard, &store, printer)
}

fn dump_machine(machine: &Machine, printer: &mut Printer<'_>) -> io::Result<()> {
    let shard = machine.shard().0;
    let head = Line::new("machine")
        .with("shard", shard)
        .with("now_ms", machine.now_ms())
        .with("next_seq", machine.next_seq())
        .with("live", machine.live())
        .with("ended", machine.ended_jobs())
        .with("dedup_floor_ms", machine.dedup_floor_ms())
        .with("digest", format!("{:016x}", machine.digest()));
    printer.print(&head)?;
    for (id, class) in machine.classes().iter() {
        let key = &class.key;
        let line = Line::new("class")
            .with("shard", shard)
            .with("id", id.0)
            .with("queue", key.queue)
            .with("share", key.share)
            .with("owner", &*key.owner)
            .with("cores", key.cores)
            .with_some("group", &*key.group)
            .with_some("label", &*key.label)
            .with_some("memory_mib", key.memory_mib)
            .with_some("disk_mib", key.disk_mib)
            .with_some("wall_time_s", key.wall_time_s)
            .with_some("resource_type", &*key.resource_type)
            .with_some("tags", key.tags.iter().map(|tag| tag.to_string()).collect::<Vec<_>>())
            .with("ready", class.ready())
            .with("leased", class.leased());
        printer.print(&line)?;
    }
    for task in machine.tasks_from(0) {
        printer.print(&task_line("task", shard, task))?;
    }
    let mut sessions = BTreeSet::new();
    for job in machine.jobs().from(0) {
        printer.print(&job_line("job", shard, job))?;
        if job.state.is_leased() {
            sessions.insert(job.session);
        }
    }
    for session in sessions {
        let line = Line::new("session")
            .with("shard", shard)
            .with("session", session)
            .with("worker", machine.worker(session))
            .with("leases", machine.leases_of(session));
        printer.print(&line)?;
    }
    Ok(())
}

fn job_line(what: &'static str, shard: u16, job: &Job) -> Line {
    Line::new(what)
        .with("shard", shard)
        .with("seq", job.seq)
        .with("task", job.task)
        .with("state", job.state.name())
        .with_some("reason", job.reason.text())
        .with("priority", job.priority)
        .with("attempt", job.attempt)
        .with("last_attempt", job.last_attempt)
        .with_some("session", job.session)
        .with("changed_ms", job.changed_ms)
        .with_some("leased_ms", job.leased_ms)
        .with_some("started_ms", job.started_ms)
        .with_some("unmet", job.unmet)
        .with_some("kill", job.kill)
        .with("class", job.class.0)
}

fn task_line(what: &'static str, shard: u16, task: &Task) -> Line {
    Line::new(what)
        .with("shard", shard)
        .with("seq", task.seq)
        .with("jobs", task.jobs)
        .with("ended", task.ended())
        .with_some("array", task.array)
        .with_some("unmade", task.rest_len())
        .with("name", &*task.name)
        .with("priority", task.priority)
        .with("created_ms", task.created_ms)
        .with_some("ended_ms", task.ended_ms)
        .with("submission", hex(&task.submission))
        .with("class", task.class.0)
}

/// What the machine does not hold: submissions, bodies, the archive, the status log.
fn dump_stored(shard: u16, store: &StateStore, printer: &mut Printer<'_>) -> io::Result<()> {
    let mut printing = Ok(());
    let mut print = |line: Line| -> Result<(), Error> {
        if printing.is_ok() {
            printing = printer.print(&line);
        }
        // Ends the walk.
        if printing.is_ok() { Ok(()) } else { Err(Error::contract(shard, "nobody reads on")) }
    };
    let submissions =
        store.for_each_dedup(|id, _| print(Line::new("submission").with("shard", shard).with("submission", hex(&id))));
    let bodies = submissions.and_then(|()| {
        store.for_each_body(|seq, bytes| {
            print(Line::new("body").with("shard", shard).with("seq", seq).with("bytes", bytes.len()))
        })
    });
    let ended = bodies.and_then(|()| {
        store.for_each_ended(|day, kind, seq, bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            let damaged = |error: moso_queue::Error| damaged_record(shard, seq, &error);
            print(match kind {
                EndedKind::Job => {
                    let ended = EndedJob::decode(seq, bytes).map_err(damaged)?;
                    job_line("ended_job", shard, &ended.job)
                        .with("day", day)
                        .with("ended_ms", ended.ended_ms)
                        .with_some("worker", &*ended.worker)
                        .with("exit_code", ended.report.exit_code)
                        .with("owner", &*ended.key.owner)
                        .with("queue", ended.key.queue)
                }
                EndedKind::Task => {
                    let ended = EndedTask::decode(seq, bytes).map_err(damaged)?;
                    task_line("ended_task", shard, &ended.task).with("day", day)
                }
            })
        })
    });
    let rows = ended.and_then(|()| {
        store.for_each_row(|day, seq, bytes| {
            let row = decode_change(seq, Bytes::copy_from_slice(bytes)).map_err(|e| damaged_record(shard, seq, &e))?;
            let line = Line::new("row")
                .with("shard", shard)
                .with("seq", seq)
                .with("day", day)
                .with("time_ms", row.time_ms)
                .with("state", row.state.name())
                .with("attempt", row.attempt);
            print(line.with_some("who", &*row.who).with_some("reason", row.reason.text()).with_some("text", &*row.text))
        })
    });
    printing?;
    match rows {
        Ok(()) => Ok(()),
        Err(error) => printer.error(shard, &error),
    }
}

fn dump_meta(machine: &MetaMachine, printer: &mut Printer<'_>) -> io::Result<()> {
    let head =
        Line::new("machine").with("shard", 0).with("cluster", machine.cluster()).with("version", machine.version());
    printer.print(&head)?;
    for object in kind::ALL.iter().flat_map(|kind| machine.list(kind)) {
        let line = Line::new("object")
            .with("shard", 0)
            .with("kind", &*object.kind)
            .with("name", &*object.name)
            .with("version", object.version)
            .with("id", object.id)
            .with("author", &*object.author)
            .with("time_ms", object.time_ms)
            .with("object", serde_json::from_str(&object.json).unwrap_or(serde_json::Value::Null));
        printer.print(&line)?;
    }
    for entry in machine.audit() {
        let word = &entry.word;
        let line = Line::new("audit")
            .with("shard", 0)
            .with("seq", entry.seq)
            .with("time_ms", entry.time_ms)
            .with("actor", &*word.actor)
            .with("action", &*word.action)
            .with("target", &*word.target)
            .with("outcome", &*word.outcome)
            .with("node", word.node);
        printer.print(&line)?;
    }
    Ok(())
}
