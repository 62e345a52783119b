//! Tests that need more than one crate. [`sim`] drives shards under faults in virtual time.

pub mod sim;
