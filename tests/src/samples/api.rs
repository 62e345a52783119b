//! Messages of the API: protobuf, which has no version; fields are only ever added.

use super::{Sample, Value};
use bytes::Bytes;
use moso_proto::v1;
use prost::Message as _;

/// How one message is read, and a sample of it with every field set.
pub struct Message {
    /// Its name in the `.proto` files; for several samples of one message, `NAME-what`.
    pub name: &'static str,
    /// The sample.
    pub sample: fn() -> Vec<u8>,
    /// Reads one.
    pub read: fn(&[u8]) -> Result<Value, String>,
}

fn read_as<M: prost::Message + Default + std::fmt::Debug>(bytes: &[u8]) -> Result<Value, String> {
    let message = M::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Value::new(&message, message.encode_to_vec()))
}

macro_rules! messages {
    ($($name:literal $type:ident $value:expr;)*) => {
        /// The messages that are sent as such, not as a part of others.
        pub const MESSAGES: &[Message] = &[$(Message {
            name: $name,
            sample: || { let message: v1::$type = $value; message.encode_to_vec() },
            read: read_as::<v1::$type>,
        }),*];
    };
}

messages! {
    "SubmitRequest-jobs" SubmitRequest submit();
    "SubmitRequest-array" SubmitRequest v1::SubmitRequest { jobs: Vec::new(), array: 1_000, ..submit() };
    "SubmitReply" SubmitReply submit_reply();
    "SubmitFrame" SubmitFrame v1::SubmitFrame {
        submissions: vec![v1::NumberedSubmission { number: 7, request: Some(submit()) }],
    };
    "SubmitAnswers" SubmitAnswers v1::SubmitAnswers { answers: vec![
        v1::SubmitAnswer { number: 7, reply: Some(submit_reply()), fault: None },
        v1::SubmitAnswer { number: 8, reply: None, fault: Some(fault()) },
    ] };
    "JobRequest" JobRequest v1::JobRequest { job_id: ID, body: true };
    "TaskRequest" TaskRequest v1::TaskRequest { task_id: ID };
    "ListRequest" ListRequest v1::ListRequest { selector: Some(selector()), limit: 50, cursor: "3.l.17".into() };
    "JobView" JobView job_view();
    "JobList" JobList v1::JobList { jobs: vec![job_view(), v1::JobView::default()], cursor: "3.f".into() };
    "TaskView" TaskView task_view();
    "TaskList" TaskList v1::TaskList { tasks: vec![task_view()], cursor: "3.e.19000.7".into() };
    "Explanation" Explanation v1::Explanation {
        job_id: ID,
        state: "activated".into(),
        gates: vec![v1::Gate { name: "queue".into(), passed: true, detail: "online".into() }],
        verdict: "waits for a worker".into(),
    };
    "ActRequest-kill" ActRequest act(v1::act_request::Action::Kill(v1::Kill { code: 9 }));
    "ActRequest-hold" ActRequest act(v1::act_request::Action::Hold(v1::Hold { reason: "downtime".into() }));
    "ActRequest-release" ActRequest act(v1::act_request::Action::Release(v1::Release {}));
    "ActRequest-retry" ActRequest act(v1::act_request::Action::Retry(v1::Retry { attempts: 3 }));
    "ActRequest-priority" ActRequest act(v1::act_request::Action::Priority(v1::SetPriority { priority: -100 }));
    "ActReply" ActReply v1::ActReply {
        matched: 3,
        changed: 2,
        refused: vec![v1::ActRefusal { reason: "leased".into(), jobs: 1, example: ID }],
    };
    "WorkerFrame" WorkerFrame worker_frame();
    "NodeFrame" NodeFrame node_frame();
    "ObjectKey" ObjectKey v1::ObjectKey { kind: "queue".into(), name: "EXAMPLE".into() };
    "Object" Object object();
    "ObjectList" ObjectList v1::ObjectList { objects: vec![object(), v1::Object::default()] };
    "PutObjectRequest" PutObjectRequest v1::PutObjectRequest {
        kind: "queue".into(),
        name: "EXAMPLE".into(),
        json: "{}".into(),
        expected_version: Some(0),
        author: "ops".into(),
    };
    "AuditRequest" AuditRequest v1::AuditRequest { since_ms: 7, user: "olga".into(), before: 9, limit: 50 };
    "AuditList" AuditList v1::AuditList { entries: vec![v1::AuditEntry {
        seq: 8,
        time_ms: 1_700_000_000_000,
        actor: "olga".into(),
        action: "kill".into(),
        target: "task 7".into(),
        outcome: "3 of 4 changed, 3 of others".into(),
        node: 2,
    }] };
    "ClusterRequest" ClusterRequest v1::ClusterRequest { local: true };
    "ClusterReply" ClusterReply v1::ClusterReply { json: "{}".into() };
}

/// Shard 3, number 17.
const ID: u64 = (3 << 40) | 17;

fn needs() -> v1::Needs {
    v1::Needs {
        cores: 8,
        memory_mib: 16_000,
        disk_mib: 20_000,
        wall_time_s: 86_400,
        resource_type: "MCORE".into(),
        tags: vec!["gpu".into(), "avx2".into()],
    }
}

fn submit() -> v1::SubmitRequest {
    let retry =
        v1::RetryPolicy { max_attempts: 5, backoff_initial_ms: 1_000, backoff_factor: 1.5, backoff_ceiling_ms: 60_000 };
    let task = v1::TaskSpec {
        name: "reconstruction".into(),
        queue: "EXAMPLE".into(),
        owner: "ada".into(),
        group: "physics".into(),
        share: "Analysis".into(),
        label: "user".into(),
        priority: -7,
        needs: Some(needs()),
        retry: Some(retry),
        not_before_ms: 1_700_000_000_000,
        expires_at_ms: 1_700_086_400_000,
        failure_policy: v1::FailurePolicy::RunDependents as i32,
        max_failed: 2,
        body_type: "command".into(),
        body: Bytes::from_static(b"shared"),
    };
    let first = v1::JobSpec { body: Bytes::from_static(b"first"), ..v1::JobSpec::default() };
    let second = v1::JobSpec {
        body: Bytes::from_static(b"second"),
        priority: Some(900),
        needs: Some(v1::Needs { cores: 1, ..v1::Needs::default() }),
        depends_on: vec![0],
    };
    v1::SubmitRequest {
        submission_id: Bytes::from_static(b"\x01\x8b\xcf\xe5\x68\x00sample-one"),
        task: Some(task),
        jobs: vec![first, second],
        array: 0,
    }
}

fn submit_reply() -> v1::SubmitReply {
    v1::SubmitReply { task_id: ID, first_job_id: ID + 1, jobs: 3, repeated: true }
}

fn fault() -> v1::Fault {
    v1::Fault {
        code: "busy".into(),
        message: "come back later".into(),
        retry_after_ms: 100,
        leader: "127.0.0.1:7402".into(),
    }
}

fn selector() -> v1::Selector {
    v1::Selector {
        jobs: vec![ID, ID + 1],
        tasks: vec![ID],
        queue: "EXAMPLE".into(),
        states: vec!["activated".into(), "running".into()],
        owner: "ada".into(),
        group: "physics".into(),
        share: "Analysis".into(),
        label: "user".into(),
    }
}

fn errors() -> Vec<v1::ErrorPair> {
    vec![v1::ErrorPair { source: "pilot".into(), code: -1201, text: "killed".into() }]
}

fn job_view() -> v1::JobView {
    v1::JobView {
        job_id: ID + 1,
        task_id: ID,
        state: "failed".into(),
        reason: "lost heartbeat".into(),
        attempt: 2,
        max_attempts: 5,
        queue: "EXAMPLE".into(),
        owner: "ada".into(),
        group: "physics".into(),
        share: "Analysis".into(),
        label: "user".into(),
        priority: -7,
        needs: Some(needs()),
        created_ms: 1,
        ready_ms: 2,
        leased_ms: 3,
        started_ms: 4,
        ended_ms: 5,
        session: 77,
        worker: "node-1/slot-3".into(),
        exit_code: -9,
        errors: errors(),
        output: Bytes::from_static(b"last words"),
        body: Bytes::from_static(b"body"),
        body_type: "command".into(),
        depends_on: vec![ID + 2],
        log: vec![v1::StatusChange {
            time_ms: 3,
            state: "sent".into(),
            attempt: 2,
            who: "node-1/slot-3".into(),
            reason: "none".into(),
        }],
        cpu_ms: 6,
        memory_peak_kib: 7,
        details: Bytes::new(),
    }
}

fn task_view() -> v1::TaskView {
    v1::TaskView {
        task_id: ID,
        name: "reconstruction".into(),
        state: "running".into(),
        queue: "EXAMPLE".into(),
        owner: "ada".into(),
        group: "physics".into(),
        share: "Analysis".into(),
        label: "user".into(),
        priority: -7,
        created_ms: 1,
        ended_ms: 2,
        first_job_id: ID + 1,
        jobs: 3,
        counts: vec![v1::StateCount { state: "finished".into(), jobs: 2 }],
        body_type: "command".into(),
    }
}

fn act(action: v1::act_request::Action) -> v1::ActRequest {
    v1::ActRequest { selector: Some(selector()), action: Some(action), dry_run: true, actor: "ops".into() }
}

fn worker_frame() -> v1::WorkerFrame {
    let result = v1::JobResult {
        job_id: ID + 1,
        attempt: 2,
        outcome: v1::Outcome::Failed as i32,
        exit_code: -9,
        errors: errors(),
        output: Bytes::from_static(b"last words"),
        started_ms: 4,
        cpu_ms: 6,
        memory_peak_kib: 7,
        no_retry: true,
    };
    let lease = v1::LeaseRequest {
        request_id: 9,
        queues: vec!["EXAMPLE".into(), "OTHER".into()],
        max_jobs: 10,
        wait_ms: 30_000,
        cores: 8,
        memory_mib: 16_000,
        disk_mib: 20_000,
        remaining_s: 86_400,
        resource_type: "MCORE".into(),
        tags: vec!["gpu".into()],
        label: "user".into(),
        task_id: ID,
        owner: "ada".into(),
    };
    let heartbeat = v1::Heartbeat {
        seq: 5,
        jobs: vec![ID + 1, ID + 2],
        attempts: vec![2, 1],
        phases: vec![2, 1],
        settled_request: 8,
    };
    v1::WorkerFrame {
        hello: Some(v1::Hello { session: 77, worker: "node-1/slot-3".into(), key: 0 }),
        results: vec![result],
        heartbeat: Some(heartbeat),
        lease: Some(lease),
        drained: true,
    }
}

fn node_frame() -> v1::NodeFrame {
    let lease = v1::Lease {
        job_id: ID + 1,
        attempt: 2,
        ttl_ms: 60_000,
        heartbeat_ms: 15_000,
        body: Bytes::from_static(b"body"),
        body_type: "command".into(),
        wall_time_s: 86_400,
        queue: "EXAMPLE".into(),
        task_id: ID,
        index: 1,
    };
    let refusal =
        v1::Refusal { job_id: ID + 2, attempt: 1, code: "stale_attempt".into(), message: "nothing was changed".into() };
    v1::NodeFrame {
        lease: Some(v1::LeaseReply { request_id: 9, leases: vec![lease], fault: Some(fault()), unsettled: true }),
        results: Some(v1::ResultAck { accepted: vec![ID + 1], refused: vec![refusal], retry: vec![ID + 3] }),
        heartbeat: Some(v1::HeartbeatReply { seq: 5, lost: vec![ID + 1], unknown: vec![ID + 2], settled: true }),
        commands: vec![v1::JobCommand { job_id: ID + 1, attempt: 2, command: v1::CommandKind::Tobekilled as i32 }],
        drain: true,
        fault: Some(fault()),
        session_key: 0,
    }
}

fn object() -> v1::Object {
    v1::Object {
        kind: "queue".into(),
        name: "EXAMPLE".into(),
        version: 12,
        json: "{}".into(),
        author: "ops".into(),
        time_ms: 1_700_000_000_000,
        id: 3,
    }
}

pub(super) fn all() -> Vec<Sample> {
    MESSAGES.iter().map(|message| Sample::new("api", message.name, (message.sample)())).collect()
}

pub(super) fn read(what: &str, bytes: &[u8]) -> Result<Value, String> {
    let of = |message: &&Message| message.name.split_once('-').map_or(message.name, |(name, _)| name) == what;
    match MESSAGES.iter().find(of) {
        Some(message) => (message.read)(bytes),
        None => Err(super::unknown(what)),
    }
}
