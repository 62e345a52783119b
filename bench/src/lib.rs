//! What a replay reads: traces, and the workload made of them.

pub mod swf;
pub mod workload;
