//! The lock-free parts, compiled from the same sources as in a node, but for what they are made of: `sync.rs` of their
//! crates is another one here. `tests/models.rs` runs them.
//!
//! - [`scheduled`]: under shuttle, which decides at each step which thread goes on. Queues, maps and atomics are stand-ins
//!   that do each operation at once and in full, as the real ones promise to.
//! - [`ordered`]: under loom, which also tries what weakly ordered memory may do. Only for what rests on fences.

// One source with two kinds of stand-ins is the point.
#![allow(clippy::duplicate_mod)]

pub mod ordered;
pub mod scheduled;
