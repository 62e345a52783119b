//! How long dispatch stood still because of a fault, read from the history.

use super::history::{Event, What};
use moso_proto::JobId;
use serde::Serialize;
use std::collections::BTreeMap;

/// One fault as clients felt it. Times in ms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Felt {
    /// Its number.
    pub fault: u32,
    /// Its kind.
    pub kind: String,
    /// What was drawn.
    pub detail: String,
    /// When it began, s since the run began.
    pub at_s: f64,
    /// From its beginning until its cause was gone.
    pub lasted_ms: f64,
    /// From then until all nodes were ready and saw a leader for every shard.
    pub recovered_ms: f64,
    /// Longest time without a lease, of any shard.
    pub gap_ms: f64,
    /// Longest time without a lease of one shard, the worst.
    pub shard_gap_ms: f64,
}

/// The faults of a kind together. Times in ms.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct KindFelt {
    /// How many.
    pub faults: u64,
    /// Of the longest times without any lease.
    pub gap_median_ms: f64,
    /// See above.
    pub gap_longest_ms: f64,
    /// Of the longest times without a lease of one shard.
    pub shard_gap_median_ms: f64,
    /// See above.
    pub shard_gap_longest_ms: f64,
    /// Of the times from the end of the cause until all was ready.
    pub recovered_longest_ms: f64,
}

/// How each fault was felt. A gap is the longest time between two answers with leases, counted from the beginning of the
/// fault at the earliest, until the first answer after the cluster was live again at the latest.
pub(super) fn felt(events: &[Event]) -> Vec<Felt> {
    let leases = Leases::of(events);
    let mut faults: Vec<Felt> = Vec::new();
    let mut begin_ns = 0;
    let mut healed_ns = 0;
    for event in events {
        match &event.what {
            What::FaultBegin { fault, kind, detail } => {
                begin_ns = event.ns;
                healed_ns = event.ns;
                faults.push(Felt {
                    fault: *fault,
                    kind: kind.clone(),
                    detail: detail.clone(),
                    at_s: event.ns as f64 / 1e9,
                    lasted_ms: 0.0,
                    recovered_ms: 0.0,
                    gap_ms: 0.0,
                    shard_gap_ms: 0.0,
                });
            }
            What::FaultHealed { .. } => healed_ns = event.ns,
            What::FaultOver { .. } => {
                let Some(felt) = faults.last_mut() else { continue };
                felt.lasted_ms = ms(healed_ns - begin_ns);
                felt.recovered_ms = ms(event.ns - healed_ns);
                felt.gap_ms = ms(gap(&leases.all, begin_ns, event.ns));
                let shards = leases.shards.values().map(|times| gap(times, begin_ns, event.ns));
                felt.shard_gap_ms = ms(shards.max().unwrap_or(0));
            }
            _ => {}
        }
    }
    faults
}

/// The faults by kind.
pub(super) fn by_kind(faults: &[Felt]) -> BTreeMap<String, KindFelt> {
    let mut kinds: BTreeMap<String, Vec<&Felt>> = BTreeMap::new();
    for felt in faults {
        kinds.entry(felt.kind.clone()).or_default().push(felt);
    }
    let summed = |faults: Vec<&Felt>| {
        let sorted = |of: fn(&Felt) -> f64| {
            let mut times: Vec<f64> = faults.iter().map(|felt| of(felt)).collect();
            times.sort_by(f64::total_cmp);
            (median(&times), times.last().copied().unwrap_or(0.0))
        };
        let (gap, shard) = (sorted(|felt| felt.gap_ms), sorted(|felt| felt.shard_gap_ms));
        KindFelt {
            faults: faults.len() as u64,
            gap_median_ms: gap.0,
            gap_longest_ms: gap.1,
            shard_gap_median_ms: shard.0,
            shard_gap_longest_ms: shard.1,
            recovered_longest_ms: sorted(|felt| felt.recovered_ms).1,
        }
    };
    kinds.into_iter().map(|(kind, faults)| (kind, summed(faults))).collect()
}

fn ms(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1e3
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// When answers with leases were read, rising.
#[derive(Default)]
struct Leases {
    all: Vec<u64>,
    shards: BTreeMap<u16, Vec<u64>>,
}

impl Leases {
    fn of(events: &[Event]) -> Leases {
        let mut leases = Leases::default();
        for event in events {
            let What::LeaseOk { leases: given, .. } = &event.what else { continue };
            if !given.is_empty() {
                leases.all.push(event.ns);
            }
            for shard in given.iter().filter_map(|lease| JobId(lease.job).shard()) {
                let times = leases.shards.entry(shard.0).or_default();
                if times.last() != Some(&event.ns) {
                    times.push(event.ns);
                }
            }
        }
        leases
    }
}

/// Longest time between two of `times`, from `begin` on, until the first after `over`. If there is none, nothing is
/// known of what came after the last.
fn gap(times: &[u64], begin: u64, over: u64) -> u64 {
    let first = times.partition_point(|&at| at <= begin);
    let after = times.partition_point(|&at| at <= over);
    let within = &times[first..(after + 1).min(times.len())];
    let mut last = begin;
    let mut longest = 0;
    for &at in within {
        longest = longest.max(at - last);
        last = at;
    }
    if after == times.len() {
        longest = longest.max(over.saturating_sub(last));
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::history::{Leased, SubmissionId};
    use moso_proto::ShardId;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_gap_is_the_longest_time_between_two_leases() {
        let times = [10, 20, 30, 100, 110, 200];
        assert_eq!(gap(&times, 25, 90), 70, "the first lease after the end counts");
        assert_eq!(gap(&times, 35, 90), 65, "time before the fault does not count");
        assert_eq!(gap(&times, 25, 105), 70);
        assert_eq!(gap(&times, 105, 150), 90);
        assert_eq!(gap(&times, 205, 300), 95, "no lease after it");
    }

    fn lease(at_ms: u64, shard: u16) -> Event {
        let job = ShardId(shard).id(at_ms);
        let lease = Leased { job, attempt: 1, task: 1, index: 0, submission: SubmissionId([0; 16]), ttl_ms: 1 };
        Event { ns: at_ms * MS, what: What::LeaseOk { session: 1, request: at_ms, leases: vec![lease] } }
    }

    fn fault(begin_ms: u64, healed_ms: u64, over_ms: u64) -> Vec<Event> {
        let begin = What::FaultBegin { fault: 1, kind: "stop".into(), detail: "node 1".into() };
        let at = |ms: u64, what| Event { ns: ms * MS, what };
        let (healed, over) = (What::FaultHealed { fault: 1 }, What::FaultOver { fault: 1 });
        vec![at(begin_ms, begin), at(healed_ms, healed), at(over_ms, over)]
    }

    #[test]
    fn shards_are_looked_at_one_by_one() {
        // Shard 2 stands still from 100 to 900, shard 1 goes on; later both stand still for 300.
        let leases = (0..20).map(|n| lease(n * 100, 1)).chain([lease(90, 2), lease(900, 2), lease(1_901, 2)]);
        let mut events: Vec<Event> = leases.chain(fault(110, 500, 600)).collect();
        let second = (2_200..2_300).step_by(50).flat_map(|ms| [lease(ms, 1), lease(ms + 1, 2)]);
        events.extend(second.chain(fault(1_950, 2_000, 2_100)));
        events.sort_by_key(|event| event.ns);
        let felt = felt(&events);
        assert_eq!((felt[0].gap_ms, felt[0].shard_gap_ms), (100.0, 790.0));
        assert_eq!((felt[0].lasted_ms, felt[0].recovered_ms), (390.0, 100.0));
        assert_eq!((felt[1].gap_ms, felt[1].shard_gap_ms), (250.0, 251.0));
        let kinds = by_kind(&felt);
        let stop = &kinds["stop"];
        assert_eq!((stop.faults, stop.gap_median_ms, stop.gap_longest_ms), (2, 175.0, 250.0));
        assert_eq!((stop.shard_gap_longest_ms, stop.recovered_longest_ms), (790.0, 100.0));
    }
}
