//! Limits of the front, each with its unit and reason.

use crate::config::Config;
use std::time::Duration;

/// Times that the configuration of a node says.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a request's body to arrive; a slower one is cut off (`panda_body_s`).
    pub body: Duration,
    /// How long an upload is kept (`panda_upload_s`).
    pub upload_life: Duration,
}

impl Times {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let seconds = Duration::from_secs;
        Times { body: seconds(config.panda_body_s), upload_life: seconds(config.panda_upload_s) }
    }

    /// [`Times::upload_life`], ms.
    pub fn upload_life_ms(&self) -> u64 {
        self.upload_life.as_millis() as u64
    }
}

/// Bytes of a request's body, and of what it inflates to: a job report of a pilot is up to some MiB. Uploads have their own.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// Bodies larger than this are read a few at a time.
pub const SMALL_BODY_BYTES: usize = 64 << 10;
/// Bodies larger than [`SMALL_BODY_BYTES`] read at once: with what they inflate to, they hold this many times 32 MiB.
pub const LARGE_BODIES_MAX: usize = 16;
/// Time for a request's head to arrive, also the first on a connection.
pub const HEAD_TIME: Duration = Duration::from_secs(30);
/// Time for a call to be answered; a pilot waits 120 s.
pub const CALL_TIME: Duration = Duration::from_secs(90);
/// Bytes of a request's head.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Connections open at once: each is a socket, and a few KiB while idle.
pub const CONNECTIONS_MAX: usize = 50_000;
/// Jobs in one request for jobs.
pub const ACQUIRE_JOBS_MAX: i64 = 200;
/// Jobs in one bulk update, and ids in one question.
pub const BULK_MAX: usize = 2_000;
/// How long an update waits for the leader of its job's shard: with it a pilot's time-out of 120 s is not reached.
pub const LEADER_TIME: Duration = Duration::from_secs(45);
/// Bytes of what a debug command printed: the rest is cut off at the front.
pub const DEBUG_BYTES_MAX: usize = 32 << 10;
/// Bytes of a debug command.
pub const COMMAND_BYTES_MAX: usize = 250;
/// Bytes of a task's parameters: they are the body of its jobs and an object of the meta group.
pub const TASK_BYTES_MAX: usize = 48 << 10;
/// Bytes of a user's secrets: one object (PanDA: below 1 MB).
pub const SECRETS_BYTES_MAX: usize = 60 << 10;
/// Bytes of a sandbox with what is to be built (PanDA: 768 MB).
pub const SOURCES_BYTES_MAX: u64 = 768 << 20;
/// Bytes of a sandbox without (PanDA: 10 MB).
pub const SANDBOX_BYTES_MAX: u64 = 10 << 20;
/// Bytes of another upload: a log (PanDA: 100 MB).
pub const LOG_BYTES_MAX: u64 = 100 << 20;
/// How long a debug command is kept after its job's end, ms.
pub const DEBUG_LIFE_MS: u64 = 7 * 86_400_000;
/// How long a task of a client is remembered after its last change, ms (what `pbook` shows: 14 days).
pub const TASK_LIFE_MS: u64 = 14 * 86_400_000;
/// Uploads under way at once: each may be hundreds of MiB on the disk.
pub const UPLOADS_MAX: usize = 8;
/// Bytes of an upload in one call between nodes.
pub const PART_BYTES: usize = 1 << 20;
/// Time for an upload to arrive.
pub const UPLOAD_TIME: Duration = Duration::from_secs(600);
/// An upload that is behind so many bytes a second, for longer than [`UPLOAD_BEHIND`], is cut off: it takes a place of few.
pub const UPLOAD_BYTES_PER_S: u64 = 32 << 10;
/// See [`UPLOAD_BYTES_PER_S`].
pub const UPLOAD_BEHIND: Duration = Duration::from_secs(15);
