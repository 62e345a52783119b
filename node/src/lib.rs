//! A moso node: sockets, disk and clock around the pure crates `moso-queue` (what may happen to a job) and
//! `moso-shard` (how replicas agree on it). The architecture and the path of a job are in `node/README.md`.
//!
//! ```text
//! main.rs config.rs node.rs ports.rs open.rs   start, put together, serve, open what is on disk
//! salvage.rs                          without the replicas whose state is damaged
//! api/ http.rs handler.rs             gRPC, HTTP, calls of other nodes
//! gate/                               connections and calls bounded in number, time and bytes
//! router.rs dispatch.rs query.rs      to the shard's leader; lease requests; questions
//! directory.rs hints.rs waiting.rs sessions.rs   what threads share
//! reactor.rs group.rs meta_group.rs upkeep.rs    threads that own shards
//! log_writer.rs store/                the one log, the state of each replica
//! peer/ outbound.rs                   other nodes
//! disk/                               a disk that is full, or does not answer
//! offline/                            verifying and printing a stopped node's folder
//! snapshot/ backup/                   copies of states: to other nodes, to operators and back
//! identity/ tls/                      who calls, and what he may do; encrypted lines
//! panda/                              PanDA's REST: its pilots, clients and Harvester work unchanged
//! ```

pub mod api;
pub mod backup;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod directory;
pub mod disk;
pub mod dispatch;
pub mod error;
pub mod explain;
pub mod fault;
pub mod gate;
pub mod group;
pub mod handler;
pub mod hints;
pub mod http;
pub mod identity;
mod inner;
pub mod lease_ask;
pub mod limits;
pub mod live;
pub mod log_writer;
pub mod meta_group;
pub mod node;
pub mod offline;
pub mod open;
pub mod outbound;
pub mod panda;
pub mod peer;
pub mod placement;
pub mod ports;
pub mod query;
pub mod reactor;
mod repeats;
pub mod request;
pub mod resident;
pub mod router;
pub mod salvage;
pub mod sessions;
pub mod snapshot;
pub mod store;
mod sync;
pub mod tls;
pub mod upkeep;
pub mod usage;
pub mod views;
pub mod waiting;
