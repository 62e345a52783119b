//! What can be left out of a seed's plan, and the search for the least that still fails.

use super::faults::FaultKind;
use super::plan::Plan;
use super::{Case, Failure, run_case};

/// Courses of chance that are tried with each trimmed plan: whatever is left out, all that follows is drawn otherwise.
const SALTS: u64 = 6;
/// Runs of a search at most.
const RUNS_MAX: usize = 600;

type Trim = (&'static str, fn(&mut Plan));

/// From what shortens most to what only makes it easier to read.
const TRIMS: [Trim; 17] = [
    ("half", |plan| plan.faulty_ms /= 2),
    ("one-shard", |plan| plan.shards = 1),
    ("no-wishes", |plan| plan.wish_ms = None),
    ("no-operators", |plan| plan.clients.operators = 0),
    ("one-submitter", |plan| plan.clients.submitters = 1),
    ("one-worker", |plan| plan.clients.workers = 1),
    ("plain-copies", |plan| {
        let copies = &mut plan.copies;
        (copies.lost, copies.cut, copies.twice, copies.crash) = (0.0, 0.0, 0.0, 0.0);
    }),
    ("plain-network", |plan| {
        let network = &mut plan.network;
        (network.slow, network.loss, network.duplicates, network.ordered) = (0.0, 0.0, 0.0, true);
    }),
    ("prompt-meta", |plan| plan.meta_ms = (0, 50)),
    ("no-deaths", |plan| plan.clients.deaths = 0),
    ("no-repeats", |plan| plan.clients.repeats = 0.0),
    ("no-forgeries", |plan| plan.clients.forgeries = 0),
    ("no-failures", |plan| plan.clients.failures = 0.0),
    ("no-floods", |plan| plan.clients.floods = false),
    ("no-time-outs", |plan| plan.timeouts_s = None),
    ("no-drift", |plan| plan.drift_ppm = 0),
    ("small-tasks", |plan| (plan.clients.jobs_max, plan.clients.array_max) = (1, 1)),
];

/// Leaves something out of a plan; `false`: there is no such thing, or it is not in it.
pub fn apply(plan: &mut Plan, what: &str) -> bool {
    let before = format!("{plan:?}");
    if let Some((_, trim)) = TRIMS.iter().find(|(name, _)| *name == what) {
        trim(plan);
    } else {
        plan.faults.retain(|kind| fault_name(*kind) != what);
    }
    plan.faulty_ms >= 500 && before != format!("{plan:?}")
}

fn fault_name(kind: FaultKind) -> String {
    format!("no-{kind:?}")
}

/// The least of a failing case that fails by the same invariant.
pub fn minimise(case: &Case, failure: Failure) -> (Case, Failure) {
    let (mut least, mut found) = (case.clone(), failure);
    let mut runs = 0;
    let names: Vec<String> =
        TRIMS.iter().map(|(name, _)| (*name).to_owned()).chain(FaultKind::ALL.into_iter().map(fault_name)).collect();
    let mut again = true;
    while again {
        again = false;
        for name in &names {
            let mut trimmed = least.clone();
            trimmed.trims.push(name.clone());
            if !trimmed.is_smaller() {
                continue;
            }
            for salt in 0..SALTS {
                if runs >= RUNS_MAX {
                    return (least, found);
                }
                runs += 1;
                trimmed.salt = salt;
                let failure = run_case(&trimmed, false).failure;
                if let Some(failure) = failure.filter(|failure| failure.invariant() == found.invariant()) {
                    (least, found, again) = (trimmed, failure, true);
                    break;
                }
            }
        }
    }
    (least, found)
}
