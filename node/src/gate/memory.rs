//! The bytes of calls and replies under way, bounded for the whole node.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit that is counted.
const KIB: usize = 1024;

/// Memory for calls and replies.
pub struct Memory {
    kib: Arc<Semaphore>,
    total_kib: usize,
}

impl Memory {
    /// So many bytes, counted in whole KiB.
    pub fn new(bytes: usize) -> Self {
        let total_kib = (bytes / KIB).clamp(1, u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Memory { kib: Arc::new(Semaphore::new(total_kib)), total_kib }
    }

    /// Bytes in use.
    pub fn in_use_bytes(&self) -> u64 {
        (self.total_kib.saturating_sub(self.kib.available_permits()) * KIB) as u64
    }

    /// Takes so many bytes, if no more than `percent` of all is in use then.
    pub fn try_take(&self, bytes: usize, percent: usize) -> Option<Held> {
        let mut held = Held::default();
        held.set(self, bytes, percent).then_some(held)
    }

    /// Takes so many bytes, or all there is if that is less; waits for those who hold it, in order.
    pub async fn take(&self, bytes: usize) -> Held {
        let kib = bytes.div_ceil(KIB).min(self.total_kib);
        // The semaphore is never closed.
        let permit = self.kib.clone().acquire_many_owned(kib as u32).await.ok();
        Held { permit, bytes }
    }

    fn try_kib(&self, kib: usize, percent: usize) -> Option<OwnedSemaphorePermit> {
        let in_use = self.total_kib.saturating_sub(self.kib.available_permits());
        if (in_use + kib) * 100 > self.total_kib * percent {
            return None;
        }
        self.kib.clone().try_acquire_many_owned(u32::try_from(kib).ok()?).ok()
    }
}

/// Memory in use, given back when it is dropped.
#[derive(Debug, Default)]
pub struct Held {
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Held {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds so many bytes from now on; `false`: there is not so much, and what was held is kept.
    pub fn set(&mut self, memory: &Memory, bytes: usize, percent: usize) -> bool {
        let have = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let need = bytes.div_ceil(KIB);
        match (&mut self.permit, need.checked_sub(have)) {
            (_, Some(0)) => {}
            (permit, Some(more)) => {
                let Some(more) = memory.try_kib(more, percent) else { return false };
                match permit {
                    Some(permit) => permit.merge(more),
                    none => *none = Some(more),
                }
            }
            (Some(permit), None) => drop(permit.split(have - need)),
            (None, None) => unreachable!("nothing is held"),
        }
        self.bytes = bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_matters_less_is_refused_first() {
        let memory = Memory::new(100 * KIB);
        let submissions = memory.try_take(50 * KIB, 50).unwrap();
        assert!(memory.try_take(1, 50).is_none());
        let results = memory.try_take(50 * KIB, 100).unwrap();
        assert!(memory.try_take(1, 100).is_none());
        assert_eq!(memory.in_use_bytes(), 100 * KIB as u64);
        drop((submissions, results));
        assert_eq!(memory.in_use_bytes(), 0);
    }

    #[test]
    fn what_grows_and_shrinks_is_counted_to_the_kib() {
        let memory = Memory::new(8 * KIB);
        let mut held = Held::default();
        assert!(held.set(&memory, 10, 100) && held.set(&memory, 900, 100));
        assert_eq!(memory.in_use_bytes(), KIB as u64);
        assert!(held.set(&memory, 8 * KIB, 100) && !held.set(&memory, 9 * KIB, 100));
        assert_eq!((held.bytes(), memory.in_use_bytes()), (8 * KIB, 8 * KIB as u64));
        assert!(held.set(&memory, 0, 100));
        assert_eq!(memory.in_use_bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_larger_than_all_gets_all() {
        let memory = Memory::new(4 * KIB);
        let held = memory.take(100 * KIB).await;
        assert_eq!(memory.in_use_bytes(), 4 * KIB as u64);
        drop(held);
        assert_eq!(memory.in_use_bytes(), 0);
    }
}
