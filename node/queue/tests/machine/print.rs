//! How the golden scripts print replies, effects and tables.

use crate::scripts::START_MS;
use moso_proto::JobState;
use moso_queue::class::ClassId;
use moso_queue::command::{Reply, ResultStatus};
use moso_queue::job::{EndedJob, Job};
use moso_queue::task::{EndedTask, Task};
use moso_queue::{Effects, Machine, Reason};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A time as scripts write it.
fn time(ms: u64) -> String {
    match ms.checked_sub(START_MS) {
        None => "never".into(),
        Some(ms) if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        Some(ms) => format!("{ms}ms"),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn why(reason: Reason) -> String {
    if reason == Reason::None { String::new() } else { format!(" ({})", reason.text()) }
}

/// The reply's line.
pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Submitted { task, jobs, repeated } => {
            let repeated = if *repeated { ", repeated" } else { "" };
            format!("-> task {task}, {jobs} jobs{repeated}\n")
        }
        Reply::Leased(jobs) if jobs.is_empty() => "-> leased nothing\n".into(),
        Reply::Leased(jobs) => {
            format!("-> leased {}\n", list(jobs.iter().map(|(seq, attempt)| format!("{seq}#{attempt}"))))
        }
        Reply::Results(results) => {
            let word = |status: &ResultStatus| match status {
                ResultStatus::Accepted => "accepted".to_owned(),
                ResultStatus::Refused(code) => format!("refused:{code}"),
            };
            format!("-> {}\n", list(results.iter().map(word)))
        }
        Reply::Acted { changed, refused } => {
            let mut out = format!("-> changed {changed}");
            for (why, count, example) in refused {
                write!(out, ", refused {count} {why:?} (as {example})").unwrap();
            }
            out + "\n"
        }
        Reply::Done => "-> done\n".into(),
        Reply::Refused(refusal) => format!("-> refused:{} {}\n", refusal.code, refusal.message),
    }
}

fn job_line(machine: &Machine, job: &Job) -> String {
    let mut out = format!(
        "job {}: {}{} #{}/{} class {} priority {}",
        job.seq,
        job.state,
        why(job.reason),
        job.attempt,
        job.last_attempt,
        job.class.0,
        job.priority
    );
    match job.state {
        JobState::Defined => write!(out, " until {}", time(job.ready_ms)).unwrap(),
        JobState::Waiting => write!(out, " for {}", job.unmet).unwrap(),
        state if state.is_leased() => {
            write!(out, " held by {} ({})", job.session, machine.worker(job.session)).unwrap();
        }
        _ => {}
    }
    if job.kill > 0 {
        write!(out, " kill {}", job.kill).unwrap();
    }
    out
}

fn counts(task: &Task) -> String {
    let counted = JobState::ALL.iter().filter(|&&s| task.counts[s as usize] > 0);
    list(counted.map(|&s| format!("{s}={}", task.counts[s as usize])))
}

fn task_line(task: &Task) -> String {
    let mut out = format!("task {}: {} {}", task.seq, task.state().name(), counts(task));
    if !task.rest.is_empty() {
        let ranges = task
            .rest
            .iter()
            .map(|(a, b)| format!("{}..{}", task.first() + u64::from(*a), task.first() + u64::from(*b)));
        write!(out, "; {} of them not made: {}", task.rest_state, list(ranges)).unwrap();
    }
    if let Some(end) = task.rest_end {
        write!(out, "; those never made {} by code {} at {}", end.state, end.code, time(end.time_ms)).unwrap();
    }
    out
}

fn class_line(machine: &Machine, id: ClassId) -> String {
    match machine.classes().find(id) {
        None => format!("class {}: gone", id.0),
        Some(class) => {
            let key = &class.key;
            format!("class {}: queue {} owner {} label {} cores {}", id.0, key.queue, key.owner, key.label, key.cores)
        }
    }
}

/// What is remembered of submissions.
pub fn window(machine: &Machine) -> String {
    format!("submissions known from {}\n", time(machine.dedup_floor_ms()))
}

/// All tables.
pub fn show(machine: &Machine) -> String {
    let mut out = format!("live {} ended {} sessions {}\n", machine.live(), machine.ended_jobs(), machine.sessions());
    let tasks = machine.tasks_from(0).map(task_line);
    let jobs = machine.jobs().from(0).map(|job| job_line(machine, job));
    let classes = machine.classes().iter().map(|(id, _)| class_line(machine, id));
    for line in tasks.chain(jobs).chain(classes) {
        writeln!(out, "{line}").unwrap();
    }
    out
}

/// What applying a command asked for, records first.
pub fn effects(machine: &Machine, effects: &Effects) -> String {
    let mut out = String::new();
    for id in effects.classes.iter().collect::<BTreeSet<_>>() {
        writeln!(out, "{}", class_line(machine, *id)).unwrap();
    }
    for seq in effects.tasks.iter().collect::<BTreeSet<_>>() {
        let line = machine.task(*seq).map_or_else(|| format!("task {seq}: gone"), task_line);
        writeln!(out, "{line}").unwrap();
    }
    for seq in effects.jobs.iter().collect::<BTreeSet<_>>() {
        let line = machine.job(*seq).map_or_else(|| format!("job {seq}: gone"), |job| job_line(machine, job));
        writeln!(out, "{line}").unwrap();
    }
    out + &archive(effects) + &leader(effects)
}

fn archive(effects: &Effects) -> String {
    let mut out = String::new();
    for (seq, _, record) in &effects.ended_jobs {
        let ended = EndedJob::decode(*seq, record.clone().into()).unwrap();
        let job = &ended.job;
        write!(out, "archive job {seq}: {}{} #{}", job.state, why(job.reason), job.attempt).unwrap();
        if job.kill > 0 {
            write!(out, " kill {}", job.kill).unwrap();
        }
        if !ended.worker.is_empty() {
            write!(out, " worker {}", ended.worker).unwrap();
        }
        if ended.report.exit_code != 0 {
            write!(out, " exit {}", ended.report.exit_code).unwrap();
        }
        for (source, code, text) in &ended.report.errors {
            write!(out, " {source}:{code} {text:?}").unwrap();
        }
        out.push('\n');
    }
    for (seq, _, record) in &effects.ended_tasks {
        let ended = EndedTask::decode(*seq, record.clone().into()).unwrap();
        writeln!(out, "archive {}", task_line(&ended.task)).unwrap();
    }
    for change in &effects.changes {
        let (seq, attempt, at) = (change.seq, change.attempt, time(change.time_ms));
        write!(out, "log job {seq} at {at}: {}{} #{attempt}", change.state, why(change.reason)).unwrap();
        if !change.who.is_empty() {
            write!(out, " by {}", change.who).unwrap();
        }
        if !change.text.is_empty() {
            write!(out, " {:?}", change.text).unwrap();
        }
        out.push('\n');
    }
    for (word, numbers) in
        [("store", list(effects.bodies.iter().map(|b| b.0))), ("drop", list(&effects.bodies_dropped))]
    {
        if !numbers.is_empty() {
            writeln!(out, "{word} body of {numbers}").unwrap();
        }
    }
    if let Some(below) = effects.submissions_below {
        writeln!(out, "forget submissions before {}", time(moso_queue::machine::submission_time_ms(&below))).unwrap();
    }
    out
}

/// What only a leader takes up.
fn leader(effects: &Effects) -> String {
    let ready =
        effects.ready.iter().map(|(seq, class, priority)| format!("{seq}(class {} priority {priority})", class.0));
    let timers = effects.timers.iter().map(|&(due, seq)| format!("{seq} at {}", time(due)));
    let signals = effects.signals.iter().map(|signal| {
        let word = if signal.gone { "gone" } else { "kill" };
        format!("{word} {}#{} to {}", signal.seq, signal.attempt, signal.session)
    });
    let unready = (effects.unready > 0).then_some(effects.unready);
    let mut out = String::new();
    for (word, text) in [
        ("ready", list(ready)),
        ("ready array", list(&effects.ready_arrays)),
        ("unready", list(unready)),
        ("timer", timers.collect::<Vec<_>>().join(", ")),
        ("signal", signals.collect::<Vec<_>>().join(", ")),
    ] {
        if !text.is_empty() {
            writeln!(out, "{word} {text}").unwrap();
        }
    }
    out
}
