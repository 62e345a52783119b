//! Submitters and users.

mod room;

use super::caller::caller;
use super::selector::{Of, Scope, read_cursor, scope, write_cursor};
use super::{busy, check, invalid, status, submissions};
use crate::clock::Clock;
use crate::directory::Counters;
use crate::gate::call::Call;
use crate::gate::{Gate, Held, Reason, share};
use crate::identity::{Guard, Principal};
use crate::limits::SLOW_MAX;
use crate::query::{Filter, From, Page, QueryCall, Right, RightfulTargets, Targets};
use crate::request::Fault;
use crate::router::{Router, unknown, unpack};
use bytes::Bytes;
use moso_proto::id::shard_of_submission;
use moso_proto::object::kind;
use moso_proto::v1::{self, jobs_server::Jobs};
use moso_proto::{Code, JobId, ShardId, setting};
use moso_queue::command::{ActRefusal, Action, Command, Reply};
use moso_queue::limits::{ATTEMPTS_MAX, COMMAND_JOBS_MAX, TEXT_BYTES_MAX};
use moso_queue::meta::{MetaView, SHARE_UNDEFINED};
use prost::Message as _;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Jobs on a page at most.
const PAGE_MAX: u32 = 10_000;
/// Jobs on a page when nothing is said.
const PAGE: u32 = 100;
/// Bytes of a page, beyond which it ends early: ended jobs carry their output.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// How often a watched task is looked at.
const WATCH: Duration = Duration::from_millis(100);
/// Tasks watched at once through this node: each costs ten reads a second.
const WATCHES_MAX: usize = 1_000;

/// The service.
#[derive(Clone)]
pub struct JobsApi {
    router: Arc<Router>,
    guard: Arc<Guard>,
    clock: Clock,
    watches: Arc<Semaphore>,
    gate: Arc<Gate>,
    stopping: watch::Receiver<bool>,
}

impl JobsApi {
    /// Serves through `router` what `gate` lets in and `guard` allows, until `stopping`.
    pub fn new(
        router: Arc<Router>,
        guard: Arc<Guard>,
        clock: Clock,
        gate: Arc<Gate>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        JobsApi { stopping, router, guard, clock, gate, watches: Arc::new(Semaphore::new(WATCHES_MAX)) }
    }

    pub(super) fn full(&self, what: &str) -> Fault {
        Counters::add(&self.router.directory.counters.shed, 1);
        busy(&format!("too many {what} at this node: come back later"), self.gate.refusals.retry_after_ms())
    }

    /// A client does not read what it is told: nothing more is said.
    pub(super) fn slow_reader(&self) {
        self.gate.refusals.count(Reason::SlowReader);
    }

    /// A place and memory for a submission under way: while a shard has no leader, it waits here.
    fn admit(&self, request: &v1::SubmitRequest) -> Result<(OwnedSemaphorePermit, Held), Fault> {
        let admitted = self.gate.submission().and_then(|place| {
            // As it is, and as its command.
            let held = self.gate.hold(2 * request.encoded_len(), share::SUBMISSIONS)?;
            Ok((place, held))
        });
        if admitted.is_err() {
            Counters::add(&self.router.directory.counters.shed, 1);
        }
        admitted
    }

    pub(super) fn meta(&self) -> Arc<MetaView> {
        self.router.directory.meta.load_full()
    }

    /// Whether a caller whose stream is long may go on.
    pub(super) fn still_welcome(&self, who: &Principal) -> Result<(), Fault> {
        self.guard.still_welcome(who)
    }

    fn shards(&self) -> u16 {
        self.router.directory.shards.len() as u16
    }

    fn answer<T>(&self, result: Result<T, Fault>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|fault| status(fault, &self.meta()))
    }

    pub(crate) async fn submit_request(
        &self,
        who: &Principal,
        mut request: v1::SubmitRequest,
    ) -> Result<v1::SubmitReply, Fault> {
        self.own(who, &mut request)?;
        let _admitted = self.admit(&request)?;
        let spec = request.task.as_ref().ok_or_else(|| invalid("task is missing"))?;
        let submission = check::submission_id(&request.submission_id)?;
        let share_name = if spec.share.is_empty() { SHARE_UNDEFINED } else { &spec.share };
        let meta = self.router.meta_with(&[(kind::QUEUE, &spec.queue), (kind::SHARE, share_name)]).await?;
        let queue = meta.queue(&spec.queue).ok_or_else(|| unknown(kind::QUEUE, &spec.queue))?;
        if !queue.takes_jobs(self.clock.wall_ms()) {
            return Err(Fault {
                retry_after_ms: 10_000,
                ..Fault::new(
                    Code::Unavailable,
                    format!("queue {} takes no jobs now: {}", queue.name, queue.queue.reason),
                )
            });
        }
        if meta.user(&spec.owner).banned {
            return Err(Fault::new(Code::Forbidden, format!("user {} may not submit", spec.owner)));
        }
        let jobs = request.array.max(u32::try_from(request.jobs.len()).unwrap_or(u32::MAX));
        self.live_room(&meta, &spec.owner, jobs.into())?;
        let share = meta.share(share_name).ok_or_else(|| unknown(kind::SHARE, share_name))?;
        let body_max = meta.setting(&setting::BODY_BYTES_MAX) as usize;
        let shard = shard_of_submission(&submission, self.shards());
        self.room(shard, &meta)?;
        let submit = check::submit(request, queue.id, share.id, body_max)?;
        let bytes: Bytes = check::encode(&submit).into();
        match self.router.command(shard.0, bytes).await? {
            Reply::Submitted { task, jobs, repeated } => {
                let new = if repeated { 0 } else { u64::from(jobs) };
                let counters = &self.router.directory.counters;
                Counters::add(&counters.submitted, new);
                Counters::add(&counters.submissions, 1);
                Ok(v1::SubmitReply { task_id: shard.id(task), first_job_id: shard.id(task + 1), jobs, repeated })
            }
            other => Err(Fault::new(Code::Internal, format!("a submission was answered with {other:?}"))),
        }
    }

    /// Makes a submission the caller's, or refuses it.
    fn own(&self, who: &Principal, request: &mut v1::SubmitRequest) -> Result<(), Fault> {
        let Some(spec) = request.task.as_mut().filter(|_| !who.is_anyone()) else { return Ok(()) };
        if spec.owner.is_empty() {
            spec.owner = who.user.to_string();
        }
        let v1::TaskSpec { owner, group, .. } = spec;
        if !who.may_submit(owner, group) {
            let why = match (who.submitter, *who.user == **owner) {
                (false, _) => "he has not the role of a submitter".to_owned(),
                (true, false) => format!("only an operator submits for another owner ({owner:?})"),
                (true, true) => format!("he is not in the group {group:?}"),
            };
            return Err(self.guard.forbid(who, "submission", format!("user {} may not submit this: {why}", who.user)));
        }
        let jobs = request.array.max(u32::try_from(request.jobs.len()).unwrap_or(u32::MAX));
        self.guard.may_submit_now(who, jobs)
    }

    fn job_shard(&self, id: u64) -> Result<(u16, u64), Fault> {
        let shard = JobId(id).shard().filter(|s| s.0 <= self.shards());
        let shard = shard.ok_or_else(|| {
            Fault::new(Code::NotFound, format!("there is no job or task {id}: no shard has such a number"))
        })?;
        Ok((shard.0, JobId(id).seq()))
    }

    pub(crate) async fn job(&self, id: u64, body: bool) -> Result<v1::JobView, Fault> {
        let (shard, seq) = self.job_shard(id)?;
        let bytes = self.router.query(shard, &QueryCall::Job { seq, body }).await?;
        decode(bytes)
    }

    /// The job, with what the caller may see of it.
    async fn job_for(&self, who: &Principal, id: u64, body: bool) -> Result<v1::JobView, Fault> {
        let mut job = self.job(id, body).await?;
        if !who.may_read(&job.owner, &job.group) {
            if body {
                let text = format!("user {} may not read the body of job {id}: it is {}'s", who.user, job.owner);
                return Err(self.guard.forbid(who, "body of a job", text));
            }
            hide(&mut job);
        }
        Ok(job)
    }

    async fn jobs_for(
        &self,
        who: &Principal,
        request: v1::ListRequest,
        call: Option<Arc<Call>>,
    ) -> Result<v1::JobList, Fault> {
        let listed = self.list(request, Of::Jobs).await;
        made(call, &listed);
        let (items, cursor) = listed?;
        let mut jobs: Vec<v1::JobView> = decode_all(items)?;
        jobs.iter_mut().filter(|job| !who.may_read(&job.owner, &job.group)).for_each(hide);
        Ok(v1::JobList { jobs, cursor })
    }

    pub(crate) async fn task(&self, id: u64) -> Result<v1::TaskView, Fault> {
        let (shard, seq) = self.job_shard(id)?;
        let bytes = self.router.query(shard, &QueryCall::Task { seq }).await?;
        decode(bytes)
    }

    /// Walks over the shards until the page is full; each shard's filter says what is meant there.
    pub(crate) async fn list(&self, request: v1::ListRequest, of: Of) -> Result<(Vec<Vec<u8>>, String), Fault> {
        let scope = self.scope(&request.selector.unwrap_or_default(), of).await?;
        let limit = if request.limit == 0 { PAGE } else { request.limit.min(PAGE_MAX) } as usize;
        let (mut shard, mut from) = read_cursor(&request.cursor)?;
        let mut items: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        while let Some((&next, filter)) = scope.filters.range(shard..).next() {
            if next != shard {
                (shard, from) = (next, From::Start);
            }
            let page: Page =
                unpack(&self.router.query(shard, &list_call(of, filter, from, limit - items.len())).await?)?;
            bytes += page.items.iter().map(Vec::len).sum::<usize>();
            items.extend(page.items);
            let full = items.len() >= limit || bytes >= PAGE_BYTES_MAX;
            match page.next {
                Some(next) if full => return Ok((items, write_cursor(shard, next))),
                Some(next) => from = next,
                None if full => return Ok((items, write_cursor(shard + 1, From::Start))),
                None => (shard, from) = (shard + 1, From::Start),
            }
        }
        Ok((items, String::new()))
    }

    async fn scope(&self, selector: &v1::Selector, of: Of) -> Result<Scope, Fault> {
        let named = [(kind::QUEUE, selector.queue.as_str()), (kind::SHARE, &selector.share)];
        let named: Vec<_> = named.into_iter().filter(|(_, name)| !name.is_empty()).collect();
        scope(selector, of, &*self.router.meta_with(&named).await?, self.shards())
    }

    pub(crate) async fn act_request(&self, who: &Principal, request: v1::ActRequest) -> Result<v1::ActReply, Fault> {
        let action = action(request.action)?;
        let selector = request.selector.unwrap_or_default();
        if selector == v1::Selector::default() {
            return Err(invalid("the selector is empty: name jobs, tasks, a queue, an owner, or states"));
        }
        let scope = self.scope(&selector, Of::Jobs).await?;
        let actor: Box<str> = check::name("actor", who.name_or(&request.actor))?.into();
        let right = (!who.is_anyone()).then(|| Right::new(who, kill_code(&action)));
        let act = Act { right, action, actor, dry_run: request.dry_run };
        let mut tally = Tally::default();
        for (shard, filter) in scope.filters {
            self.act_on_shard(shard, filter, &act, &mut tally).await?;
        }
        if tally.forbidden > 0 {
            self.guard.rejections().count("jobs of others", &who.user);
        }
        if let Some(outcome) = tally.outcome(who).filter(|_| !act.dry_run) {
            self.guard.did(&act.actor, verb(&act.action), selected(&selector), outcome);
        }
        Ok(tally.reply())
    }

    /// What the caller may act on, from the number `from` up.
    async fn targets(&self, shard: u16, filter: &Filter, from: u64, act: &Act) -> Result<RightfulTargets, Fault> {
        let (filter, limit) = (filter.clone(), COMMAND_JOBS_MAX);
        match act.right.clone() {
            Some(right) => {
                let call = QueryCall::RightfulTargets { filter, right, from, limit };
                unpack(&self.router.query(shard, &call).await?)
            }
            None => {
                let targets = unpack(&self.router.query(shard, &QueryCall::Targets { filter, from, limit }).await?)?;
                Ok(RightfulTargets { targets, ..RightfulTargets::default() })
            }
        }
    }

    async fn act_on_shard(&self, shard: u16, filter: Filter, act: &Act, tally: &mut Tally) -> Result<(), Fault> {
        let mut from = 0;
        loop {
            let rightful = self.targets(shard, &filter, from, act).await?;
            let found: Targets = rightful.targets;
            if rightful.forbidden > 0 {
                tally.matched += rightful.forbidden;
                tally.forbidden += rightful.forbidden;
                tally.refuse("it is another's: you may not", rightful.forbidden, ShardId(shard).id(rightful.example));
            }
            tally.foreign += rightful.foreign;
            let count = found.jobs.len() as u64 + found.rests.iter().map(|(_, n)| u64::from(*n)).sum::<u64>();
            tally.matched += count;
            for &seq in &found.missing {
                tally.refuse("it is not known or has ended", 1, ShardId(shard).id(seq));
            }
            if act.dry_run {
                tally.changed += count;
            } else if count > 0 {
                for targets in found.targets().chunks(COMMAND_JOBS_MAX) {
                    let (action, actor) = (act.action.clone(), act.actor.clone());
                    let command = Command::Act { action, targets: targets.to_vec(), actor };
                    match self.router.command_once(shard, command.to_bytes().into()).await? {
                        Reply::Acted { changed, refused } => tally.add(shard, changed, refused),
                        other => {
                            return Err(Fault::new(Code::Internal, format!("an action was answered with {other:?}")));
                        }
                    }
                }
            }
            match found.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
}

/// A page is made: a page of few jobs holds no more than it needs, however long it is not read.
fn made(call: Option<Arc<Call>>, page: &Result<(Vec<Vec<u8>>, String), Fault>) {
    let items = page.as_ref().map_or(0, |(items, _)| items.iter().map(Vec::len).sum::<usize>());
    if let Some(call) = call {
        // As items, as messages and as the reply.
        call.made(3 * items);
    }
}

/// An action, by whom.
struct Act {
    /// `None`: nobody asked who he is, and he may do all.
    right: Option<Right>,
    action: Action,
    actor: Box<str>,
    dry_run: bool,
}

fn kill_code(action: &Action) -> Option<u8> {
    match action {
        Action::Kill(code) => Some(*code),
        _ => None,
    }
}

/// The action in a word, for the audit log.
fn verb(action: &Action) -> &'static str {
    match action {
        Action::Kill(_) => "kill",
        Action::Hold(_) => "hold",
        Action::Release => "release",
        Action::Retry(_) => "retry",
        Action::Priority(_) => "priority",
    }
}

/// What was chosen, for the audit log.
fn selected(selector: &v1::Selector) -> String {
    let first = |ids: &[u64]| match ids {
        [] => String::new(),
        [one] => one.to_string(),
        [one, ..] => format!("{one} and {} more", ids.len() - 1),
    };
    let fields = [
        ("job", first(&selector.jobs)),
        ("task", first(&selector.tasks)),
        ("queue", selector.queue.clone()),
        ("state", selector.states.join(",")),
        ("owner", selector.owner.clone()),
        ("group", selector.group.clone()),
        ("share", selector.share.clone()),
        ("label", selector.label.clone()),
    ];
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    given.map(|(field, value)| format!("{field} {value}")).collect::<Vec<_>>().join(", ")
}

/// Takes out of a job what is for its owner and his group.
fn hide(job: &mut v1::JobView) {
    job.output = Bytes::new();
    job.details = Bytes::new();
    job.body = Bytes::new();
    job.errors.iter_mut().for_each(|error| error.text.clear());
}

fn decode<M: prost::Message + Default>(bytes: Bytes) -> Result<M, Fault> {
    M::decode(bytes)
        .map_err(|e| Fault::new(Code::Internal, format!("another node sent what this one cannot read: {e}")))
}

pub(crate) fn decode_all<M: prost::Message + Default>(items: Vec<Vec<u8>>) -> Result<Vec<M>, Fault> {
    items.into_iter().map(|item| decode(item.into())).collect()
}

fn list_call(of: Of, filter: &Filter, from: From, limit: usize) -> QueryCall {
    let filter = filter.clone();
    match of {
        Of::Jobs => QueryCall::Jobs { filter, from, limit },
        Of::Tasks => QueryCall::Tasks { filter, from, limit },
    }
}

fn action(action: Option<v1::act_request::Action>) -> Result<Action, Fault> {
    use v1::act_request::Action as Asked;
    Ok(match action.ok_or_else(|| invalid("no action is given"))? {
        Asked::Kill(kill) => match u8::try_from(kill.code) {
            Ok(0) => Action::Kill(9),
            Ok(code) => Action::Kill(code),
            Err(_) => return Err(invalid(format!("kill code {} is above 255", kill.code))),
        },
        Asked::Hold(hold) if hold.reason.len() > TEXT_BYTES_MAX => {
            return Err(Fault::new(Code::TooLarge, format!("the reason is longer than {TEXT_BYTES_MAX} bytes")));
        }
        Asked::Hold(hold) => Action::Hold(hold.reason.into()),
        Asked::Release(_) => Action::Release,
        Asked::Retry(retry) if retry.attempts > ATTEMPTS_MAX => {
            return Err(invalid(format!("{} attempts is above {ATTEMPTS_MAX}", retry.attempts)));
        }
        Asked::Retry(retry) => Action::Retry(if retry.attempts == 0 { 3 } else { retry.attempts }),
        Asked::Priority(priority) => Action::Priority(check::priority(priority.priority)?),
    })
}

#[derive(Default)]
struct Tally {
    matched: u64,
    changed: u64,
    /// Left out because the caller may not.
    forbidden: u64,
    /// Jobs of others that were meant.
    foreign: u64,
    refused: BTreeMap<&'static str, (u64, u64)>,
}

impl Tally {
    fn refuse(&mut self, reason: &'static str, count: u64, example: u64) {
        self.refused.entry(reason).or_insert((0, example)).0 += count;
    }

    fn add(&mut self, shard: u16, changed: u64, refused: Vec<(ActRefusal, u64, u64)>) {
        self.changed += changed;
        for (why, count, example) in refused {
            let reason = match why {
                ActRefusal::Ended => "it has ended",
                ActRefusal::Leased => "a worker has it",
                ActRefusal::NotHeld => "it is not held and waits for no time",
                ActRefusal::Same => "it is so already",
            };
            self.refuse(reason, count, ShardId(shard).id(example));
        }
    }

    /// What is written into the audit log: what was done to jobs of others, and, where nobody is asked who he is, to any.
    fn outcome(&self, who: &Principal) -> Option<String> {
        let Tally { matched, changed, foreign, .. } = self;
        match who.is_anyone() {
            true => (*matched > 0).then(|| format!("{changed} of {matched} changed")),
            false => (*foreign > 0).then(|| format!("{changed} of {matched} changed, {foreign} of others")),
        }
    }

    fn reply(self) -> v1::ActReply {
        let refused = self.refused.into_iter();
        v1::ActReply {
            matched: self.matched,
            changed: self.changed,
            refused: refused
                .map(|(reason, (jobs, example))| v1::ActRefusal { reason: reason.into(), jobs, example })
                .collect(),
        }
    }
}

#[tonic::async_trait]
impl Jobs for JobsApi {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let who = caller(&request)?;
        self.answer(self.submit_request(&who, request.into_inner()).await)
    }

    type SubmitStreamStream = ReceiverStream<Result<v1::SubmitAnswers, Status>>;

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitFrame>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let who = caller(&request)?;
        let (send, answers) = mpsc::channel(submissions::SEND_QUEUE);
        tokio::spawn(submissions::serve(self.clone(), who, request.into_inner(), send, self.stopping.clone()));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn get_job(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::JobView>, Status> {
        let who = caller(&request)?;
        let request = request.into_inner();
        self.answer(self.job_for(&who, request.job_id, request.body).await)
    }

    async fn list_jobs(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::JobList>, Status> {
        let (who, call) = (caller(&request)?, request.extensions().get::<Arc<Call>>().cloned());
        self.answer(self.jobs_for(&who, request.into_inner(), call).await)
    }

    async fn get_task(&self, request: Request<v1::TaskRequest>) -> Result<Response<v1::TaskView>, Status> {
        self.answer(self.task(request.into_inner().task_id).await)
    }

    async fn list_tasks(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::TaskList>, Status> {
        let call = request.extensions().get::<Arc<Call>>().cloned();
        let result = self.list(request.into_inner(), Of::Tasks).await;
        made(call, &result);
        self.answer(result.and_then(|(items, cursor)| Ok(v1::TaskList { tasks: decode_all(items)?, cursor })))
    }

    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<v1::TaskView, Status>> + Send>>;

    async fn watch_task(&self, request: Request<v1::TaskRequest>) -> Result<Response<Self::WatchTaskStream>, Status> {
        let id = request.into_inner().task_id;
        let watch = self.watches.clone().try_acquire_owned();
        let watch = watch.map_err(|_| status(self.full("watched tasks"), &self.meta()))?;
        let first = self.task(id).await.map_err(|fault| status(fault, &self.meta()))?;
        let (send, views) = mpsc::channel(4);
        let api = self.clone();
        tokio::spawn(async move {
            let _watch = watch;
            let mut last = first;
            // Who does not read is not kept.
            let mut sent = send.send_timeout(Ok(last.clone()), SLOW_MAX).await;
            while sent.is_ok() && last.ended_ms == 0 {
                tokio::time::sleep(WATCH).await;
                match api.task(id).await {
                    Ok(view) if view == last => {
                        if send.is_closed() {
                            return;
                        }
                    }
                    Ok(view) => {
                        last = view;
                        sent = send.send_timeout(Ok(last.clone()), SLOW_MAX).await;
                    }
                    Err(fault) => {
                        let _ = send.send_timeout(Err(status(fault, &api.meta())), SLOW_MAX).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(views))))
    }

    async fn explain(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::Explanation>, Status> {
        let id = request.into_inner().job_id;
        let result = self.job(id, false).await;
        let explained = result.map(|job| crate::explain::explain(&job, &self.router, self.clock.wall_ms()));
        self.answer(explained)
    }

    async fn act(&self, request: Request<v1::ActRequest>) -> Result<Response<v1::ActReply>, Status> {
        let who = caller(&request)?;
        self.answer(self.act_request(&who, request.into_inner()).await)
    }
}
