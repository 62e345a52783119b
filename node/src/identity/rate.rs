//! How often a user may call: a token bucket for each.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Users with a bucket that is not full. One that is full is forgotten first, which changes nothing.
const BUCKETS_MAX: usize = 50_000;
/// A bucket holds what comes in so many seconds, so that a burst after a pause is served.
const BURST_S: u64 = 2;
/// Parts of a call.
const UNIT: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Thousandths of calls that are left.
    left: u64,
    at_ms: u64,
}

/// The buckets, by user.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Rates {
    /// Takes `cost` calls from the user's bucket, into which `per_s` come each second. `Err`: after how many ms to come
    /// back.
    pub fn take(&self, user: &str, per_s: u32, cost: u32, now_ms: u64) -> Result<(), u32> {
        let per_s = u64::from(per_s);
        let full = per_s * BURST_S * UNIT;
        // One that costs more than a bucket holds waits until it is full, and leaves it empty.
        let cost = (u64::from(cost) * UNIT).min(full);
        let mut buckets = self.buckets.lock().expect("no thread panics while it holds this lock");
        let filled = |bucket: Bucket| {
            let more = now_ms.saturating_sub(bucket.at_ms).min(1_000 * BURST_S) * per_s;
            Bucket { left: (bucket.left + more).min(full), at_ms: now_ms.max(bucket.at_ms) }
        };
        if !buckets.contains_key(user) {
            if buckets.len() >= BUCKETS_MAX {
                buckets.retain(|_, bucket| now_ms.saturating_sub(bucket.at_ms) < 1_000 * BURST_S);
            }
            if buckets.len() >= BUCKETS_MAX {
                return Ok(());
            }
            buckets.insert(user.to_owned(), Bucket { left: full, at_ms: now_ms });
        }
        let bucket = buckets.get_mut(user).expect("it was just looked for");
        *bucket = filled(*bucket);
        match bucket.left.checked_sub(cost) {
            Some(left) => {
                bucket.left = left;
                Ok(())
            }
            None => Err(((cost - bucket.left).div_ceil(per_s.max(1)) as u32).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let rates = Rates::default();
        assert!((0..20).all(|_| rates.take("anna", 10, 1, 1_000).is_ok()));
        assert_eq!(rates.take("anna", 10, 1, 1_000), Err(100));
        assert_eq!(rates.take("anna", 10, 1, 1_099), Err(1));
        assert!(rates.take("anna", 10, 1, 1_100).is_ok() && rates.take("anna", 10, 1, 1_100).is_err());
        assert!(rates.take("bob", 10, 1, 1_100).is_ok(), "each has his own");
        // Time that goes back gives nothing.
        assert!(rates.take("anna", 10, 1, 0).is_err());
    }

    #[test]
    fn what_is_larger_than_a_bucket_passes_once_it_is_full() {
        let rates = Rates::default();
        assert!(rates.take("anna", 10, 1_000_000, 0).is_ok());
        let wait = rates.take("anna", 10, 1_000_000, 0).unwrap_err();
        assert_eq!(wait, 2_000);
        assert!(rates.take("anna", 10, 1_000_000, 2_000).is_ok());
    }
}
