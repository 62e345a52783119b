//! Tests of a replica among others, without threads, disk or clock.

mod cluster;
mod core;
mod elections;
mod hostile;
mod hung_disk;
mod replication;
mod restart;
mod snapshots;
mod wire;
