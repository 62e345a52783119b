//! Caps on users' live jobs: those that have not ended, waiting or running.
//!
//! Each leader counts its shards' live jobs of users that have a cap, every 200 ms by classes; nodes tell each other every
//! 100 ms. So a node decides by figures that are up to 400 ms old, and by what it let in itself since then. What others let
//! in meanwhile it does not know: a user may come to have more than the cap by what the cluster takes from him in 400 ms at
//! other nodes. Nobody has fewer for long: after a second only the figures count.

use moso_queue::meta::MetaView;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// What a node let in counts for one to two of these, ms: until the figures have it.
const WINDOW_MS: u64 = 500;
/// Users whose submissions are counted until then; more only where anybody may give himself any name.
const USERS_MAX: usize = 50_000;
/// Bytes of a user's name.
const NAME_BYTES_MAX: usize = moso_queue::limits::NAME_BYTES_MAX;

/// Jobs by user.
pub type ByUser = BTreeMap<String, u64>;

/// Jobs let in lately.
#[derive(Clone, Copy, Debug, Default)]
struct Lately {
    /// Number of the window in which the last was let in.
    window: u64,
    jobs: u64,
    /// In the window before.
    before: u64,
}

impl Lately {
    fn at(self, window: u64) -> Lately {
        match window.saturating_sub(self.window) {
            0 => self,
            1 => Lately { window, jobs: 0, before: self.jobs },
            _ => Lately { window, jobs: 0, before: 0 },
        }
    }
}

/// What other nodes told of live jobs, and what this one let in lately.
#[derive(Debug, Default)]
pub struct LiveJobs {
    told: Mutex<BTreeMap<u32, ByUser>>,
    lately: Mutex<BTreeMap<String, Lately>>,
}

/// Why a submission is over the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The user has so many jobs now: later there may be room.
    Now(u64),
    /// It is more than he may ever have.
    Ever,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this lock")
}

/// Whether any user has a cap: without one nothing is counted, and nothing told.
pub fn is_any_capped(meta: &MetaView) -> bool {
    meta.user("*").max_live > 0 || meta.users().any(|entry| entry.user.max_live > 0)
}

impl LiveJobs {
    /// Another node told what it counts; nodes are those that were let in.
    pub fn heard(&self, from: u32, mut jobs: ByUser) {
        jobs.retain(|user, _| user.len() <= NAME_BYTES_MAX);
        lock(&self.told).insert(from, jobs);
    }

    /// Adds what the nodes told that `is_up` says are there: what others led is led, and counted, elsewhere by now.
    pub fn add_told(&self, sum: &mut ByUser, is_up: impl Fn(u32) -> bool) {
        for (_, jobs) in lock(&self.told).iter().filter(|(node, _)| is_up(**node)) {
            for (user, n) in jobs {
                let all = sum.entry(user.clone()).or_default();
                *all = all.saturating_add(*n);
            }
        }
    }

    /// Lets so many jobs of a user in, who may have `cap` and has `live` by the figures; 0: no cap.
    ///
    /// # Errors
    /// When they are too many.
    pub fn admit(&self, user: &str, cap: u64, live: u64, jobs: u64, now_ms: u64) -> Result<(), Over> {
        if cap == 0 {
            return Ok(());
        }
        if jobs > cap {
            return Err(Over::Ever);
        }
        let window = now_ms / WINDOW_MS;
        let mut all = lock(&self.lately);
        if all.len() >= USERS_MAX && !all.contains_key(user) {
            all.retain(|_, lately| window.saturating_sub(lately.window) < 2);
            if all.len() >= USERS_MAX {
                return Err(Over::Now(live));
            }
        }
        let lately = all.entry(user.to_owned()).or_default();
        *lately = lately.at(window);
        let has = live.saturating_add(lately.jobs).saturating_add(lately.before);
        if has.saturating_add(jobs) > cap {
            return Err(Over::Now(has));
        }
        lately.jobs += jobs;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_let_in_counts_until_the_figures_have_it() {
        let live = LiveJobs::default();
        assert_eq!(live.admit("ann", 10, 0, 6, 1_000), Ok(()));
        assert_eq!(live.admit("ann", 10, 0, 5, 1_100), Err(Over::Now(6)), "the figures do not have them yet");
        assert_eq!(live.admit("ann", 10, 0, 4, 1_100), Ok(()));
        assert_eq!(live.admit("ann", 10, 0, 1, 1_999), Err(Over::Now(10)));
        assert_eq!(live.admit("bob", 10, 0, 10, 1_999), Ok(()), "each has his own");
        // Long enough after, only the figures count: some have ended.
        assert_eq!(live.admit("ann", 10, 7, 4, 2_500), Err(Over::Now(7)));
        assert_eq!(live.admit("ann", 10, 7, 3, 2_500), Ok(()));
    }

    #[test]
    fn no_cap_is_no_bound_and_more_than_the_cap_never_fits() {
        let live = LiveJobs::default();
        assert_eq!(live.admit("ann", 0, u64::MAX, u64::MAX, 0), Ok(()));
        assert_eq!(live.admit("ann", 10, 0, 11, 0), Err(Over::Ever));
        assert_eq!(live.admit("ann", 10, u64::MAX, 1, 0), Err(Over::Now(u64::MAX)));
    }

    #[test]
    fn nodes_that_are_down_do_not_count() {
        let live = LiveJobs::default();
        live.heard(2, [("ann".to_owned(), 5)].into());
        live.heard(3, [("ann".to_owned(), u64::MAX), ("x".repeat(10_000), 1)].into());
        let mut sum = ByUser::from([("ann".to_owned(), 1)]);
        live.add_told(&mut sum, |node| node == 2);
        assert_eq!(sum, [("ann".to_owned(), 6)].into());
        live.add_told(&mut sum, |node| node == 3);
        assert_eq!(sum, [("ann".to_owned(), u64::MAX)].into());
    }
}
