//! Whether there is room for a submission.

use super::JobsApi;
use crate::live::Over;
use crate::request::Fault;
use moso_proto::{Code, ShardId, setting};
use moso_queue::meta::MetaView;

/// When who has too many live jobs may come again, ms.
const LIVE_RETRY_MS: u32 = 5_000;

impl JobsApi {
    /// Whether a user may have so many live jobs more.
    pub(super) fn live_room(&self, meta: &MetaView, owner: &str, jobs: u64) -> Result<(), Fault> {
        let cap = meta.user(owner).max_live;
        if cap == 0 {
            return Ok(());
        }
        let directory = &self.router.directory;
        let live = directory.usage.load().user_live.get(owner).copied().unwrap_or(0);
        let over = directory.live.admit(owner, cap, live, jobs, self.clock.mono_ms());
        over.map_err(|over| match over {
            Over::Ever => {
                let text = format!("{jobs} jobs are more than user {owner} may have at once, which is {cap}: submit fewer");
                Fault::new(Code::TooLarge, text)
            }
            Over::Now(has) => {
                self.guard.rejections().count("live jobs", owner);
                let text = format!(
                    "user {owner} has {has} jobs that have not ended, with {jobs} more it would be over the limit of {cap}: \
                     come back when some have ended"
                );
                Fault { retry_after_ms: LIVE_RETRY_MS, ..Fault::new(Code::Busy, text) }
            }
        })
    }

    /// Whether the shard has room for more jobs.
    pub(super) fn room(&self, shard: ShardId, meta: &MetaView) -> Result<(), Fault> {
        let live = self.router.directory.shard(shard.0).map_or(0, |s| s.status.load().live);
        let max = meta.setting(&setting::SHARD_JOBS_MAX);
        if live < max {
            return Ok(());
        }
        Err(Fault {
            retry_after_ms: 5_000,
            ..Fault::new(Code::Busy, format!("shard {shard} holds {live} jobs, the limit is {max}: come back later"))
        })
    }
}
