//! A moso cluster on this machine: started, watched, disturbed and stopped by a program, for `moso up`, for load tests
//! and for tests; and the authority that makes a cluster's certificates and tokens.

pub mod ca;
pub mod local;

pub use local::{Credentials, LocalCluster, LocalError, LocalOptions, Surroundings};
