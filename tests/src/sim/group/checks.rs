//! What is checked of a replica while it runs.

use super::{Around, Group};
use crate::ensure_that;
use crate::sim::env::Env;
use crate::sim::log::Disk;
use crate::sim::trace::Note;
use crate::sim::watch::{Check, Serving, Violation};
use moso_proto::JobState;
use moso_queue::command::{Command, read_entry};
use moso_queue::filter::WorkerOffer;
use moso_queue::ready::Popped;
use moso_shard::{Entry, FOUNDING, Message, MessageType, Role};
use std::cmp::Reverse;
use std::collections::BTreeSet;

impl Group {
    /// I11: no job is taken while one of a better share or priority waits that the worker fits.
    pub(super) fn check_order(&self, env: &mut Env, queue: u32, offer: &WorkerOffer, popped: &[Popped]) -> Check {
        let machine = self.core.machine();
        // Entries of jobs that have ended, or have another priority by now, are thrown away later.
        let Some(worst) = popped
            .iter()
            .filter(|popped| self.claimable(popped))
            .map(|popped| (machine.classes().get(popped.class).key.share, Reverse(popped.priority)))
            .max()
        else {
            return Ok(());
        };
        env.cover.count("orders checked");
        let taken: BTreeSet<u64> = popped.iter().map(|popped| popped.seq).collect();
        let better = machine.jobs().from(0).find(|job| {
            let key = &machine.classes().get(job.class).key;
            job.state == JobState::Activated
                && !job.reserved
                && key.queue == queue
                && (key.share, Reverse(job.priority)) < worst
                && offer.fits(key)
                && !taken.contains(&job.seq)
                && !self.popped.contains_key(&job.seq)
        });
        ensure_that!("I11 priority", better.is_none(), "shard {}: {popped:?} were taken before {better:?}", self.shard);
        Ok(())
    }

    pub(super) fn claimable(&self, popped: &Popped) -> bool {
        self.core.machine().job(popped.seq).is_some_and(|job| {
            job.state == JobState::Activated
                && !job.reserved
                && (job.class, job.priority) == (popped.class, popped.priority)
        })
    }

    /// A job is in one lease proposal at a time, unless something happened to it meanwhile.
    pub(super) fn check_claims(&mut self, around: &Around<'_>, claims: BTreeSet<u64>) -> Check {
        for seq in claims {
            ensure_that!(
                "a job is in one lease proposal at a time",
                self.claimed.insert(seq),
                "node {} shard {}: job {seq}",
                around.node,
                self.shard
            );
        }
        Ok(())
    }

    /// Election safety, leader completeness; and when a leadership begins to serve.
    pub(super) fn check_role(&mut self, around: &mut Around<'_>) -> Check {
        let replica = self.core.replica_ref();
        let role = replica.role();
        let disk = &mut *around.disk;
        // A replica campaigns only once its whole log is on disk.
        let first = replica.first_index();
        let written = |index, term| index < first || disk.term(self.key(), index) == Some(term);
        around.watch.role(around.env, around.node, self.key(), role, written)?;
        around.watch.committed(around.node, self.shard, replica.committed_index())?;
        let serving = self.core.serves().then_some(replica.term());
        if serving != self.serving {
            self.serving = serving;
            self.claimed.clear();
            self.heard.clear();
            if let Some(term) = serving {
                let node = around.node;
                around.watch.begins(self.key(), term)?;
                around.env.note(Note::Serves { node, shard: self.shard, term });
                around.env.cover.count("raft: leaderships that served");
                let awake_ms = around.watch.awake_ms(node, around.env.now_ms);
                let serving = Serving { node, awake_ms };
                around.watch.serving.insert((self.shard, term), serving);
            }
        }
        if !matches!(role, Role::Leader { .. }) {
            self.claimed.clear();
        }
        Ok(())
    }

    /// What a leader proposes: leases expire only while a quorum is there.
    pub(super) fn check_append(&self, around: &mut Around<'_>, append: &moso_shard::Append) -> Check {
        around.env.note(Note::Append {
            node: around.node,
            shard: self.shard,
            number: append.number,
            first: append.entries.first().map_or(0, |entry| entry.index),
            entries: append.entries.len(),
            term: append.entries.last().map_or(0, |entry| entry.term),
        });
        let Some(term) = self.serving else {
            return Ok(());
        };
        for entry in append.entries.iter().filter(|entry| entry.term == term) {
            let Ok((_, commands)) = read_entry(entry.data.clone()) else {
                continue;
            };
            let commands = commands.into_iter().filter_map(|command| Command::decode(command).ok());
            if commands.into_iter().any(|command| matches!(command, Command::Expire { .. })) {
                self.check_quorum(around)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_quorum(&self, around: &mut Around<'_>) -> Check {
        let members = self.core.replica_ref().conf_state();
        let election_ms = around.env.plan.election_ms();
        // What a quorum was may just have changed.
        if around.env.now_ms < self.members_ms + 2 * election_ms {
            return Ok(());
        }
        let heard_ms = |voters: &[u64]| {
            let heard = |peer: &u64| match *peer == self.peer {
                true => around.env.now_ms,
                false => self.heard.get(peer).copied().unwrap_or(0),
            };
            let mut heard: Vec<u64> = voters.iter().map(heard).collect();
            heard.sort_unstable_by(|a, b| b.cmp(a));
            heard.get(voters.len() / 2).copied().unwrap_or(u64::MAX)
        };
        let quorum_ms = heard_ms(&members.voters).min(heard_ms(&members.voters_outgoing));
        let gathered_ms = self.gathering_ms.unwrap_or(around.env.now_ms);
        ensure_that!(
            "expiry only while a quorum is there",
            quorum_ms + election_ms >= gathered_ms,
            "node {} shard {}: heard of a quorum at {quorum_ms} ms, expired at {gathered_ms} ms or later",
            around.node,
            self.shard
        );
        Ok(())
    }

    /// The members are those that all replicas agree on.
    pub(super) fn check_members(&mut self, around: &mut Around<'_>) -> Check {
        let replica = self.core.replica_ref();
        let applied = replica.applied_index();
        let members = &mut around.watch.oracle_mut(self.shard).0.members;
        let change = members.change_before(applied);
        if change == self.members_seen || self.restoring.is_some() {
            return Ok(());
        }
        self.members_seen = change;
        self.members_ms = around.env.now_ms;
        let state = replica.conf_state();
        let news = members.is_news(change);
        members.agree(applied, &state)?;
        if news { around.watch.check_voters(self.shard, &state.voters) } else { Ok(()) }
    }

    /// A replica that joins takes no log from its beginning, whoever sends it: that does not say with whom the shard was
    /// made.
    pub(super) fn offer_beginning(&mut self, env: &mut Env, message: &Message) -> Check {
        let joining = self.core.replica_ref().is_joining();
        if !joining || message.get_msg_type() != MessageType::MsgAppend || !env.once_in(4) {
            return Ok(());
        }
        let mut forged = message.clone();
        (forged.index, forged.log_term, forged.commit) = (0, 0, 1);
        forged.set_entries(vec![Entry { term: 1, index: 1, ..Entry::default() }].into());
        env.cover.count("raft: beginnings of a log offered");
        ensure_that!(
            "a replica that joins takes no log from its beginning",
            self.core.replica().step(forged).is_err(),
            "shard {} replica {:x}",
            self.shard,
            self.peer
        );
        Ok(())
    }

    /// Once all appends are on disk, the log is what the replica takes it for.
    pub(super) fn check_log(&self, disk: &mut Disk) -> Check {
        let replica = self.core.replica_ref();
        let (cut, last, tidy) = disk.with(self.key(), |log| (log.truncated().index, log.last_index(), log.is_tidy()));
        let ends = replica.appends_in_flight() > 0 || last.max(FOUNDING.index) == replica.last_index();
        ensure_that!(
            "the log is what was written",
            replica.is_joining() || (tidy && ends && cut.max(FOUNDING.index) < replica.first_index()),
            "shard {} replica {:x}: cut at {cut} and ends at {last}, instead of {} and {}",
            self.shard,
            self.peer,
            replica.first_index() - 1,
            replica.last_index()
        );
        Ok(())
    }

    /// Shows the oracle what was applied; a replica applies only what is on its own disk.
    pub(super) fn observe(&mut self, around: &mut Around<'_>) -> Check {
        let applied = self.core.replica_ref().applied_index();
        if let Some(restoring) = self.restoring.filter(|restoring| applied >= restoring.at.index) {
            return Violation::new(
                "L1 applied only what is on disk",
                format!("node {} shard {}: the snapshot at {:?}", around.node, self.shard, restoring.at),
            );
        }
        while self.observed < applied {
            self.observed += 1;
            let index = self.observed;
            let entry = around.disk.with(self.key(), |log| log.entry(index));
            let Some(entry) = entry else {
                return Violation::new(
                    "L1 applied only what is on disk",
                    format!("node {} shard {}: entry {index}", around.node, self.shard),
                );
            };
            let (oracle, leaders) = around.watch.oracle_mut(self.shard);
            oracle.observe(around.env, &leaders, entry)?;
        }
        Ok(())
    }
}

/// I7: counts equal a recount, and whatever else the machine must hold.
pub fn check_machine(node: usize, shard: u16, machine: &moso_queue::Machine) -> Check {
    moso_queue::check::check(machine).map_err(|what| Violation {
        invariant: "I7 state adds up",
        detail: format!("node {node} shard {shard}: {what}"),
    })
}

/// I8: replicas with equal applied index have equal state.
pub(super) fn check_digest(around: &mut Around<'_>, shard: u16, index: u64, machine: &moso_queue::Machine) -> Check {
    let Some(expected) = around.watch.oracle(shard).digest(index) else {
        return Ok(());
    };
    let digest = machine.digest();
    around.env.cover.count("digests compared");
    around.env.note(Note::Applied { node: around.node, shard, index, digest });
    ensure_that!(
        "I8 equal digests",
        digest == expected,
        "node {} shard {shard} at {index}: {digest:x} instead of {expected:x}",
        around.node
    );
    Ok(())
}
