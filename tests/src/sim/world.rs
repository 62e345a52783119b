//! The whole: nodes, clients, faults, and the two phases of a run. First everything goes wrong; then faults end, and
//! all work must get done.

use super::env::Env;
use super::event::{Answer, Event};
use super::faults;
use super::group::check_machine;
use super::history::History;
use super::log::Key;
use super::meta;
use super::node::Node;
use super::operator::Operator;
use super::plan::Plan;
use super::planner;
use super::submitter::Submitter;
use super::trace::Note;
use super::watch::{Check, Violation, Watch};
use super::worker::Worker;
use crate::ensure_that;
use moso_shard::ConfState;
use rand::rngs::SmallRng;

/// After the faults, everything must be done within this time.
const SETTLE_MS: u64 = 240_000;
/// How often it is looked whether everything is done.
const LOOK_MS: u64 = 500;

enum Client {
    Submitter(Submitter),
    Worker(Worker),
    Operator(Operator),
}

/// A simulated cluster and its clients.
pub struct World {
    /// Time, chance, events.
    pub env: Env,
    watch: Watch,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    /// What clients asked for and were told.
    pub history: History,
    calm_ms: u64,
    acked_before_calm: usize,
}

impl World {
    /// The cluster of a seed, before anything has happened.
    pub fn new(rng: SmallRng, plan: Plan, verbose: bool) -> World {
        let mut env = Env::new(rng, plan, verbose);
        let nodes = (0..env.plan.nodes).map(|node| Node::new(&mut env, node)).collect();
        let mut watch = Watch::new(env.plan.nodes, env.plan.shards);
        for shard in 1..=env.plan.shards {
            let voters = env.meta.founders(shard).iter().copied().collect();
            let founders = ConfState { voters, ..ConfState::default() };
            watch.oracle_mut(shard).0.members.found(&founders);
        }
        let mut clients = Vec::new();
        let crowd = env.plan.clients.clone();
        for _ in 0..crowd.submitters {
            let client = clients.len();
            clients.push(Client::Submitter(Submitter::new(client, crowd.tasks_max)));
        }
        for _ in 0..crowd.workers {
            clients.push(Client::Worker(Worker::new(clients.len())));
        }
        for _ in 0..crowd.operators {
            clients.push(Client::Operator(Operator::new(clients.len())));
        }
        World { env, watch, nodes, clients, history: History::default(), calm_ms: 0, acked_before_calm: 0 }
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Check {
        for node in &mut self.nodes {
            node.start(&mut self.env, &mut self.watch)?;
        }
        for client in 0..self.clients.len() {
            let delay_ms = self.env.within((0, 500));
            self.env.after(delay_ms, Event::Client(client));
        }
        let calm_ms = self.env.plan.faulty_ms;
        self.env.after(calm_ms, Event::Calm);
        self.plan_fault();
        self.plan_wish();
        while let Some(event) = self.env.next() {
            if self.happen(event)? {
                return Ok(());
            }
        }
        Violation::new("simulation goes on", "there are no more events")
    }

    /// Lets an event happen; returns whether the run is over.
    fn happen(&mut self, event: Event) -> Result<bool, Violation> {
        let World { env, watch, nodes, .. } = self;
        match event {
            Event::Reactor { node, incarnation, planned_ms } => nodes[node].run(env, watch, incarnation, planned_ms)?,
            Event::Message { to, shard, bytes } => nodes[to].message(env, shard, bytes)?,
            Event::Synced { node, incarnation } => nodes[node].synced(env, incarnation)?,
            Event::Flushed { node, incarnation, key, folder, upto } => {
                nodes[node].flushed(env, incarnation, key, folder, upto);
            }
            Event::Copy { to, shard, copy } => nodes[to].copy(env, shard, copy),
            Event::Held { to, shard, held } => nodes[to].held(env, shard, held),
            Event::Matched { to, shard, matched } => nodes[to].matched(shard, matched),
            Event::Request { to, request } => nodes[to].request(env, request)?,
            Event::Work { node, incarnation, work } => nodes[node].work(env, incarnation, work),
            Event::Answer { client, request, answer } => self.answer(client, request, answer)?,
            Event::Client(client) => self.wake(client),
            Event::Fault => self.fault()?,
            Event::Wish => self.wish(),
            Event::Replace { shard, peer } => planner::replace(env, nodes, shard, peer),
            Event::Learn { node, shard, view } => env.meta.learn(node, shard, view),
            Event::Read { node, shard, term } => {
                let view = env.meta.truth(shard);
                env.meta.learn(node, shard, view);
                nodes[node].learned(shard, term);
            }
            Event::Settled { shard, version } => {
                if env.meta.truth(shard).settled < version {
                    let known = |key: Key| nodes[super::node_of(key.1)].known_committed(key);
                    watch.settled(shard, env.meta.members(shard, version), known)?;
                    env.cover.count("members: wishes fulfilled");
                    env.note(Note::Fault(format!("shard {shard}: wish {version} is fulfilled")));
                    env.meta.settle(shard, version);
                    meta::publish(env, shard);
                }
            }
            Event::Kill(_) if env.calm => {}
            Event::Kill(node) => faults::crash(env, nodes, &[node])?,
            Event::Mend(mend) => faults::mend(env, watch, nodes, mend)?,
            Event::Calm => self.calm()?,
            Event::Settle => return self.settle(),
        }
        Ok(false)
    }

    fn wake(&mut self, client: usize) {
        let (env, history) = (&mut self.env, &mut self.history);
        match &mut self.clients[client] {
            Client::Submitter(submitter) => submitter.wake(env, history, &mut self.watch),
            Client::Worker(worker) => worker.wake(env, history),
            Client::Operator(operator) => operator.wake(env, history, &self.watch),
        }
    }

    fn answer(&mut self, client: usize, request: u64, answer: Answer) -> Check {
        let (env, history) = (&mut self.env, &mut self.history);
        env.note(Note::Answered { client, request, answer: format!("{answer:?}") });
        match &mut self.clients[client] {
            Client::Submitter(submitter) => submitter.answer(env, history, &self.watch, request, answer),
            Client::Worker(worker) => worker.answer(env, history, &self.watch, request, answer),
            Client::Operator(operator) => operator.answer(env, history, request, answer),
        }
    }

    fn plan_fault(&mut self) {
        if !self.env.plan.faults.is_empty() {
            let span = self.env.plan.fault_ms;
            let delay_ms = self.env.within(span);
            self.env.after(delay_ms, Event::Fault);
        }
    }

    fn plan_wish(&mut self) {
        if let Some(span) = self.env.plan.wish_ms {
            let delay_ms = self.env.within(span);
            self.env.after(delay_ms, Event::Wish);
        }
    }

    fn wish(&mut self) {
        if !self.env.calm {
            planner::change(&mut self.env, &self.nodes);
            self.plan_wish();
        }
    }

    fn fault(&mut self) -> Check {
        if self.env.calm {
            return Ok(());
        }
        let kinds = self.env.plan.faults.len() as u64;
        let at = self.env.within((0, kinds - 1)) as usize;
        let kind = self.env.plan.faults[at];
        if faults::strike(&mut self.env, &mut self.watch, &mut self.nodes, kind)? {
            for client in &mut self.clients {
                if let Client::Worker(worker) = client
                    && self.env.chance(0.9)
                {
                    worker.die(&mut self.env);
                }
            }
        }
        self.plan_fault();
        Ok(())
    }

    fn calm(&mut self) -> Check {
        self.env.calm = true;
        self.env.note(Note::Fault("calm".into()));
        self.calm_ms = self.env.now_ms;
        self.acked_before_calm = self.history.acked.len();
        faults::mend_all(&mut self.env, &mut self.watch, &mut self.nodes)?;
        self.env.after(LOOK_MS, Event::Settle);
        Ok(())
    }

    /// Whether all work is done; then checks the end.
    fn settle(&mut self) -> Result<bool, Violation> {
        match self.unsettled() {
            None => {
                self.check_end()?;
                let took_ms = self.env.now_ms - self.calm_ms;
                self.env.cover.count(match took_ms {
                    0..15_000 => "settled within 15 s",
                    15_000..60_000 => "settled within 60 s",
                    _ => "settled later",
                });
                Ok(true)
            }
            Some(why) if self.env.now_ms > self.calm_ms + SETTLE_MS => Violation::new("all work gets done", why),
            Some(_) => {
                self.env.after(LOOK_MS, Event::Settle);
                Ok(false)
            }
        }
    }

    /// What is not done yet.
    fn unsettled(&mut self) -> Option<String> {
        for client in &self.clients {
            if let Client::Submitter(submitter) = client
                && !submitter.is_done()
            {
                return Some("a submission has no answer".into());
            }
        }
        if self.history.acked.len() == self.acked_before_calm {
            return Some("nothing new was submitted".into());
        }
        for shard in 1..=self.env.plan.shards {
            let machine = self.watch.oracle(shard).machine();
            if machine.live() > 0 {
                let first = machine.jobs().from(0).next();
                let task = machine.tasks_from(0).next();
                return Some(format!(
                    "shard {shard} at {} ms: {} jobs live, such as {first:?} of {task:?}",
                    machine.now_ms(),
                    machine.live()
                ));
            }
            if let Some(why) = self.unsettled_members(shard) {
                return Some(why);
            }
        }
        None
    }

    /// What is not yet as the newest wish has it.
    fn unsettled_members(&self, shard: u16) -> Option<String> {
        let oracle = self.watch.oracle(shard);
        let (committed, members) = (oracle.committed(), oracle.members.newest());
        let wish = self.env.meta.newest(shard);
        let others = [&members.outgoing, &members.learners, &members.learners_next];
        if !self.env.meta.is_whole(shard)
            || members.voters != wish.members.voters
            || others.iter().any(|o| !o.is_empty())
        {
            return Some(format!("shard {shard} has {members:x?}, and should have {wish:x?}"));
        }
        let mut leaders = 0;
        for (at, node) in self.nodes.iter().enumerate() {
            let wanted = wish.members.voters.iter().any(|peer| super::node_of(*peer) == at);
            let Some(group) = node.group(shard) else {
                if wanted || node.has_replica(shard) || !node.is_up() {
                    return Some(format!("shard {shard}: node {at} is down, or its replica"));
                }
                continue;
            };
            if !wish.names(group.key().1) {
                return Some(format!("shard {shard}: node {at} still has replica {:x}", group.key().1));
            }
            leaders += usize::from(group.core().serves());
            let applied = group.core().replica_ref().applied_index();
            if applied != committed {
                return Some(format!("shard {shard}: node {at} has applied {applied} of {committed}"));
            }
        }
        (leaders != 1).then(|| format!("shard {shard} has {leaders} leaders"))
    }

    /// Everything that was acknowledged is there, on every replica.
    fn check_end(&mut self) -> Check {
        self.history.check(&self.watch)?;
        for shard in 1..=self.env.plan.shards {
            let digest = self.watch.oracle(shard).machine().digest();
            let members = self.env.meta.newest(shard).members.voters.clone();
            for at in members.into_iter().map(super::node_of) {
                self.check_replica(at, shard, digest)?;
            }
        }
        let calls = self.history.calls().len() as u64;
        self.env.cover.count_n("calls", calls);
        Ok(())
    }

    fn check_replica(&mut self, at: usize, shard: u16, digest: u64) -> Check {
        let node = &mut self.nodes[at];
        if let Some(group) = node.group(shard) {
            let machine = group.core().machine();
            check_machine(at, shard, machine)?;
            ensure_that!("I8 equal digests", machine.digest() == digest, "node {at} shard {shard} at the end");
        }
        let Some(folders) = node.written_state(shard) else {
            return Violation::new("a member has its state", format!("node {at} shard {shard}"));
        };
        ensure_that!("copies go", folders.len() <= 3, "node {at} shard {shard} has {} state folders", folders.len());
        folders.store().flush(u64::MAX);
        let records = folders.store().durable();
        let loaded = records.load(moso_proto::ShardId(shard)).map_err(|error| Violation {
            invariant: "state loads",
            detail: format!("node {at} shard {shard}: {error}"),
        })?;
        ensure_that!(
            "I8 equal digests",
            loaded.digest() == digest,
            "node {at} shard {shard}: what is stored differs from what is in memory"
        );
        let ended = self.watch.oracle(shard).all_ended();
        let equal = ended.len() == records.ended_jobs.len()
            && ended
                .iter()
                .zip(&records.ended_jobs)
                .all(|((a, (_, _, told)), (b, stored))| a == b && **stored == **told);
        ensure_that!(
            "I1 archive is complete",
            equal,
            "node {at} shard {shard}: {} archive records, {} jobs have ended",
            records.ended_jobs.len(),
            ended.len()
        );
        ensure_that!(
            "bodies end with their jobs",
            records.bodies.is_empty() && records.jobs.is_empty() && records.tasks.is_empty(),
            "node {at} shard {shard}: {} bodies, {} jobs, {} tasks are left",
            records.bodies.len(),
            records.jobs.len(),
            records.tasks.len()
        );
        Ok(())
    }
}
