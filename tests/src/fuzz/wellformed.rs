//! Valid messages of the API with arbitrary contents, made of an input: what a decoder cannot refuse, and the handlers must.

use super::input::Input;
use bytes::Bytes;
use moso_proto::v1;
use moso_proto::v1::act_request::Action;
use rand::RngCore;

/// Items of a list.
const ITEMS_MAX: u8 = 12;

impl Input<'_> {
    /// One of the numbers at which something ends, or any.
    fn number(&mut self) -> u64 {
        match self.u8() {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => u64::from(u32::MAX),
            4 => 1 << 40,
            5 => 10_000,
            6 => 100_001,
            7 => self.u64(),
            8 => u64::from(self.u32()),
            small => u64::from(small) - 8,
        }
    }

    fn number32(&mut self) -> u32 {
        self.number() as u32
    }

    fn text(&mut self) -> String {
        match self.u8() {
            0..=2 => String::new(),
            3 => "EXAMPLE".into(),
            4 => "x".repeat(256),
            5 => "x".repeat(257),
            6 => "a\u{0}b".into(),
            7 => "ä\u{202e}\u{1f98a}".into(),
            8 => "-1".into(),
            _ => String::from_utf8_lossy(&self.piece().iter().take(64).copied().collect::<Vec<_>>()).into_owned(),
        }
    }

    fn blob(&mut self) -> Bytes {
        match self.u8() {
            0..=3 => Bytes::new(),
            4 => vec![7; 64 * 1024].into(),
            5 => vec![7; 64 * 1024 + 1].into(),
            6 => vec![7; 4 * 1024 + 1].into(),
            _ => Bytes::copy_from_slice(self.piece()),
        }
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.u8().is_multiple_of(3)).then(|| make(self))
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let items = self.u8() % (ITEMS_MAX + 1);
        (0..items).map(|_| make(self)).collect()
    }
}

fn needs(input: &mut Input<'_>) -> v1::Needs {
    v1::Needs {
        cores: input.number32(),
        memory_mib: input.number32(),
        disk_mib: input.number32(),
        wall_time_s: input.number32(),
        resource_type: input.text(),
        tags: input.list(Input::text),
    }
}

fn retry(input: &mut Input<'_>) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: input.number32(),
        backoff_initial_ms: input.number32(),
        backoff_factor: match input.u8() % 6 {
            0 => 0.0,
            1 => f64::NAN,
            2 => f64::INFINITY,
            3 => -0.0,
            4 => 1_000.0,
            _ => f64::from_bits(input.u64()),
        },
        backoff_ceiling_ms: input.number32(),
    }
}

fn task(input: &mut Input<'_>) -> v1::TaskSpec {
    v1::TaskSpec {
        name: input.text(),
        queue: input.text(),
        owner: input.text(),
        group: input.text(),
        share: input.text(),
        label: input.text(),
        priority: input.number() as i32,
        needs: input.some(needs),
        retry: input.some(retry),
        not_before_ms: input.number(),
        expires_at_ms: input.number(),
        failure_policy: input.number() as i32,
        max_failed: input.number32(),
        body_type: input.text(),
        body: input.blob(),
    }
}

fn job(input: &mut Input<'_>) -> v1::JobSpec {
    v1::JobSpec {
        body: input.blob(),
        priority: input.some(|input| input.number() as i32),
        needs: input.some(needs),
        depends_on: input.list(Input::number32),
    }
}

/// A submission.
pub(super) fn submit(input: &mut Input<'_>) -> v1::SubmitRequest {
    let id = match input.u8() {
        0 => Bytes::new(),
        1 => vec![0; 17].into(),
        // A time that the sample's machine takes.
        _ => [&1_700_000_000_000u64.to_be_bytes()[2..], &[input.u8(); 10]].concat().into(),
    };
    let (task, jobs) = (input.some(task), input.list(job));
    let array = if jobs.is_empty() || input.u8() == 0 { input.number32() } else { 0 };
    v1::SubmitRequest { submission_id: id, task, jobs, array }
}

/// Submissions on a stream.
pub(super) fn submit_frame(input: &mut Input<'_>) -> v1::SubmitFrame {
    let numbered =
        |input: &mut Input<'_>| v1::NumberedSubmission { number: input.number(), request: input.some(submit) };
    v1::SubmitFrame { submissions: input.list(numbered) }
}

fn result(input: &mut Input<'_>) -> v1::JobResult {
    let error = |input: &mut Input<'_>| v1::ErrorPair {
        source: input.text(),
        code: input.number() as i32,
        text: if input.u8() == 0 { "ü".repeat(1_000) } else { input.text() },
    };
    v1::JobResult {
        job_id: input.number(),
        attempt: input.number32(),
        outcome: i32::from(input.u8() % 7) - 1,
        exit_code: input.number() as i32,
        errors: input.list(error),
        output: input.blob(),
        started_ms: input.number(),
        cpu_ms: input.number(),
        memory_peak_kib: input.number(),
        no_retry: input.u8().is_multiple_of(2),
    }
}

/// A worker's frame.
pub(super) fn worker_frame(input: &mut Input<'_>) -> v1::WorkerFrame {
    v1::WorkerFrame {
        hello: input.some(|input| v1::Hello {
            session: input.number(),
            worker: input.text(),
            key: input.number() as u32,
        }),
        results: input.list(result),
        heartbeat: input.some(|input| v1::Heartbeat {
            seq: input.number(),
            jobs: input.list(Input::number),
            attempts: input.list(Input::number32),
            phases: input.list(Input::number32),
            settled_request: input.number(),
        }),
        lease: input.some(|input| v1::LeaseRequest {
            request_id: input.number(),
            queues: input.list(Input::text),
            max_jobs: input.number32(),
            wait_ms: input.number32(),
            cores: input.number32(),
            memory_mib: input.number32(),
            disk_mib: input.number32(),
            remaining_s: input.number32(),
            resource_type: input.text(),
            tags: input.list(Input::text),
            label: input.text(),
            task_id: input.number(),
            owner: input.text(),
        }),
        drained: input.u8() == 0,
    }
}

fn selector(input: &mut Input<'_>) -> v1::Selector {
    v1::Selector {
        jobs: input.list(Input::number),
        tasks: input.list(Input::number),
        queue: input.text(),
        states: input.list(|input| match input.u8() % 3 {
            0 => "failed".into(),
            1 => "activated".into(),
            _ => input.text(),
        }),
        owner: input.text(),
        group: input.text(),
        share: input.text(),
        label: input.text(),
    }
}

/// A listing.
pub(super) fn list(input: &mut Input<'_>) -> v1::ListRequest {
    let cursor = match input.u8() % 3 {
        0 => String::new(),
        1 => format!("{}.e.{}.{}", input.number(), input.number(), input.number()),
        _ => input.text(),
    };
    v1::ListRequest { selector: input.some(selector), limit: input.number32(), cursor }
}

/// An action.
pub(super) fn act(input: &mut Input<'_>) -> v1::ActRequest {
    let action = |input: &mut Input<'_>| match input.u8() % 5 {
        0 => Action::Kill(v1::Kill { code: input.number32() }),
        1 => Action::Hold(v1::Hold { reason: input.text() }),
        2 => Action::Release(v1::Release {}),
        3 => Action::Retry(v1::Retry { attempts: input.number32() }),
        _ => Action::Priority(v1::SetPriority { priority: input.number() as i32 }),
    };
    v1::ActRequest {
        selector: input.some(selector),
        action: input.some(action),
        dry_run: input.u8() == 0,
        actor: input.text(),
    }
}

/// A change of an object.
pub(super) fn object(input: &mut Input<'_>) -> v1::PutObjectRequest {
    const KINDS: &[&str] = &moso_proto::object::kind::ALL;
    let kind = match input.u8() {
        0 => input.text(),
        other => KINDS[usize::from(other) % KINDS.len()].to_owned(),
    };
    let json = match input.u8() % 4 {
        0 => input.text(),
        1 => "{}".into(),
        2 => format!("{{\"value\":{}}}", input.number()),
        _ => format!("{{\"{}\":{},\"{}\":\"{}\"}}", input.text(), input.number(), input.text(), input.text()),
    };
    v1::PutObjectRequest {
        kind,
        name: input.text(),
        json,
        expected_version: input.some(Input::number),
        author: input.text(),
    }
}

/// A message of fields with low numbers and any contents, as deep as is said: of no certain kind, but well formed.
pub fn random_message(rng: &mut impl RngCore, depth: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..rng.next_u32() % 8 {
        let field = 1 + rng.next_u32() % 16;
        let wire = [0, 1, 2, 2, 2, 5][rng.next_u32() as usize % 6];
        varint(&mut out, u64::from(field << 3 | wire));
        match wire {
            0 => varint(&mut out, rng.next_u64() >> (rng.next_u32() % 64)),
            1 => out.extend_from_slice(&rng.next_u64().to_le_bytes()),
            5 => out.extend_from_slice(&rng.next_u32().to_le_bytes()),
            _ => {
                let value = match depth.checked_sub(1) {
                    Some(depth) if rng.next_u32().is_multiple_of(2) => random_message(rng, depth),
                    _ => (0..rng.next_u32() % 40).map(|_| b'a' + (rng.next_u32() % 26) as u8).collect(),
                };
                varint(&mut out, value.len() as u64);
                out.extend_from_slice(&value);
            }
        }
    }
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
