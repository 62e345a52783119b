//! The lock-free parts under schedulers that choose who goes on: many random orders, and some drawn to reverse few steps;
//! for the smallest cases, under loom, all of them. The real ones are run by real threads beside it.

#![allow(clippy::unwrap_used)]

#[path = "models/inbox.rs"]
mod inbox;
#[path = "models/index.rs"]
mod index;
#[path = "models/waiting.rs"]
mod waiting;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Runs a model in so many random orders, and as many that reverse the order of few steps.
fn orders(runs: usize, model: impl Fn() + Send + Sync + Copy + 'static) {
    Runner::new(RandomScheduler::new(runs), Config::default()).run(model);
    Runner::new(PctScheduler::new(3, runs), Config::default()).run(model);
}

/// Runs a model that is wrong, in always the same orders: among them are some in which it shows.
fn found_out(model: impl Fn() + Send + Sync + 'static) {
    Runner::new(PctScheduler::new_from_seed(1, 3, 100_000), Config::default()).run(model);
}
