//! Tests that need more than one crate. [`sim`] drives shards under faults in virtual time, [`fuzz`] feeds every decoder
//! with bytes that nobody wrote, [`samples`] has one of everything that is stored or sent, [`model`] tries out the
//! interleavings of what is lock-free, [`attack`] is everybody's enemy.

pub mod attack;
pub mod fuzz;
// The sources that it includes bring tests that are for their own crates.
#[cfg(not(test))]
pub mod model;
pub mod samples;
pub mod sim;
