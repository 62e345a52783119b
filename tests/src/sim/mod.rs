//! A deterministic simulator of shards: nodes with several replicas, their disks, clocks and network, and the clients,
//! on one thread, in virtual time, from one seed. The same seed gives the same run, event by event.
//!
//! What is real: `moso-shard`'s core (Raft, leases, batching) and `moso-queue`'s machine and ready index, driven in
//! the order in which the node's reactor drives them. What is simulated: everything that touches the world.
//!
//! ```text
//! plan.rs      what a seed does: sizes, speeds, kinds of fault; drawn anew for each seed
//! env.rs event.rs network.rs faults.rs      virtual time, chance, links, what goes wrong
//! log.rs state.rs folders.rs      disks: un-synced writes and un-flushed batches are lost in a crash
//! node.rs group.rs group/         the reactor's loop and a shard's turn, snapshots
//! meta.rs planner.rs   what members the shards should have, and who changes it
//! calls.rs submitter.rs worker.rs operator.rs history.rs      clients, and what they were told
//! oracle.rs rules.rs members_log.rs watch.rs      the invariants
//! trace.rs words.rs coverage.rs trim.rs      what happened, how often, and the least that still does
//! world.rs     the run: faults first, then calm, in which all work must get done
//! ```

mod calls;
mod coverage;
mod env;
mod event;
mod faults;
mod folders;
mod group;
mod history;
mod log;
mod manager;
mod members_log;
mod meta;
mod network;
mod node;
mod operator;
mod oracle;
mod plan;
mod planner;
mod rules;
mod state;
mod submitter;
mod trace;
mod trim;
pub mod watch;
mod words;
mod worker;
mod world;

pub use coverage::Coverage;
use plan::Plan;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use watch::Violation;
use world::World;

pub use trim::minimise;

/// A run: a seed, and what is left out of its plan.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// Draws the plan.
    pub seed: u64,
    /// Another course of chance under the same plan.
    pub salt: u64,
    /// Names of what is left out.
    pub trims: Vec<String>,
}

impl Case {
    /// All of a seed.
    pub fn of(seed: u64) -> Case {
        Case { seed, ..Case::default() }
    }

    /// The plan, and the chance that it leaves.
    fn draw(&self) -> (Plan, SmallRng) {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let mut plan = Plan::draw(&mut rng);
        for what in &self.trims {
            trim::apply(&mut plan, what);
        }
        if self.salt > 0 {
            rng = SmallRng::seed_from_u64(self.seed ^ self.salt << 48);
        }
        (plan, rng)
    }

    /// Whether the newest trim left anything out.
    fn is_smaller(&self) -> bool {
        let Some((last, before)) = self.trims.split_last() else { return false };
        let (mut plan, _) = Case { trims: before.to_vec(), ..self.clone() }.draw();
        trim::apply(&mut plan, last)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seed {}", self.seed)?;
        if self.salt > 0 {
            write!(f, " --salt {}", self.salt)?;
        }
        if !self.trims.is_empty() {
            write!(f, " --trim {}", self.trims.join(","))?;
        }
        Ok(())
    }
}

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Fingerprint of all events.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// Length of the run in virtual time, ms.
    pub virtual_ms: u64,
    /// What was reached.
    pub coverage: Coverage,
    /// The invariant that was violated, and the newest events.
    pub failure: Option<Failure>,
}

/// An invariant was violated, or the code under test panicked.
#[derive(Debug)]
pub struct Failure {
    case: Case,
    violation: Violation,
    plan: String,
    tail: String,
    calls: String,
}

impl Failure {
    /// Name of the invariant.
    pub fn invariant(&self) -> &'static str {
        self.violation.invariant
    }

    /// In a line.
    pub fn summary(&self) -> String {
        format!("seed {}: {}: {}", self.case.seed, self.violation.invariant, self.violation.detail)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.tail, self.calls)?;
        writeln!(f, "plan: {}", self.plan)?;
        writeln!(f, "{}", self.summary())?;
        write!(f, "again: cargo run --release -p moso-tests --bin simulate -- {} --verbose", self.case)
    }
}

/// Runs a seed; `verbose` prints every event.
pub fn run(seed: u64, verbose: bool) -> Outcome {
    run_case(&Case::of(seed), verbose)
}

/// Runs a seed, or what is left of it.
pub fn run_case(case: &Case, verbose: bool) -> Outcome {
    let (plan, rng) = case.draw();
    let mut world = World::new(rng, plan, verbose);
    let plan = format!("{:?}", world.env.plan);
    if verbose {
        println!("plan: {plan}");
    }
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Violation::new("no panic", text.unwrap_or_default())
    });
    let env = &world.env;
    Outcome {
        seed: case.seed,
        hash: env.trace.hash(),
        events: env.trace.events(),
        virtual_ms: env.now_ms,
        coverage: env.cover.clone(),
        failure: result.err().map(|violation| Failure {
            case: case.clone(),
            violation,
            plan,
            tail: env.trace.tail(),
            calls: world.history.newest(20),
        }),
    }
}

/// Replica id: a node's, and how many it had before it, over all shards.
fn peer_at(node: usize, incarnation: u64) -> u64 {
    ((node as u64 + 1) << 32) | incarnation
}

fn incarnation_of(peer: u64) -> u64 {
    peer & u64::from(u32::MAX)
}

/// Node of a replica.
fn node_of(peer: u64) -> usize {
    (peer >> 32) as usize - 1
}
