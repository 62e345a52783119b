//! The operator's objects, kept by the meta group as JSON: queues, shares, users, time-outs, settings, nodes and the
//! shard table. Unknown fields are refused, so a typing error is seen at once.

use crate::level;
pub use crate::shards::ShardTable;
use crate::state::JobState;
use serde::{Deserialize, Serialize};

/// Kind of an object, as it appears in the API.
pub mod kind {
    /// [`super::Queue`].
    pub const QUEUE: &str = "queue";
    /// [`super::Share`].
    pub const SHARE: &str = "share";
    /// [`super::User`].
    pub const USER: &str = "user";
    /// [`super::Timeouts`]; one object, named `default`.
    pub const TIMEOUTS: &str = "timeouts";
    /// [`super::Setting`].
    pub const SETTING: &str = "setting";
    /// [`super::Node`]; named by its number.
    pub const NODE: &str = "node";
    /// [`super::ShardTable`]; one object, named `table`.
    pub const SHARDS: &str = "shards";
    /// A JSON object whose fields take the place of those in the queue data that pilots get; named as the queue.
    pub const PANDA_QUEUE: &str = "panda_queue";
    /// Kinds that operators may change.
    pub const ALL: [&str; 8] = [QUEUE, SHARE, USER, TIMEOUTS, SETTING, NODE, SHARDS, PANDA_QUEUE];
    /// A task of a PanDA client: parameters, and the tasks its jobs are in.
    pub const PANDA_TASK: &str = "panda_task";
    /// The parameters of such a task, apart from it because they are large.
    pub const PANDA_PARAMS: &str = "panda_params";
    /// A command for the pilot of a job, and what it printed; named by the job.
    pub const PANDA_DEBUG: &str = "panda_debug";
    /// A user's secrets.
    pub const PANDA_SECRETS: &str = "panda_secrets";
    /// An uploaded file: its content's hash, size and expiry.
    pub const PANDA_FILE: &str = "panda_file";
    /// What a Harvester reported last, and commands for it.
    pub const PANDA_HARVESTER: &str = "panda_harvester";
    /// Kinds that the PanDA front keeps: JSON objects; of their changes only the present one is kept.
    pub const PANDA: [&str; 6] = [PANDA_TASK, PANDA_PARAMS, PANDA_DEBUG, PANDA_SECRETS, PANDA_FILE, PANDA_HARVESTER];
}

/// What a queue does with work (PanDA's queue states).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueState {
    /// Takes submissions and gives leases.
    #[default]
    Online,
    /// Neither.
    Offline,
    /// Gives what is there, takes no more submissions: a drain.
    Brokeroff,
    /// Takes submissions, gives no leases; running jobs go on.
    Paused,
    /// As online; workers see test jobs only.
    Test,
    /// As online; brokerage states the slots.
    Standby,
}

/// A computing site's queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// What it does now.
    pub state: QueueState,
    /// Why, for people.
    pub reason: String,
    /// When `state` goes back to online by itself, Unix ms; 0: never.
    pub until_ms: u64,
    /// A lease ends so long after its last heartbeat. 15,000..=86,400,000 ms.
    pub lease_ttl_ms: u32,
    /// How often workers send heartbeats; at most half of the lease.
    pub heartbeat_ms: u32,
    /// Most jobs leased at once over the whole cluster; 0: no bound. Counted with figures up to 400 ms old.
    pub max_running: u64,
    /// What its workers offer; 0: not stated. Only used to explain and to warn.
    pub max_memory_mib: u32,
    /// Longest wall time its workers give, s; 0: not stated.
    pub max_wall_time_s: u32,
    /// Tags its workers offer.
    pub tags: Vec<String>,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            state: QueueState::Online,
            reason: String::new(),
            until_ms: 0,
            lease_ttl_ms: 60_000,
            heartbeat_ms: 15_000,
            max_running: 0,
            max_memory_mib: 0,
            max_wall_time_s: 0,
            tags: Vec::new(),
        }
    }
}

/// A share of the resources (PanDA's global shares; one flat list).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Share {
    /// Target, relative to the other shares' targets.
    pub target: f64,
}

/// Limits of one user; the user named `*` gives the default of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct User {
    /// Most jobs leased at once (PanDA's CAP_RUNNING_USER_JOBS, 10,000); 0: no bound.
    pub max_running: u64,
    /// Submissions are refused.
    pub banned: bool,
    /// All calls are refused, whatever shows who he is.
    #[serde(skip_serializing_if = "is_default")]
    pub locked: bool,
    /// Tokens made before this time are refused, Unix s: to revoke those that were lost. 0: none.
    #[serde(skip_serializing_if = "is_default")]
    pub tokens_from_s: u64,
    /// Calls a second at each node; 0: no bound. What travels on a stream counts as one.
    #[serde(skip_serializing_if = "is_default")]
    pub calls_per_s: u32,
    /// Jobs submitted a second at each node; 0: no bound. Twice as many may come at once.
    #[serde(skip_serializing_if = "is_default")]
    pub jobs_per_s: u32,
    /// Most jobs that have not ended, waiting or running; 0: no bound. Counted with figures up to 400 ms old.
    #[serde(skip_serializing_if = "is_default")]
    pub max_live: u64,
}

impl User {
    /// Feature level that its fields need.
    pub fn since(&self) -> u32 {
        let first = User { max_running: self.max_running, banned: self.banned, ..User::default() };
        if *self == first { level::FIRST } else { level::AUDIT }
    }
}

/// Fields that came later are not written unless they are used, so that objects made before stay as they are.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What happens when a time-out is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeoutAction {
    /// The job is closed (PanDA kill codes 2, 4, 51).
    Close,
    /// The attempt fails with a dispatcher error; retried while attempts remain.
    Fail,
}

/// Since when the time is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeoutSince {
    /// The last change of state.
    Change,
    /// The submission.
    Creation,
}

/// One row of the time-out table. The first row that matches state, label and queue holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeout {
    /// State it is for.
    pub state: JobState,
    /// Label it is for; empty: any.
    #[serde(default)]
    pub label: String,
    /// Queue it is for; empty: any.
    #[serde(default)]
    pub queue: String,
    /// Limit in seconds; 0: none.
    pub limit_s: u64,
    /// Counted from here.
    pub since: TimeoutSince,
    /// What then.
    pub action: TimeoutAction,
    /// PanDA's kill code or dispatcher error code that is recorded.
    pub code: u32,
}

/// The time-out table (rows A40-A57 of PanDA's watchdogs).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Rows, first match first; rows counted from creation are looked at as well as those counted from a change.
    pub rows: Vec<Timeout>,
}

impl Default for Timeouts {
    fn default() -> Self {
        use JobState::*;
        use TimeoutAction::*;
        use TimeoutSince::*;
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        let row = |state, label: &str, limit_s, since, action, code| Timeout {
            state,
            label: label.to_owned(),
            queue: String::new(),
            limit_s,
            since,
            action,
            code,
        };
        let mut rows = vec![
            row(Pending, "", HOUR, Creation, Close, 4),
            row(Assigned, "managed", 12 * HOUR, Change, Close, 51),
            row(Activated, "managed", 2 * DAY, Change, Close, 51),
            row(Activated, "user", 12 * HOUR, Change, Close, 51),
            row(Sent, "", HOUR / 2, Change, Fail, 102),
            row(Starting, "", 48 * HOUR, Change, Fail, 105),
            row(Holding, "user", 3 * HOUR, Change, Fail, 103),
            row(Holding, "panda", 3 * HOUR, Change, Fail, 103),
            row(Holding, "", 48 * HOUR, Change, Fail, 103),
            row(Transferring, "user", 2 * HOUR, Change, Fail, 104),
            row(Transferring, "", 6 * DAY, Change, Fail, 101),
            row(Throttled, "", 7 * DAY, Change, Close, 2),
            row(Defined, "", 7 * DAY, Creation, Close, 2),
            row(Assigned, "", 7 * DAY, Creation, Close, 2),
            row(Waiting, "", 7 * DAY, Creation, Close, 2),
            row(Activated, "", 7 * DAY, Creation, Close, 2),
        ];
        for state in [Sent, Starting, Running, Holding, Transferring, Merging] {
            rows.push(row(state, "", 21 * DAY, Creation, Close, 2));
        }
        Timeouts { rows }
    }
}

/// A setting's value; names, units and ranges are in [`crate::setting`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// In the setting's unit.
    pub value: u64,
}

/// A node, as all others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// gRPC, host:port.
    pub api: String,
    /// Node to node, host:port.
    pub peer: String,
    /// HTTP, host:port.
    pub http: String,
    /// Failure zone.
    #[serde(default)]
    pub zone: String,
    /// The node is to be emptied: its replicas and leaderships go to others.
    #[serde(default)]
    pub drain: bool,
}

/// What is wrong with an object's JSON.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such kind.
    #[error(
        "no kind of object is named {0:?}; there are queue, share, user, timeouts, setting, node, shards, panda_queue"
    )]
    Kind(String),
    /// Not the JSON of this kind.
    #[error("not a {kind}: {error}")]
    Json {
        /// Kind that was asked for.
        kind: String,
        /// Parser's message.
        error: String,
    },
    /// A field is out of its range.
    #[error("{0}")]
    Range(String),
}
