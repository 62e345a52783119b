//! The meta group on its reactor: as [`crate::group`], for the operator's objects.

use crate::directory::{Directory, Inbox};
use crate::error::Error;
use crate::group::{Surroundings, node_of};
use crate::log_writer::LogTask;
use crate::request::{Fault, MetaQuery, MetaRequest};
use crate::snapshot::sender::Sender;
use crate::snapshot::standby::{self, Floors, Standby};
use crate::store::state::{Applied, StateStore};
use moso_proto::object::{Node, ShardTable};
use moso_queue::meta::{MetaCommand, MetaMachine, MetaReply, MetaView, Object};
use moso_shard::meta_core::{MetaAnswer, MetaCore, MetaOutput};
use moso_shard::{ConfState, Message, Position, Replica, Role};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

type Reply = oneshot::Sender<Result<Object, Fault>>;

/// What the first leader writes.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Cluster name.
    pub cluster: String,
    /// Nodes.
    pub nodes: Vec<(u32, Node)>,
    /// Replicas of each shard.
    pub shards: ShardTable,
}

/// The meta group's replica on this node.
pub struct MetaGroup {
    core: MetaCore<Option<Reply>>,
    store: Arc<StateStore>,
    bootstrap: Option<Bootstrap>,
    reads: BTreeMap<u64, Vec<MetaQuery>>,
    waiting_reads: Vec<MetaQuery>,
    served: bool,
    standby: Standby,
    /// Records that found the disk full.
    unsaved: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Where they belong.
    unsaved_at: Option<(Position, Option<ConfState>)>,
}

impl MetaGroup {
    /// A replica whose state was loaded from `store`. One that joins a cluster never makes it.
    pub fn new(core: MetaCore<Option<Reply>>, store: Arc<StateStore>, bootstrap: Option<Bootstrap>) -> Self {
        MetaGroup {
            core,
            store,
            bootstrap,
            reads: BTreeMap::new(),
            waiting_reads: Vec::new(),
            served: false,
            standby: Standby::default(),
            unsaved: BTreeMap::new(),
            unsaved_at: None,
        }
    }

    /// The core.
    pub fn core(&mut self) -> &mut MetaCore<Option<Reply>> {
        &mut self.core
    }

    /// The store.
    pub fn store(&self) -> &Arc<StateStore> {
        &self.store
    }

    /// Nodes that vote, as far as is known here.
    pub fn voters(&self) -> Vec<u32> {
        self.core.replica_ref().conf_state().voters.into_iter().map(node_of).collect()
    }

    /// Copies of its state.
    pub fn standby(&mut self) -> (&mut Standby, &mut Replica) {
        (&mut self.standby, self.core.replica())
    }

    /// An append is on disk.
    pub fn persisted(&mut self, number: u64) {
        self.core.replica().persisted(number);
        self.standby.persisted(number);
    }

    /// As [`crate::group::Group::prepare`].
    pub fn prepare(&mut self, machine: MetaMachine, store: Arc<StateStore>, at: Position) -> bool {
        let taken = at.index > self.core.replica_ref().applied_index() && self.core.prepare(machine, at);
        match taken {
            true => self.standby.keep(store),
            false => standby::remove(store),
        }
        taken
    }

    /// As [`crate::group::Group::cut_to`].
    pub fn cut_to(&mut self, floors: Floors) -> Option<u64> {
        self.standby.cut_to(self.core.replica_ref(), floors)
    }

    /// Copies, and the members: every node has a replica, and an odd number of them vote.
    pub fn tend(&mut self, sender: &Arc<Sender>, directory: &Directory) {
        self.standby.send(0, self.core.replica(), &self.store, sender);
        if self.standby.is_old() && self.core.unprepare() {
            self.standby.drop_copy();
        }
        directory.meta_voters.store(Arc::new(self.voters()));
        let meta = directory.meta.load();
        if meta.version() > 0 {
            let wanted = crate::open::meta_members(&meta, &self.core.replica_ref().conf_state());
            self.core.replica().reconcile(&wanted);
        }
    }

    /// Takes a message of another replica.
    pub fn step(&mut self, message: Message) {
        if self.core.replica().step(message).is_err() {
            metrics::counter!("moso_raft_messages_refused_total").increment(1);
        }
    }

    /// Takes requests; returns whether there were any.
    pub fn take_requests(&mut self, around: &Surroundings<'_>) -> bool {
        let Some(inbox) = &around.directory.meta_inbox else { return false };
        let mut any = false;
        while let Some((request, _)) = inbox.take() {
            any = true;
            match request {
                MetaRequest::Command { bytes, reply } => {
                    if let Err(Some(reply)) = self.core.command(&bytes, around.clock.wall_ms(), Some(reply)) {
                        let _ = reply.send(Err(Fault::not_leader(0)));
                    }
                }
                MetaRequest::Query(query) => self.waiting_reads.push(query),
            }
        }
        any
    }

    /// One turn.
    pub fn turn(&mut self, around: &Surroundings<'_>) -> Result<(), Error> {
        self.start_reads();
        let mut out = MetaOutput::default();
        let changed = self.core.turn(&mut out)?;
        if out.replica.restored.take().is_some() {
            self.standby.swap(&mut self.store, &out.replica.appends);
            tracing::info!(index = self.core.replica_ref().last_index(), "took a copy of the cluster's objects");
        }
        for peer in around.outbound.raft(0, out.replica.messages.drain(..)) {
            self.core.replica().report_unreachable(peer);
        }
        for append in out.replica.appends.drain(..) {
            around.log.write(LogTask::Append { shard: 0, append });
        }
        match self.write_state() {
            Err(error) if error.is_no_space() => around.directory.disk.store_found_full(),
            result => result?,
        }
        if changed {
            publish(&self.core, around.directory)?;
        }
        for (reply, answer) in out.answers {
            let Some(reply) = reply else { continue };
            let _ = reply.send(match answer {
                MetaAnswer::Reply(MetaReply::Ok(object)) => Ok(object),
                MetaAnswer::Reply(MetaReply::Refused { code, message }) => Err(Fault::new(code, message)),
                MetaAnswer::Unknown => Err(Fault::not_leader(0)),
            });
        }
        if let Some(role) = out.replica.role {
            self.role_changed(role, around);
        }
        for context in out.replica.reads {
            for query in self.reads.remove(&context).unwrap_or_default() {
                query(Some(self.core.machine()));
            }
        }
        self.serve(around);
        Ok(())
    }

    fn start_reads(&mut self) {
        if self.waiting_reads.is_empty() {
            return;
        }
        let queries = std::mem::take(&mut self.waiting_reads);
        match self.core.read() {
            Some(context) => drop(self.reads.insert(context, queries)),
            None => queries.into_iter().for_each(|query| query(None)),
        }
    }

    fn write_state(&mut self) -> Result<(), Error> {
        if let Some((records, position, conf_state)) = self.core.unwritten() {
            let before = self.unsaved_at.take().and_then(|(_, conf_state)| conf_state);
            self.unsaved.extend(records);
            self.unsaved_at = Some((position, conf_state.or(before)));
        }
        let Some((position, conf_state)) = &self.unsaved_at else { return Ok(()) };
        let mut batch = self.store.writer();
        for (key, value) in &self.unsaved {
            match value {
                Some(value) => batch.put_record(key, value),
                None => batch.delete_record(key),
            }
        }
        let applied = Applied { index: position.index, term: position.term };
        let first = self.store.applied().is_none().then(|| self.core.replica_ref().conf_state());
        self.store.commit(batch, applied, conf_state.as_ref().or(first.as_ref()))?;
        self.unsaved.clear();
        self.unsaved_at = None;
        Ok(())
    }

    fn role_changed(&mut self, role: Role, around: &Surroundings<'_>) {
        for query in std::mem::take(&mut self.reads).into_values().flatten() {
            query(None);
        }
        self.served = false;
        let leader = match role {
            Role::Leader { .. } => 0,
            Role::Follower { leader, .. } => leader.map_or(0, node_of),
        };
        around.directory.meta_leader.store(leader, Ordering::Relaxed);
        tracing::info!(shard = 0, ?role, "role");
    }

    /// Begins to serve: says so, and makes the cluster if nobody has.
    fn serve(&mut self, around: &Surroundings<'_>) {
        if self.served || !self.core.serves() {
            return;
        }
        self.served = true;
        around.directory.meta_leader.store(around.directory.node, Ordering::Relaxed);
        if self.core.machine().version() == 0
            && let Some(Bootstrap { cluster, nodes, shards }) = self.bootstrap.clone()
        {
            let command = MetaCommand::Bootstrap { cluster, nodes, shards }.encode();
            if self.core.command(&command, around.clock.wall_ms(), None).is_err() {
                self.served = false;
            }
        }
    }
}

/// Makes the typed view and lets all threads see it.
pub fn publish(core: &MetaCore<Option<Reply>>, directory: &Directory) -> Result<(), Error> {
    let view = MetaView::new(core.machine())?;
    directory.meta.store(Arc::new(view));
    directory.meta_changed.notify_waiters();
    Ok(())
}

/// The meta group's inbox.
pub type MetaInbox = Inbox<MetaRequest>;
