//! The ready index: no job is taken twice, none is lost while the index is open, one that comes back is taken first, and
//! a closed index gives nothing.

use super::orders;
use moso_queue::class::{ClassId, ClassKey};
use moso_tests::model::scheduled::ready::{Popped, ReadyIndex, Wanted};
use shuttle::sync::mpsc;
use shuttle::thread;
use std::sync::Arc;

/// Class of a job: of two shares, by its number.
fn key(class: u32) -> Arc<ClassKey> {
    Arc::new(ClassKey {
        queue: 1,
        share: class % 2,
        owner: ["a", "b", "c"][class as usize % 3].into(),
        ..Default::default()
    })
}

fn push(index: &ReadyIndex, seq: u64) {
    let class = (seq % 3) as u32;
    index.push(seq, ClassId(class), &key(class), (seq % 2) as i32);
}

fn pop(index: &ReadyIndex, max: usize, by_age: bool) -> Vec<Popped> {
    let mut out = Vec::new();
    index.pop(1, &Wanted { fits: &|_| true, rank: &|share| share, by_age, max }, &mut out);
    assert!(out.len() <= max);
    out
}

fn rest(index: &ReadyIndex) -> Vec<u64> {
    let mut seqs = Vec::new();
    loop {
        let popped = pop(index, 3, false);
        if popped.is_empty() {
            return seqs;
        }
        seqs.extend(popped.iter().map(|popped| popped.seq));
    }
}

#[track_caller]
fn assert_each_once(mut seqs: Vec<u64>, expected: impl IntoIterator<Item = u64>) {
    seqs.sort_unstable();
    assert_eq!(seqs, expected.into_iter().collect::<Vec<_>>());
}

/// One writer, who also tidies and puts back, and poppers of both kinds.
fn storm() {
    const JOBS: u64 = 6;
    let index = Arc::new(ReadyIndex::default());
    let (back, returned) = mpsc::channel::<Popped>();
    let poppers: Vec<_> = (0..2usize)
        .map(|popper| {
            let (index, back) = (index.clone(), back.clone());
            thread::spawn(move || {
                let mut kept = Vec::new();
                for _ in 0..3 {
                    for popped in pop(&index, 1 + popper, popper == 1) {
                        // Every third one is a lease that is not proposed.
                        match popped.seq.is_multiple_of(3) {
                            true => back.send(popped).unwrap(),
                            false => kept.push(popped.seq),
                        }
                    }
                }
                kept
            })
        })
        .collect();
    drop(back);
    let put_back = |popped: Popped| index.put_back(popped.seq, popped.class, &key(popped.class.0), popped.priority);
    for seq in 1..=JOBS {
        push(&index, seq);
        returned.try_iter().for_each(put_back);
        if seq % 2 == 0 {
            index.tidy();
        }
    }
    let mut seqs: Vec<u64> = poppers.into_iter().flat_map(|popper| popper.join().unwrap()).collect();
    returned.iter().for_each(put_back);
    seqs.extend(rest(&index));
    assert_each_once(seqs, 1..=JOBS);
    assert_eq!(index.summary(1), Default::default(), "the counters come back to nothing");
    assert!(index.summaries().is_empty());
}

#[test]
fn every_job_is_taken_once_whatever_the_order() {
    orders(8_000, storm);
}

/// A level is emptied, taken out and made anew while somebody walks over it.
#[test]
fn a_level_that_is_taken_out_loses_nothing() {
    orders(8_000, || {
        let index = Arc::new(ReadyIndex::default());
        push(&index, 2);
        let popper = {
            let index = index.clone();
            thread::spawn(move || pop(&index, 1, false))
        };
        index.tidy();
        push(&index, 8);
        let mut seqs: Vec<u64> = popper.join().unwrap().iter().map(|popped| popped.seq).collect();
        assert_eq!(seqs.len(), 1, "there was a job all the time");
        seqs.extend(rest(&index));
        assert_each_once(seqs, [2, 8]);
    });
}

/// Two poppers, each told of every second push, one word for one job; how many each of their looks brought, and what is
/// left in the end.
fn told(by_age: [bool; 2]) -> (Vec<usize>, u64) {
    let index = Arc::new(ReadyIndex::default());
    let poppers = by_age.map(|by_age| {
        let (tell, told) = mpsc::channel::<()>();
        let index = index.clone();
        let popper = thread::spawn(move || told.iter().map(|()| pop(&index, 1, by_age).len()).collect::<Vec<_>>());
        (tell, popper)
    });
    for seq in 1..=4u64 {
        push(&index, seq);
        poppers[seq as usize % 2].0.send(()).unwrap();
    }
    let mut looks = Vec::new();
    for (tell, popper) in poppers {
        drop(tell);
        looks.extend(popper.join().unwrap());
    }
    (looks, index.summary(1).ready)
}

/// Whoever is told of a push finds a job, if each word is for one and all look in the same order.
#[test]
fn a_push_that_was_told_is_found() {
    orders(8_000, || assert_eq!(told([false, false]), (vec![1; 4], 0)));
}

/// One that goes by age may take what another was told of, and leave a job where that one has looked already, or in a lane
/// that it does not know of. That one finds nothing, but the job is counted: whoever leaves with nothing wakes the next.
#[test]
fn a_job_that_was_passed_by_is_counted() {
    for by_age in [[false, true], [true, true]] {
        orders(5_000, move || {
            let (looks, left) = told(by_age);
            assert_eq!(looks.iter().sum::<usize>() as u64 + left, 4);
        });
    }
}

#[test]
fn a_job_that_comes_back_is_the_first_of_its_class() {
    orders(5_000, || {
        let index = Arc::new(ReadyIndex::default());
        [3, 9, 15].into_iter().for_each(|seq| push(&index, seq));
        let first = pop(&index, 1, false).remove(0);
        assert_eq!(first.seq, 3);
        let popper = {
            let index = index.clone();
            thread::spawn(move || pop(&index, 1, false).remove(0).seq)
        };
        index.put_back(first.seq, first.class, &key(first.class.0), first.priority);
        let here: Vec<u64> = pop(&index, 2, false).iter().map(|popped| popped.seq).collect();
        let there = popper.join().unwrap();
        // The other one took it, or took what was first before it came back.
        assert!(there == 3 || here[0] == 3, "{there}, {here:?}");
        assert!(here.is_sorted());
        assert_each_once([here, vec![there]].concat(), [3, 9, 15]);
    });
}

/// A pop that begins after the close finds nothing. One under way may still take jobs: whoever leads no more refuses them.
#[test]
fn a_closed_index_gives_nothing() {
    orders(5_000, || {
        let index = Arc::new(ReadyIndex::default());
        (1..=3).for_each(|seq| push(&index, seq));
        let popper = {
            let index = index.clone();
            thread::spawn(move || pop(&index, 2, false).len())
        };
        index.close();
        push(&index, 4);
        assert!(pop(&index, 9, false).is_empty() && pop(&index, 9, true).is_empty());
        let taken = popper.join().unwrap();
        assert!(taken == 0 || taken == 2, "{taken}");
        assert_eq!(index.summary(1).ready, 4 - taken as u64, "what is counted is what is dropped");
    });
}

/// What a hint says while jobs come and go: never less than what is there for certain.
#[test]
fn a_summary_never_says_too_little() {
    orders(5_000, || {
        let index = Arc::new(ReadyIndex::default());
        (1..=2).for_each(|seq| push(&index, seq));
        let popper = {
            let index = index.clone();
            thread::spawn(move || {
                let taken = pop(&index, 2, false);
                // It took the one that was just filed: then one of the others is left.
                let left = index.summary(1).ready;
                assert!(left >= 1 || taken.iter().all(|popped| popped.seq < 3), "{taken:?}, and nothing is left");
                taken.len() as u64
            })
        };
        push(&index, 3);
        let taken = popper.join().unwrap();
        assert_eq!(index.summary(1).ready, 3 - taken);
    });
}
