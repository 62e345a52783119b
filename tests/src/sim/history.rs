//! What the clients asked for and were told, with virtual times; and what must follow from it.

use super::env::Env;
use super::watch::{Check, Watch};
use crate::ensure_that;
use moso_proto::JobState;
use std::collections::BTreeMap;
use std::fmt;

/// How a call ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Answered.
    Ok,
    /// Refused: nothing was done.
    Fail,
    /// No answer, or one that says so: it may have been done or be done later.
    Unknown,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Client.
    pub client: usize,
    /// What was asked for.
    pub what: &'static str,
    /// Shard.
    pub shard: u16,
    /// When it was sent.
    pub invoked_ms: u64,
    /// When it ended, and how.
    pub ended: Option<(u64, Ended)>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { client, what, shard, invoked_ms, ended } = self;
        write!(f, "client {client} asks shard {shard} for a {what} at {invoked_ms} ms: ")?;
        match ended {
            Some((ms, ended)) => write!(f, "{ended:?} at {ms} ms"),
            None => write!(f, "waits"),
        }
    }
}

/// A submission that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Acked {
    /// Shard.
    pub shard: u16,
    /// The client's id.
    pub submission: [u8; 16],
    /// Task.
    pub task: u64,
    /// Number of its jobs.
    pub jobs: u32,
}

/// A lease that some worker was given; forgers choose among them.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// Shard.
    pub shard: u16,
    /// Session.
    pub session: u64,
    /// Job.
    pub seq: u64,
    /// Attempt.
    pub attempt: u32,
}

/// What clients asked for and were told.
#[derive(Default)]
pub struct History {
    calls: BTreeMap<u64, Call>,
    /// Acknowledged submissions.
    pub acked: Vec<Acked>,
    /// Acknowledged successes: shard, job, attempt.
    finished: Vec<(u16, u64, u32)>,
    /// Acknowledged leases.
    pub given: Vec<Given>,
}

impl History {
    /// A call is sent.
    pub fn invoke(&mut self, env: &Env, request: u64, client: usize, shard: u16, what: &'static str) {
        let call = Call { client, what, shard, invoked_ms: env.now_ms, ended: None };
        self.calls.insert(request, call);
    }

    /// A call has ended. Later answers to it change nothing.
    pub fn end(&mut self, env: &mut Env, request: u64, ended: Ended) {
        let Some(call) = self.calls.get_mut(&request) else {
            return;
        };
        if call.ended.is_none() {
            call.ended = Some((env.now_ms, ended));
            env.cover.count(match ended {
                Ended::Ok => "calls ok",
                Ended::Fail => "calls failed",
                Ended::Unknown => "calls unknown",
            });
        }
    }

    /// All calls by request.
    pub fn calls(&self) -> &BTreeMap<u64, Call> {
        &self.calls
    }

    /// The newest calls, a line each.
    pub fn newest(&self, max: usize) -> String {
        let from = self.calls.len().saturating_sub(max);
        self.calls.iter().skip(from).map(|(request, call)| format!("request {request}: {call}\n")).collect()
    }

    /// A submission was acknowledged: it is committed.
    pub fn submitted(&mut self, watch: &Watch, acked: Acked) -> Check {
        let committed = watch.oracle(acked.shard).submission(&acked.submission);
        ensure_that!(
            "I1 acknowledged means committed",
            committed == Some((acked.task, acked.jobs)),
            "{acked:?} was acknowledged, committed is {committed:?}"
        );
        self.acked.push(acked);
        Ok(())
    }

    /// A success was acknowledged: the job has ended so.
    pub fn finished(&mut self, watch: &Watch, shard: u16, seq: u64, attempt: u32) -> Check {
        self.finished.push((shard, seq, attempt));
        check_finished(watch, shard, seq, attempt)
    }

    /// At the end: nothing that was acknowledged is lost, as far as the oracle goes. That the replicas equal it is
    /// checked on them.
    pub fn check(&self, watch: &Watch) -> Check {
        for &(shard, seq, attempt) in &self.finished {
            check_finished(watch, shard, seq, attempt)?;
        }
        for acked in &self.acked {
            let oracle = watch.oracle(acked.shard);
            let committed = oracle.submission(&acked.submission);
            ensure_that!(
                "I1 no acknowledged submission lost",
                committed == Some((acked.task, acked.jobs)),
                "{acked:?}: committed is {committed:?}"
            );
        }
        Ok(())
    }
}

fn check_finished(watch: &Watch, shard: u16, seq: u64, attempt: u32) -> Check {
    let end = watch.oracle(shard).ended(seq);
    ensure_that!(
        "I3 acknowledged success",
        end.is_some_and(|(state, last, _)| *state == JobState::Finished && *last == attempt),
        "shard {shard} job {seq}: attempt {attempt} was acknowledged as finished, the end is {:?}",
        end.map(|(state, last, _)| (state, last))
    );
    Ok(())
}
