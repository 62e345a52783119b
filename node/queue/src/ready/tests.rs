use super::*;

fn key(queue: u32, share: u32, owner: &str) -> Arc<ClassKey> {
    Arc::new(ClassKey { queue, share, owner: owner.into(), ..Default::default() })
}

fn pop(index: &ReadyIndex, max: usize, by_age: bool) -> Vec<u64> {
    let mut out = Vec::new();
    let wanted = Wanted { fits: &|_| true, rank: &|share| share, by_age, max };
    index.pop(1, &wanted, &mut out);
    out.iter().map(|p| p.seq).collect()
}

#[test]
fn order_is_share_then_priority_then_age() {
    let index = ReadyIndex::default();
    let (low, high) = (key(1, 2, "a"), key(1, 1, "a"));
    index.push(1, ClassId(0), &low, 900);
    index.push(2, ClassId(1), &high, 10);
    index.push(3, ClassId(1), &high, 20);
    index.push(4, ClassId(1), &high, 20);
    index.push(5, ClassId(2), &key(2, 1, "a"), 999);
    assert_eq!(index.summary(1), Summary { ready: 4, top_priority: 900 });
    assert_eq!(pop(&index, 10, false), [3, 4, 2, 1]);
    assert_eq!(index.summary(1), Summary::default());
    assert_eq!(index.summary(2).ready, 1);
}

#[test]
fn by_age_the_oldest_comes_first_whatever_its_priority() {
    let index = ReadyIndex::default();
    let (a, b) = (key(1, 1, "a"), key(1, 2, "b"));
    index.push(10, ClassId(0), &a, 500);
    index.push(3, ClassId(1), &b, -5);
    assert_eq!(pop(&index, 1, true), [3]);
    assert_eq!(pop(&index, 1, false), [10]);
}

#[test]
fn returned_jobs_come_first_and_unfit_classes_stay() {
    let index = ReadyIndex::default();
    let (a, b) = (key(1, 1, "a"), key(1, 1, "b"));
    for seq in 1..=3 {
        index.push(seq, ClassId(0), &a, 0);
    }
    index.push(4, ClassId(1), &b, 0);
    let mut out = Vec::new();
    let only_b = Wanted { fits: &|k| &*k.owner == "b", rank: &|_| 0, by_age: false, max: 9 };
    index.pop(1, &only_b, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(pop(&index, 1, false), [1]);
    index.put_back(1, ClassId(0), &a, 0);
    assert_eq!(pop(&index, 9, false), [1, 2, 3]);
    index.tidy();
    index.close();
    index.push(9, ClassId(0), &a, 0);
    assert!(pop(&index, 1, false).is_empty());
}

#[test]
fn classes_of_equal_priority_take_turns() {
    let index = ReadyIndex::default();
    let (a, b) = (key(1, 1, "a"), key(1, 1, "b"));
    for seq in 0..32 {
        index.push(1 + seq, ClassId(0), &a, 0);
        index.push(101 + seq, ClassId(1), &b, 0);
    }
    let first: Vec<u64> = pop(&index, 64, false);
    assert_eq!(first.len(), 64);
    assert_eq!(first[0], 1);
}

/// Entries that come back once before they are kept.
fn comes_back(seq: u64) -> bool {
    seq.is_multiple_of(5)
}

/// One writer pushes, puts back and tidies while others pop. Whatever the timing, every entry must be kept once, and
/// nothing may be left.
fn storm(poppers: usize, seed: u64) {
    const JOBS: u64 = 30_000;
    let index = ReadyIndex::default();
    let keys: Vec<Arc<ClassKey>> = (0..7).map(|n| key(1, n % 2, ["a", "b", "c", "d"][n as usize % 4])).collect();
    let stop = AtomicBool::new(false);
    let (back, returned) = crossbeam::channel::unbounded::<Popped>();
    let mut seen = vec![0u8; JOBS as usize + 1];
    let mut settle = |popped: Popped, index: &ReadyIndex| {
        let times = &mut seen[popped.seq as usize];
        *times += 1;
        if comes_back(popped.seq) && *times == 1 {
            index.put_back(popped.seq, popped.class, &keys[popped.class.0 as usize], popped.priority);
        }
    };
    std::thread::scope(|scope| {
        for popper in 0..poppers {
            let (index, stop, back) = (&index, &stop, back.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut out = Vec::new();
                    let wanted = Wanted {
                        fits: &|k| popper > 0 || &*k.owner != "c",
                        rank: &|share| share,
                        by_age: popper % 2 == 1,
                        max: 1 + popper * 3,
                    };
                    index.pop(1, &wanted, &mut out);
                    out.into_iter().for_each(|p| back.send(p).unwrap());
                }
            });
        }
        for seq in 1..=JOBS {
            let random = crate::task::mix(seed ^ seq);
            let class = random % keys.len() as u64;
            index.push(seq, ClassId(class as u32), &keys[class as usize], (random >> 32) as i32 % 4);
            if random.is_multiple_of(16) {
                returned.try_iter().for_each(|popped| settle(popped, &index));
            }
            if random % 64 == 1 {
                index.tidy();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    // The poppers are gone: what they did not take is taken here.
    returned.try_iter().for_each(|popped| settle(popped, &index));
    let mut rest = Vec::new();
    let wanted = Wanted { fits: &|_| true, rank: &|_| 0, by_age: false, max: 100 };
    loop {
        index.pop(1, &wanted, &mut rest);
        if rest.is_empty() {
            break;
        }
        rest.drain(..).for_each(|popped| settle(popped, &index));
    }
    for seq in 1..=JOBS {
        assert_eq!(seen[seq as usize], 1 + u8::from(comes_back(seq)), "job {seq}");
    }
    assert_counts_are_zero(&index);
}

fn assert_counts_are_zero(index: &ReadyIndex) {
    for queue in index.queues.load().values() {
        assert_eq!(queue.len.load(Ordering::Relaxed), 0);
        for lane in queue.lanes.load().iter() {
            for level in lane.levels.iter() {
                let classes = level.value().classes.load();
                assert!(classes.iter().all(|c| c.is_empty() && c.len.load(Ordering::Relaxed) == 0));
            }
        }
    }
    index.tidy();
    let levels = |queue: &Arc<Queue>| queue.lanes.load().iter().map(|l| l.levels.len()).sum::<usize>();
    assert_eq!(index.queues.load().values().map(levels).sum::<usize>(), 0, "nothing is left to walk");
}

#[test]
fn one_writer_and_many_poppers_keep_every_entry_once() {
    for seed in 0..8 {
        storm(1 + seed as usize % 4, seed);
    }
}

/// The counter of a queue is never below the entries that were filed before: who is woken by a push finds it.
#[test]
fn a_push_that_was_told_is_found() {
    let index = ReadyIndex::default();
    let a = key(1, 1, "a");
    let (tell, told) = crossbeam::channel::bounded::<()>(64);
    std::thread::scope(|scope| {
        let poppers: Vec<_> = (0..3)
            .map(|_| {
                let (index, told) = (&index, told.clone());
                scope.spawn(move || {
                    let mut empty = 0u32;
                    while told.recv().is_ok() {
                        empty += u32::from(pop(index, 1, false).is_empty());
                    }
                    empty
                })
            })
            .collect();
        for seq in 1..=20_000 {
            index.push(seq, ClassId(0), &a, (seq % 3) as i32);
            tell.send(()).unwrap();
        }
        drop(tell);
        // As many words as entries, each heard after its push: nobody may leave with nothing.
        assert_eq!(poppers.into_iter().map(|p| p.join().unwrap()).sum::<u32>(), 0);
    });
    assert_counts_are_zero(&index);
}

#[test]
fn a_number_used_again_for_other_needs_is_another_class() {
    let index = ReadyIndex::default();
    index.push(1, ClassId(3), &key(1, 1, "a"), 0);
    index.push(2, ClassId(3), &key(1, 1, "b"), 0);
    index.push(3, ClassId(1), &key(1, 1, "c"), 0);
    let mut out = Vec::new();
    let only_b = Wanted { fits: &|k| &*k.owner == "b", rank: &|_| 0, by_age: false, max: 9 };
    index.pop(1, &only_b, &mut out);
    assert_eq!(out, [Popped { seq: 2, class: ClassId(3), priority: 0 }]);
    index.tidy();
    assert_eq!(pop(&index, 9, false), [1, 3]);
}
