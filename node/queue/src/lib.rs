//! What may happen to a job, a task and a share: the replicated state machine of a shard, and the leader's index of
//! jobs that are ready.
//!
//! Pure: no clock, no I/O, no randomness, no unordered iteration. Every replica applies the same commands in the same
//! order and holds equal state ([`Machine::digest`]). Time comes in the command, stamped by the leader.
//!
//! ```text
//! command.rs   every replicated command; command/encoding.rs its bytes; entry.rs a batch of them
//! machine/     apply: one short function per command; effects say what to write, wake and tell
//! unwritten.rs what was applied and the store does not hold yet
//! job.rs task.rs class.rs   the records; slots.rs the table of live jobs; dependencies.rs who waits for whom
//! ready.rs     the leader's lock-free index: queue -> share -> priority -> class -> FIFO
//! filter.rs    does a worker fit a class (PanDA's getJob filters); share.rs the order of shares
//! meta/        the meta group's machine: queues, shares, users, settings, nodes
//! check.rs     all invariants, for tests and for the verification of a stopped store
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod check;
pub mod class;
pub mod codec;
pub mod command;
pub mod dependencies;
pub mod effect;
pub mod entry;
pub mod error;
pub mod filter;
pub mod job;
pub mod limits;
pub mod machine;
pub mod meta;
pub mod ready;
pub mod share;
pub mod slots;
mod sync;
pub mod task;
pub mod unwritten;

pub use class::{Class, ClassId, ClassKey};
pub use command::{Command, Reply};
pub use effect::Effects;
pub use error::{Error, Refusal};
pub use job::{Job, Reason};
pub use machine::Machine;
pub use ready::ReadyIndex;
pub use task::Task;
pub use unwritten::Unwritten;
