//! What is watched while a simulation runs: each shard's oracle, and the invariants of Raft.

use super::env::Env;
use super::log::Key;
use super::oracle::Oracle;
use super::trace::Note;
use moso_shard::Role;
use std::collections::{BTreeMap, BTreeSet};

/// An invariant that was violated.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub detail: String,
}

/// Result of a check.
pub type Check = Result<(), Violation>;

impl Violation {
    /// A violation as an error.
    #[allow(clippy::new_ret_no_self)]
    pub fn new<T>(invariant: &'static str, detail: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { invariant, detail: detail.into() })
    }
}

/// Fails with the invariant's name unless the condition holds.
#[macro_export]
macro_rules! ensure_that {
    ($invariant:expr, $holds:expr, $($text:tt)+) => {
        if !$holds {
            return $crate::sim::watch::Violation::new($invariant, format!($($text)+));
        }
    };
}

/// A leadership that serves.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Node.
    pub node: usize,
    /// Since when, in the node's waking time.
    pub awake_ms: u64,
}

/// Everything that is watched.
pub struct Watch {
    oracles: BTreeMap<u16, Oracle>,
    /// Leading replica of each term of each shard.
    leaders: BTreeMap<(u16, u64), u64>,
    /// Replicas that were destroyed or lost: shard, id.
    buried: BTreeSet<(u16, u64)>,
    /// Those of them that were destroyed for not being wanted.
    destroyed: BTreeSet<(u16, u64)>,
    /// Commit index last seen of each running replica.
    commits: BTreeMap<(usize, u16), u64>,
    /// Time that each node was paused, short pauses aside.
    paused_ms: Vec<u64>,
    /// Leaderships that serve or served.
    pub serving: BTreeMap<(u16, u64), Serving>,
    /// When a promise not to vote was last broken: a replica was opened, or asked to campaign. True time.
    disturbed_ms: u64,
}

impl Watch {
    /// Watches so many nodes and shards.
    pub fn new(nodes: usize, shards: u16) -> Watch {
        Watch {
            oracles: (1..=shards).map(|shard| (shard, Oracle::new(shard))).collect(),
            leaders: BTreeMap::new(),
            buried: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            commits: BTreeMap::new(),
            paused_ms: vec![0; nodes],
            serving: BTreeMap::new(),
            disturbed_ms: 0,
        }
    }

    /// The oracle of a shard.
    pub fn oracle(&self, shard: u16) -> &Oracle {
        &self.oracles[&shard]
    }

    /// The oracle of a shard, and the leaderships seen.
    pub fn oracle_mut(&mut self, shard: u16) -> (&mut Oracle, Leaderships<'_>) {
        let oracle = self.oracles.get_mut(&shard).expect("shards are fixed");
        let leaderships = Leaderships { serving: &self.serving, paused_ms: &self.paused_ms };
        (oracle, leaderships)
    }

    /// A node was paused for so long.
    pub fn paused(&mut self, node: usize, ms: u64) {
        self.paused_ms[node] += ms;
    }

    /// True time less the time that the node was paused.
    pub fn awake_ms(&self, node: usize, now_ms: u64) -> u64 {
        now_ms - self.paused_ms[node]
    }

    /// A replica was opened: not one whose data is gone.
    pub fn opened(&mut self, node: usize, key: Key, now_ms: u64) -> Check {
        ensure_that!(
            "L6 an identity is never used twice",
            !self.buried.contains(&key),
            "node {node} opens shard {} replica {:x} again",
            key.0,
            key.1
        );
        self.commits.remove(&(node, key.0));
        self.disturbed(now_ms);
        Ok(())
    }

    /// A replica's data was lost.
    pub fn lost(&mut self, key: Key) {
        self.buried.insert(key);
    }

    /// A node destroys a replica: none that its group counts on.
    pub fn destroyed(&mut self, key: Key) -> Check {
        let members = self.oracles[&key.0].members.newest();
        let lost = !self.buried.insert(key);
        if !lost {
            self.destroyed.insert(key);
        }
        ensure_that!(
            "a member is not destroyed",
            lost || !members.names(key.1),
            "shard {} replica {:x} of {members:x?}",
            key.0,
            key.1
        );
        Ok(())
    }

    /// A group has these voters: none that was destroyed counts.
    pub fn check_voters(&self, shard: u16, voters: &[u64]) -> Check {
        let gone = voters.iter().find(|peer| self.destroyed.contains(&(shard, **peer)));
        ensure_that!("what was destroyed is not counted on", gone.is_none(), "shard {shard}: {gone:x?} votes again");
        Ok(())
    }

    /// A wish is said to be fulfilled. Whatever crashes now, a majority of the members knows it, and no member is without
    /// state. `known` says what the disk of a replica knows to be committed.
    pub fn settled(&self, shard: u16, wanted: &BTreeSet<u64>, mut known: impl FnMut(Key) -> u64) -> Check {
        let members = &self.oracles[&shard].members;
        if *wanted != members.newest().voters || members.is_news(members.change_before(u64::MAX)) {
            // The next change is under way.
            return Ok(());
        }
        let change = members.voters_since();
        let kept: Vec<u64> = wanted.iter().copied().filter(|peer| !self.buried.contains(&(shard, *peer))).collect();
        let known: Vec<(u64, u64)> = kept.into_iter().map(|peer| (peer, known((shard, peer)))).collect();
        ensure_that!(
            "no member is without state",
            known.iter().all(|(_, index)| *index > 0),
            "shard {shard}: what is known to be committed: {known:x?}"
        );
        ensure_that!(
            "what is settled stays settled",
            known.iter().filter(|(_, index)| *index >= change).count() > wanted.len() / 2,
            "shard {shard}: entry {change} made the members; what is known to be committed: {known:x?}"
        );
        Ok(())
    }

    /// A leadership begins to serve. Whoever was removed can do so only in a term that is over.
    pub fn begins(&self, key: Key, term: u64) -> Check {
        let newest = self.leaders.range((key.0, 0)..=(key.0, u64::MAX)).next_back();
        let members = self.oracles[&key.0].members.newest();
        ensure_that!(
            "a removed replica never serves",
            newest.is_some_and(|((_, newest), _)| *newest > term) || members.names(key.1),
            "shard {} replica {:x} serves in term {term}, the members are {members:x?}",
            key.0,
            key.1
        );
        Ok(())
    }

    /// A replica was opened, which forgets its promise not to vote, or will be told to campaign.
    pub fn disturbed(&mut self, now_ms: u64) {
        self.disturbed_ms = now_ms;
    }

    /// A leader that answers heartbeats is sure that nobody else leads. True unless promises were broken.
    pub fn check_sure(&self, env: &Env, shard: u16, term: u64) -> Check {
        let newest = self.leaders.range((shard, 0)..=(shard, u64::MAX)).next_back();
        let newest_term = newest.map_or(0, |((_, term), _)| *term);
        ensure_that!(
            "a sure leader is the only one",
            newest_term <= term || env.now_ms < self.disturbed_ms + 3 * env.plan.election_ms(),
            "shard {shard}: a heartbeat is acknowledged in term {term}, while term {newest_term} has a leader"
        );
        Ok(())
    }

    /// Commit indexes never go back.
    pub fn committed(&mut self, node: usize, shard: u16, index: u64) -> Check {
        let last = self.commits.entry((node, shard)).or_default();
        ensure_that!("I12 commit monotonic", index >= *last, "node {node} shard {shard}: {index} after {last}");
        *last = index;
        Ok(())
    }

    /// A replica's role. `has` says whether its log holds an entry of this term at this index.
    pub fn role(
        &mut self,
        env: &mut Env,
        node: usize,
        (shard, peer): Key,
        role: Role,
        has: impl Fn(u64, u64) -> bool,
    ) -> Check {
        let Role::Leader { term } = role else {
            return Ok(());
        };
        match self.leaders.insert((shard, term), peer) {
            Some(before) if before == peer => return Ok(()),
            Some(before) => {
                return Violation::new(
                    "I12 election safety",
                    format!("shard {shard} term {term}: led by {before:x} and {peer:x}"),
                );
            }
            None => {}
        }
        env.cover.count("raft: leaders");
        env.note(Note::Role { node, shard, term, leads: true });
        for (index, entry_term) in self.oracles[&shard].newest_committed(50) {
            ensure_that!(
                "I12 leader completeness",
                entry_term > term || has(index, entry_term),
                "node {node} leads shard {shard} in term {term}, but lacks entry {index} of term {entry_term}"
            );
        }
        Ok(())
    }

    /// Number of leaders that shards ever had.
    pub fn elections(&self) -> usize {
        self.leaders.len()
    }
}

/// What was seen of leaderships.
pub struct Leaderships<'a> {
    serving: &'a BTreeMap<(u16, u64), Serving>,
    paused_ms: &'a [u64],
}

impl Leaderships<'_> {
    /// Who serves or served in this term.
    pub fn serving(&self, shard: u16, term: u64) -> Option<Serving> {
        self.serving.get(&(shard, term)).copied()
    }

    /// True time less the time that the node was paused.
    pub fn awake_ms(&self, node: usize, now_ms: u64) -> u64 {
        now_ms - self.paused_ms[node]
    }
}
