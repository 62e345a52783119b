//! Fuzzing: a target is a plain function that takes any bytes and panics if a decoder, or what stands behind it, does
//! not keep what it promises. The runner in `src/bin/fuzz.rs` and libFuzzer (`tests/fuzz`) call the same functions.
//!
//! ```text
//! engine.rs mutate.rs    the runner's loop, and how inputs are changed
//! input.rs reached.rs    what targets use: an input as a script; what an input reached
//! peers.rs raft.rs trio.rs      bytes of other nodes
//! commands.rs records.rs meta.rs     the log's commands and stored records
//! store.rs files.rs      the segments of the log, values, keys, files
//! api.rs wellformed.rs   requests and answers of the API: of any bytes, and valid ones of any contents
//! tokens.rs              tokens, key sets and the documents of issuers
//! ```
//!
//! Where a checksum guards the bytes, a target computes it: otherwise no changed input would come past it.

mod api;
mod commands;
pub mod engine;
mod files;
mod input;
mod meta;
mod mutate;
mod peers;
mod raft;
mod reached;
mod records;
mod store;
mod tokens;
mod trio;
mod wellformed;

pub use reached::{take, taken};
pub use wellformed::random_message;

use crate::samples;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: of the folder of its corpus, and of its libFuzzer target.
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that it may hold at once whatever the input: what it always builds. Beside it, [`BYTES_PER_BYTE`].
    pub base_bytes: usize,
}

/// Bytes that a target may hold at once for each byte of its input: the widest decoded item, a job of a submission,
/// takes some 100 bytes for 5, held twice while a list grows and copied by the checks.
pub const BYTES_PER_BYTE: usize = 200;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>, base_bytes: usize) -> Target {
    Target { name, run, seeds, base_bytes }
}

/// All targets.
pub const ALL: [Target; 26] = [
    target("peer_stranger", peers::stranger, peers::stream_seeds, 256 * KIB),
    target("peer_stream", peers::stream, peers::stream_seeds, MIB),
    target("peer_frame", peers::frame, peers::frame_seeds, 256 * KIB),
    target("peer_call", peers::call, peers::call_seeds, 256 * KIB),
    target("peer_hints", peers::hints, peers::hint_seeds, 256 * KIB),
    target("raft_wire", raft::wire, raft::wire_seeds, 64 * KIB),
    target("raft_step", raft::step, raft::step_seeds, MIB),
    target("command", commands::command, commands::command_seeds, 64 * KIB),
    target("entry", commands::entry, commands::entry_seeds, 64 * KIB),
    target("machine_apply", commands::apply, commands::apply_seeds, MIB),
    target("record", records::record, records::record_seeds, 64 * KIB),
    target("machine_load", records::load, records::load_seeds, 8 * MIB),
    target("store_value", store::value, store::value_seeds, 64 * KIB),
    target("store_key", store::key, store::key_seeds, 64 * KIB),
    target("log_segments", store::segments, store::segment_seeds, MIB),
    target("identity", files::identity, files::identity_seeds, 256 * KIB),
    target("config", files::config, files::config_seeds, 512 * KIB),
    target("trace", files::trace, files::trace_seeds, 256 * KIB),
    target("meta_command", meta::command, meta::command_seeds, MIB),
    target("meta_record", meta::record, meta::record_seeds, MIB),
    target("api_submit", api::submit, api::submit_seeds, 64 * KIB),
    target("api_worker", api::worker, api::worker_seeds, 64 * KIB),
    target("api_select", api::select, api::select_seeds, 512 * KIB),
    target("api_message", api::message, api::message_seeds, 64 * KIB),
    // A message may hold bodies that its input only names.
    target("api_call", api::call, api::call_seeds, 16 * MIB),
    target("token", tokens::token, tokens::token_seeds, 256 * KIB),
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}

/// Runs the target of this name, for libFuzzer.
///
/// # Panics
/// If there is none, and if the target finds something.
pub fn run(name: &str, data: &[u8]) {
    let target = find(name).unwrap_or_else(|| panic!("there is no target {name:?}"));
    (target.run)(data);
}

/// The bytes of all samples of a kind.
fn seeds_of(kinds: &[&str]) -> Vec<Vec<u8>> {
    samples::all().into_iter().filter(|sample| kinds.contains(&sample.kind())).map(|sample| sample.bytes).collect()
}
