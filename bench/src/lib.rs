//! What a replay reads: traces, and the workload made of them. And HTTP/2 by hand, for clients that do not keep to it.

pub mod raw;
pub mod swf;
pub mod workload;
