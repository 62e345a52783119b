//! Limits of the client, each with its unit and its reason.

use std::time::Duration;

/// Longest wait of a lease request: the nodes' own limit. Longer would keep a dead worker's request parked.
pub const LEASE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Last bytes of a job's output that go with its result: what every replica keeps per ended job.
pub const OUTPUT_BYTES_MAX: usize = 4 * 1024;

/// Errors that go with one result: a job that fails in more ways is understood from the first.
pub const ERRORS_MAX: usize = 16;

/// Bytes of an error's text: a line for people, not a log.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// Results in one frame: with full outputs 4 MiB, well below the largest message.
pub const FRAME_RESULTS_MAX: usize = 1_000;

/// Results of a session sent and not acknowledged: with full outputs 400 MiB of memory. More are refused as busy.
pub const UNACKED_MAX: usize = 100_000;

/// Frames of a session queued for the network: enough for a turn of 60,000 results, after which senders wait.
pub const FRAMES_QUEUED_MAX: usize = 64;

/// Frames kept aside while [`Session::lease`](crate::Session::lease) or
/// [`Session::report`](crate::Session::report) waits for its answer. A node never sends so many unasked.
pub const FRAMES_ASIDE_MAX: usize = 1_024;

/// Nodes a client keeps a connection to: the largest cluster has fewer.
pub const NODES_MAX: usize = 1_024;

/// Heartbeats of a worker that wait for their answer; older ones no longer confirm anything.
pub const HEARTBEATS_OPEN_MAX: usize = 64;

/// Bytes of a submission that goes on the stream it shares with others; a larger one has a call of its own, since it
/// would keep them waiting.
pub const SUBMISSION_SHARED_BYTES_MAX: usize = 16 * 1024;

/// Submissions in one frame, and bytes of them, beyond which none is added: about what a node takes in one turn.
pub const SUBMISSIONS_FRAME_MAX: usize = 512;
/// See [`SUBMISSIONS_FRAME_MAX`].
pub const SUBMISSIONS_FRAME_BYTES: usize = 256 * 1024;

/// Submissions that wait for a frame; callers beyond that wait for room.
pub const SUBMISSIONS_QUEUED_MAX: usize = 1_024;
