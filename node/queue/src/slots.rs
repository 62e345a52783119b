//! The table of live jobs: a slab of records and a paged directory from sequence number to slot. Iteration is in the
//! order of sequence numbers on every replica.

use crate::job::Job;
use std::collections::BTreeMap;

const PAGE: usize = 128;
const NONE: u32 = u32::MAX;

/// Live jobs of a shard.
#[derive(Default)]
pub struct Slots {
    jobs: Vec<Job>,
    free: Vec<u32>,
    pages: BTreeMap<u64, Box<Page>>,
}

struct Page {
    slots: [u32; PAGE],
    used: u32,
}

fn place(seq: u64) -> (u64, usize) {
    (seq / PAGE as u64, (seq % PAGE as u64) as usize)
}

impl Slots {
    fn slot(&self, seq: u64) -> Option<usize> {
        let (page, at) = place(seq);
        let slot = self.pages.get(&page)?.slots[at];
        (slot != NONE).then_some(slot as usize)
    }

    /// The job, if it lives.
    pub fn get(&self, seq: u64) -> Option<&Job> {
        self.slot(seq).map(|slot| &self.jobs[slot])
    }

    /// The job, if it lives.
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut Job> {
        self.slot(seq).map(|slot| &mut self.jobs[slot])
    }

    /// Adds a job whose number is not in use.
    pub fn insert(&mut self, job: Job) {
        let (page, at) = place(job.seq);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.jobs[slot as usize] = job;
                slot
            }
            None => {
                self.jobs.push(job);
                (self.jobs.len() - 1) as u32
            }
        };
        let page = self.pages.entry(page).or_insert_with(|| Box::new(Page { slots: [NONE; PAGE], used: 0 }));
        assert_eq!(page.slots[at], NONE, "a sequence number is used once");
        page.slots[at] = slot;
        page.used += 1;
    }

    /// Takes a job out.
    pub fn remove(&mut self, seq: u64) -> Option<Job> {
        let (number, at) = place(seq);
        let page = self.pages.get_mut(&number)?;
        let slot = std::mem::replace(&mut page.slots[at], NONE);
        if slot == NONE {
            return None;
        }
        page.used -= 1;
        if page.used == 0 {
            self.pages.remove(&number);
        }
        self.free.push(slot);
        Some(self.jobs[slot as usize].clone())
    }

    /// Live jobs.
    pub fn len(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// No job lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Jobs with numbers from `seq` up, in order.
    pub fn from(&self, seq: u64) -> impl Iterator<Item = &Job> {
        let (first, _) = place(seq);
        self.pages
            .range(first..)
            .flat_map(|(_, page)| page.slots.iter().filter(|&&slot| slot != NONE))
            .map(|&slot| &self.jobs[slot as usize])
            .filter(move |job| job.seq >= seq)
    }

    /// Calls `f` for every job, in no special order: only for volatile fields.
    pub fn for_each_volatile(&mut self, mut f: impl FnMut(&mut Job)) {
        for page in self.pages.values() {
            for &slot in page.slots.iter().filter(|&&slot| slot != NONE) {
                f(&mut self.jobs[slot as usize]);
            }
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.jobs.capacity() * size_of::<Job>() + self.free.capacity() * 4 + self.pages.len() * (size_of::<Page>() + 32)
    }

    /// Gives memory back once most of it is unused.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.jobs.capacity() > 1024 {
            *self = Slots::default();
        }
    }
}
