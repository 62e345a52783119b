//! A moso cluster on this machine: started, watched, disturbed and stopped by a program, for `moso up`, for load tests
//! and for tests.

pub mod local;

pub use local::{LocalCluster, LocalError, LocalOptions, Surroundings};
