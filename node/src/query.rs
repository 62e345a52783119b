//! Questions to a shard: answered by its leader, confirmed by a quorum, with the archive behind the live tables.

mod meta;
mod right;
mod targets;

pub use meta::run_meta;
pub use right::{Right, RightfulTargets};

use crate::error;
use crate::request::{Fault, Request, Snapshot};
use crate::router::{QUERY_TIMEOUT, Router, in_time};
use crate::store::state::{EndedJob as EndedRow, EndedTask as EndedTaskRow, StateStore};
use crate::views;
use bytes::Bytes;
use moso_proto::{Code, JobState, ShardId, TaskId, v1};
use moso_queue::Machine;
use moso_queue::command::Target;
use moso_queue::job::{EndedJob, Job};
use moso_queue::meta::MetaView;
use moso_queue::task::{EndedTask, Task};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Live jobs looked at in one step on the reactor: about a millisecond.
const STEP_JOBS: usize = 20_000;
/// Jobs or tasks shown in one step on the reactor: about a millisecond.
const STEP_VIEWS: usize = 500;
/// Jobs named by their ids and looked up in one call: a call between nodes has 5 s.
const STEP_IDS: usize = 250;
/// Bytes of ended jobs or tasks shown in one step: they carry their output, and a frame between nodes is bounded.
const STEP_BYTES: usize = 2 << 20;
/// Status-log rows shown of one job.
const LOG_ROWS_MAX: usize = 1_000;
/// Archive records looked at for one page.
const ARCHIVE_STEP: usize = 20_000;

/// Which jobs or tasks are meant; empty fields are not tested.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Filter {
    /// Jobs, by number within the shard, rising.
    pub jobs: Vec<u64>,
    /// Tasks, rising.
    pub tasks: Vec<u64>,
    /// Whether `jobs` or `tasks` was given at all: then nothing else is looked at.
    pub by_id: bool,
    /// Queue.
    pub queue: Option<u32>,
    /// States.
    pub states: Vec<JobState>,
    /// Names of task states, for tasks.
    pub task_states: Vec<String>,
    /// User.
    pub owner: String,
    /// Group.
    pub group: String,
    /// Share.
    pub share: Option<u32>,
    /// Label.
    pub label: String,
}

impl Filter {
    fn class(&self, class: &moso_queue::ClassKey) -> bool {
        self.queue.is_none_or(|q| q == class.queue)
            && self.share.is_none_or(|s| s == class.share)
            && (self.owner.is_empty() || *self.owner == *class.owner)
            && (self.group.is_empty() || *self.group == *class.group)
            && (self.label.is_empty() || *self.label == *class.label)
    }

    fn state(&self, state: JobState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    fn job(&self, machine: &Machine, job: &Job) -> bool {
        self.state(job.state) && self.class(&machine.classes().get(job.class).key)
    }

    fn task(&self, task: &Task, class: &moso_queue::ClassKey) -> bool {
        (!self.by_id || self.tasks.binary_search(&task.seq).is_ok())
            && self.class(class)
            && (self.task_states.is_empty() || self.task_states.iter().any(|s| s == task.state().name()))
    }

    /// Jobs of the task that were never made.
    fn rest(&self, machine: &Machine, task: &Task) -> bool {
        self.state(task.rest_state) && self.class(&machine.classes().get(task.class).key)
    }

    fn view(&self, job: &v1::JobView, meta: &MetaView) -> bool {
        let is = |wanted: &str, name: &str| wanted.is_empty() || wanted == name;
        (self.states.is_empty() || self.states.iter().any(|s| s.name() == job.state))
            && (self.tasks.is_empty() || self.tasks.contains(&TaskId(job.task_id).seq()))
            && self.queue.is_none_or(|id| meta.queue_by_id(id).is_some_and(|q| *q.name == *job.queue))
            && self.share.is_none_or(|id| meta.share_by_id(id).is_some_and(|s| *s.name == *job.share))
            && is(&self.owner, &job.owner)
            && is(&self.group, &job.group)
            && is(&self.label, &job.label)
    }

    fn wants_ended(&self) -> bool {
        self.states.is_empty() || self.states.iter().any(|s| s.is_final())
    }
}

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// Live ones from this number up.
    Live(u64),
    /// Ended ones after this day and number, or from the first.
    Ended(Option<(u16, u64)>),
    /// At the start.
    #[default]
    Start,
}

/// A question to a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum QueryCall {
    /// One job, encoded `v1::JobView`.
    Job {
        /// Number.
        seq: u64,
        /// With its body.
        body: bool,
    },
    /// One task, encoded `v1::TaskView`.
    Task {
        /// Number.
        seq: u64,
    },
    /// Jobs: [`Page`] of encoded `v1::JobView`.
    Jobs {
        /// Which.
        filter: Filter,
        /// Where to go on.
        from: From,
        /// Most.
        limit: usize,
    },
    /// Tasks: [`Page`] of encoded `v1::TaskView`.
    Tasks {
        /// Which.
        filter: Filter,
        /// Where to go on.
        from: From,
        /// Most.
        limit: usize,
    },
    /// Targets of an action among live jobs: [`Targets`].
    Targets {
        /// Which.
        filter: Filter,
        /// Live ones from this number up.
        from: u64,
        /// Most.
        limit: usize,
    },
    /// The same, of which only those are given that the caller may act on: [`RightfulTargets`].
    RightfulTargets {
        /// Which.
        filter: Filter,
        /// What the caller may.
        right: Right,
        /// Live ones from this number up.
        from: u64,
        /// Most.
        limit: usize,
    },
    /// Live jobs by class and state: [`ClassCounts`].
    Counts,
}

/// Live jobs of a class: queue, resource type, label, and jobs by state.
pub type ClassCounts = Vec<(u32, String, String, Vec<(JobState, u32)>)>;

/// A page of a listing.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Page {
    /// Encoded views.
    pub items: Vec<Vec<u8>>,
    /// Where to go on; absent: this was all.
    pub next: Option<From>,
}

/// What an action is for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Targets {
    /// Jobs.
    pub jobs: Vec<u64>,
    /// Array tasks whose jobs not yet made are meant, and how many these are.
    pub rests: Vec<(u64, u32)>,
    /// Ids that were given and are not live.
    pub missing: Vec<u64>,
    /// Where to go on; absent: this was all.
    pub next: Option<u64>,
}

impl Targets {
    /// As the command names them.
    pub fn targets(&self) -> Vec<Target> {
        let jobs = self.jobs.iter().map(|&seq| Target::Job(seq));
        jobs.chain(self.rests.iter().map(|&(seq, _)| Target::Rest(seq))).collect()
    }
}

/// A question to the meta group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MetaQueryCall {
    /// One object.
    Get {
        /// Kind.
        kind: String,
        /// Name.
        name: String,
    },
    /// All of a kind.
    List {
        /// Kind.
        kind: String,
    },
    /// Changes of an object, newest first.
    History {
        /// Kind.
        kind: String,
        /// Name.
        name: String,
    },
    /// Entries of the audit log, newest first, each as the JSON of an object.
    Audit {
        /// From this time on, Unix ms.
        since_ms: u64,
        /// Of this user; empty: of all.
        user: String,
        /// Before this entry; 0: from the newest.
        before: u64,
        /// Most.
        limit: usize,
    },
}

/// Runs a closure on the shard's reactor.
pub(crate) async fn on_reactor<T: Send + 'static>(
    router: &Router,
    shard: u16,
    f: impl FnOnce(Snapshot<'_>) -> T + Send + 'static,
) -> Result<T, Fault> {
    let (send, answer) = oneshot::channel();
    let query = Box::new(move |snapshot: Option<Snapshot<'_>>| {
        let _ = send.send(snapshot.map(f));
    });
    router.request(shard, Request::Query(query))?;
    in_time(answer, QUERY_TIMEOUT, shard).await?.ok_or_else(|| Fault::not_leader(shard))
}

/// Waits until the store holds all that was acknowledged before: a reactor writes before it serves a read.
async fn written(router: &Router, shard: u16) -> Result<(), Fault> {
    on_reactor(router, shard, |_| ()).await
}

/// Runs a blocking read of the archive.
async fn on_disk<T: Send + 'static>(f: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(f)
        .await
        .unwrap_or_else(|_| Err(Fault::new(Code::Internal, "the archive could not be read: see the node's log")))
}

fn store_of(router: &Router, shard: u16) -> Result<Arc<StateStore>, Fault> {
    router.directory.shard(shard).and_then(|s| s.store.load_full()).ok_or_else(|| Fault::not_leader(shard))
}

/// Runs a query at this node.
pub async fn run(router: &Router, shard: u16, query: QueryCall) -> Result<Bytes, Fault> {
    let meta = router.directory.meta.load_full();
    match query {
        QueryCall::Job { seq, body } => Ok(job(router, shard, seq, body, meta).await?.encode_to_vec().into()),
        QueryCall::Task { seq } => Ok(task(router, shard, seq, meta).await?.encode_to_vec().into()),
        QueryCall::Jobs { filter, from, limit } => {
            Ok(crate::router::pack(&jobs(router, shard, filter, from, limit, meta).await?))
        }
        QueryCall::Tasks { filter, from, limit } => {
            Ok(crate::router::pack(&tasks(router, shard, filter, from, limit, meta).await?))
        }
        QueryCall::Counts => Ok(crate::router::pack(&on_reactor(router, shard, |s| counts(s.machine)).await?)),
        QueryCall::Targets { filter, from, limit } => {
            let find = move |s: Snapshot<'_>| targets::find(s.machine, &filter, from, limit, &mut |_| true);
            Ok(crate::router::pack(&on_reactor(router, shard, find).await?))
        }
        QueryCall::RightfulTargets { filter, right, from, limit } => {
            let find = move |s: Snapshot<'_>| right.targets(s.machine, &filter, from, limit);
            Ok(crate::router::pack(&on_reactor(router, shard, find).await?))
        }
    }
}

async fn job(router: &Router, shard: u16, seq: u64, body: bool, meta: Arc<MetaView>) -> Result<v1::JobView, Fault> {
    let id = ShardId(shard).id(seq);
    let (view_meta, store) = (meta.clone(), store_of(router, shard)?);
    let found = on_reactor(router, shard, move |s| {
        let live = s.machine.job(seq).map(|job| (views::live_job(s.machine, job, &view_meta), body_of(s.machine, seq)));
        let unmade = || {
            let task = s.machine.task_of(seq).filter(|t| t.array)?;
            let class = &s.machine.classes().get(task.class).key;
            let position = task.position(seq)?;
            // Made before and not live: it has ended, the archive has it.
            let never = task.is_unmade(position) || task.rest_end.is_some();
            never.then(|| (views::unmade_job(ShardId(shard), task, class, seq, &view_meta), task.seq))
        };
        (live.or_else(unmade), s.machine.now_ms())
    })
    .await?;
    on_disk(move || {
        let (live, now_ms) = found;
        let today = (now_ms / 86_400_000) as u16;
        let archived = || ended_job(&store, seq, today, &meta, shard);
        let (mut view, body_at) = match live {
            // An array's job that was ended while others were never made is in the archive.
            Some((view, at)) if view.ended_ms == 0 => (view, Some(at)),
            Some((view, at)) => (archived()?.unwrap_or(view), Some(at)),
            None => match archived()? {
                Some(view) => (view, None),
                None => (never_made(&store, seq, today, &meta, shard)?.ok_or_else(|| not_found("job", id))?, None),
            },
        };
        if let (true, Some(at)) = (body, body_at) {
            view.body = store.body(at).map_err(error::Error::into_fault)?.unwrap_or_default();
        }
        let first_day = (view.created_ms / 86_400_000) as u16;
        let rows = store.history(seq, first_day..=today, LOG_ROWS_MAX).map_err(error::Error::into_fault)?;
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| views::decode_change(seq, row.bytes))
            .collect::<Result<_, _>>()
            .map_err(damaged)?;
        view.log = views::status_log(&view, &rows);
        Ok(view)
    })
    .await
}

fn counts(machine: &Machine) -> ClassCounts {
    let count = |class: &moso_queue::class::Class| {
        let states = JobState::ALL.into_iter().map(|state| (state, class.counts[state as usize]));
        let key = &class.key;
        (key.queue, key.resource_type.to_string(), key.label.to_string(), states.filter(|s| s.1 > 0).collect())
    };
    machine.classes().iter().map(|(_, class)| count(class)).collect()
}

fn body_of(machine: &Machine, seq: u64) -> u64 {
    machine.task_of(seq).filter(|t| t.array).map_or(seq, |t| t.seq)
}

fn not_found(what: &str, id: u64) -> Fault {
    Fault::new(Code::NotFound, format!("there is no {what} {id}, or it ended longer ago than the archive reaches"))
}

fn damaged(error: moso_queue::Error) -> Fault {
    Fault::new(Code::Internal, error.to_string())
}

fn ended_job(
    store: &StateStore,
    seq: u64,
    today: u16,
    meta: &MetaView,
    shard: u16,
) -> Result<Option<v1::JobView>, Fault> {
    let found = store.ended_job(seq, 0..=today).map_err(error::Error::into_fault)?;
    let Some((_, bytes)) = found else { return Ok(None) };
    let ended = EndedJob::decode(seq, bytes).map_err(damaged)?;
    Ok(Some(views::ended_job(ShardId(shard), &ended, meta)))
}

/// A job of an ended array that never got a record: its task says how it ended.
fn never_made(
    store: &StateStore,
    seq: u64,
    today: u16,
    meta: &MetaView,
    shard: u16,
) -> Result<Option<v1::JobView>, Fault> {
    let Some((task_seq, bytes)) = store.ended_task_before(seq, 0..=today).map_err(error::Error::into_fault)? else {
        return Ok(None);
    };
    let ended = EndedTask::decode(task_seq, bytes).map_err(damaged)?;
    let inside = ended.task.array && ended.task.position(seq).is_some() && ended.task.rest_end.is_some();
    Ok(inside.then(|| views::unmade_job(ShardId(shard), &ended.task, &ended.key, seq, meta)))
}

async fn task(router: &Router, shard: u16, seq: u64, meta: Arc<MetaView>) -> Result<v1::TaskView, Fault> {
    let (view_meta, store) = (meta.clone(), store_of(router, shard)?);
    let (live, now_ms) = on_reactor(router, shard, move |s| {
        (s.machine.task(seq).map(|t| views::live_task(s.machine, t, &view_meta)), s.machine.now_ms())
    })
    .await?;
    if let Some(view) = live {
        return Ok(view);
    }
    on_disk(move || {
        let found = store.ended_task(seq, 0..=(now_ms / 86_400_000) as u16).map_err(error::Error::into_fault)?;
        let (_, bytes) = found.ok_or_else(|| not_found("task", ShardId(shard).id(seq)))?;
        let ended = EndedTask::decode(seq, bytes).map_err(damaged)?;
        Ok(views::ended_task(ShardId(shard), &ended, &meta))
    })
    .await
}

async fn jobs(
    router: &Router,
    shard: u16,
    filter: Filter,
    from: From,
    limit: usize,
    meta: Arc<MetaView>,
) -> Result<Page, Fault> {
    let store = store_of(router, shard)?;
    if filter.by_id && !filter.jobs.is_empty() {
        let mut page = Page::default();
        let start = if let From::Live(seq) = from { seq } else { 0 };
        for (looked, &seq) in filter.jobs.iter().filter(|&&seq| seq >= start).enumerate() {
            if page.items.len() == limit || looked == STEP_IDS {
                page.next = Some(From::Live(seq));
                break;
            }
            match job(router, shard, seq, false, meta.clone()).await {
                Ok(mut view) if filter.view(&view, &meta) => {
                    view.details.clear();
                    page.items.push(view.encode_to_vec());
                }
                Ok(_) => {}
                Err(fault) if fault.code == Code::NotFound => {}
                Err(fault) => return Err(fault),
            }
        }
        return Ok(page);
    }
    let after = match from {
        From::Ended(after) => after,
        From::Live(_) | From::Start => {
            let start = if let From::Live(seq) = from { seq } else { 0 };
            let (view_filter, view_meta) = (filter.clone(), meta.clone());
            let page = on_reactor(router, shard, move |s| live_page(s.machine, &view_filter, start, limit, &view_meta))
                .await?;
            if !page.items.is_empty() || page.next.is_some() || !filter.wants_ended() {
                let next = page.next.or(filter.wants_ended().then_some(From::Ended(None)));
                return Ok(Page { next, ..page });
            }
            None
        }
    };
    written(router, shard).await?;
    on_disk(move || ended_page(&store, &filter, after, limit, &meta, shard)).await
}

fn live_page(machine: &Machine, filter: &Filter, start: u64, limit: usize, meta: &MetaView) -> Page {
    let tasks: Box<dyn Iterator<Item = &Task>> = if filter.by_id {
        Box::new(filter.tasks.iter().filter_map(|&seq| machine.task(seq)))
    } else {
        Box::new(machine.tasks_from(machine.task_of(start).map_or(start, |task| task.seq)))
    };
    let mut page = Page::default();
    for (seen, (seq, task, job)) in tasks.flat_map(|task| live_jobs(machine, task, start)).enumerate() {
        if seen == STEP_JOBS || page.items.len() == limit.min(STEP_VIEWS) {
            page.next = Some(From::Live(seq));
            break;
        }
        match job {
            Some(job) if filter.job(machine, job) => {
                page.items.push(views::live_job(machine, job, meta).encode_to_vec());
            }
            None if filter.rest(machine, task) => {
                let class = &machine.classes().get(task.class).key;
                page.items.push(views::unmade_job(machine.shard(), task, class, seq, meta).encode_to_vec());
            }
            _ => {}
        }
    }
    page
}

/// A task's live jobs from a number up, in order; those of an array that were never leased have no record.
fn live_jobs<'a>(
    machine: &'a Machine,
    task: &'a Task,
    start: u64,
) -> impl Iterator<Item = (u64, &'a Task, Option<&'a Job>)> {
    let (first, start) = (task.first(), start.max(task.first()));
    let end = first + u64::from(task.jobs);
    let mut made = machine.jobs().from(start).take_while(move |job| job.seq < end).peekable();
    let ranges = task.rest.iter().map(move |&(a, b)| (first + u64::from(a)).max(start)..first + u64::from(b));
    let mut unmade = ranges.flatten().peekable();
    std::iter::from_fn(move || {
        let next = unmade.peek().copied();
        match made.next_if(|job| next.is_none_or(|seq| job.seq < seq)) {
            Some(job) => Some((job.seq, task, Some(job))),
            None => unmade.next().map(|seq| (seq, task, None)),
        }
    })
}

fn ended_page(
    store: &StateStore,
    filter: &Filter,
    after: Option<(u16, u64)>,
    limit: usize,
    meta: &MetaView,
    shard: u16,
) -> Result<Page, Fault> {
    let mut page = Page::default();
    let mut page_bytes = 0;
    let rows = store.scan_ended_jobs(after, ARCHIVE_STEP).map_err(error::Error::into_fault)?;
    let full = rows.len() == ARCHIVE_STEP;
    let mut last = after;
    for EndedRow { day, seq, bytes } in rows {
        last = Some((day, seq));
        let ended = EndedJob::decode(seq, bytes).map_err(damaged)?;
        let of_task = !filter.by_id || filter.tasks.contains(&ended.job.task);
        if of_task && filter.state(ended.job.state) && filter.class(&ended.key) {
            let mut view = views::ended_job(ShardId(shard), &ended, meta);
            view.details.clear();
            let view = view.encode_to_vec();
            page_bytes += view.len();
            page.items.push(view);
            if page.items.len() == limit || page_bytes >= STEP_BYTES {
                page.next = Some(From::Ended(last));
                return Ok(page);
            }
        }
    }
    page.next = full.then_some(From::Ended(last));
    Ok(page)
}

async fn tasks(
    router: &Router,
    shard: u16,
    filter: Filter,
    from: From,
    limit: usize,
    meta: Arc<MetaView>,
) -> Result<Page, Fault> {
    let store = store_of(router, shard)?;
    let after = match from {
        From::Ended(after) => after,
        From::Live(_) | From::Start => {
            let start = if let From::Live(seq) = from { seq } else { 0 };
            let (view_filter, view_meta) = (filter.clone(), meta.clone());
            let page = on_reactor(router, shard, move |s| {
                let mut page = Page::default();
                for (seen, task) in s.machine.tasks_from(start).enumerate() {
                    if seen == STEP_JOBS || page.items.len() == limit.min(STEP_VIEWS) {
                        page.next = Some(From::Live(task.seq));
                        break;
                    }
                    if view_filter.task(task, &s.machine.classes().get(task.class).key) {
                        page.items.push(views::live_task(s.machine, task, &view_meta).encode_to_vec());
                    }
                }
                page
            })
            .await?;
            if !page.items.is_empty() || page.next.is_some() {
                let next = page.next.or(Some(From::Ended(None)));
                return Ok(Page { next, ..page });
            }
            None
        }
    };
    written(router, shard).await?;
    on_disk(move || {
        let mut page = Page::default();
        let rows = store.scan_ended_tasks(after, ARCHIVE_STEP).map_err(error::Error::into_fault)?;
        let full = rows.len() == ARCHIVE_STEP;
        let mut last = after;
        for EndedTaskRow { day, seq, bytes } in rows {
            last = Some((day, seq));
            let ended = EndedTask::decode(seq, bytes).map_err(damaged)?;
            if filter.task(&ended.task, &ended.key) {
                page.items.push(views::ended_task(ShardId(shard), &ended, &meta).encode_to_vec());
                if page.items.len() == limit {
                    page.next = Some(From::Ended(last));
                    return Ok(page);
                }
            }
        }
        page.next = full.then_some(From::Ended(last));
        Ok(page)
    })
    .await
}
