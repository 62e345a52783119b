//! The public words of moso: identifiers, job states, error codes, the operator's objects and the gRPC messages.
//!
//! Without features this crate is pure types; `messages` adds the protobuf messages, `client` and `server` the
//! tonic stubs, `tokens` the making and checking of tokens.

pub mod backup;
pub mod code;
#[cfg(any(feature = "client", feature = "server"))]
pub mod codec;
pub mod grant;
pub mod id;
pub mod level;
pub mod object;
pub mod secret;
pub mod setting;
#[cfg(feature = "messages")]
pub mod shape;
pub mod shards;
pub mod state;
#[cfg(feature = "tokens")]
pub mod token;
pub mod view;

pub use code::Code;
pub use id::{JobId, ShardId, TaskId};
pub use secret::Secret;
pub use state::{JobState, TaskState};

/// Messages and service stubs generated from `proto/*.proto`; the comments there are the API's reference.
#[cfg(feature = "messages")]
#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/moso.v1.rs"));
}

/// Largest gRPC message either side accepts, in bytes: a full submission (4 MiB of bodies) or a full lease reply, twice.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Metadata key of [`Code`] in an error status.
pub const META_CODE: &str = "moso-code";
/// Metadata key of the milliseconds after which a retry may succeed.
pub const META_RETRY_AFTER: &str = "moso-retry-after-ms";
/// Metadata key of the address of the node that leads the shard.
pub const META_LEADER: &str = "moso-leader";
