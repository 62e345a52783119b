use super::*;
use crate::scale::cluster::tests::{cluster, load, machine};
use crate::scale::cluster::{Cluster, Load, Machine};

fn used(estimate: &Estimate, resource: Resource) -> f64 {
    estimate.used.iter().find(|(r, _)| *r == resource).map_or(0.0, |(_, used)| *used)
}

#[test]
fn more_jobs_use_more_of_everything() {
    let costs = Costs::default();
    for (nodes, shards) in [(3, 6), (10, 64), (100, 4_095), (1_000, 64)] {
        for batch in [1.0, 100.0] {
            let (cluster, load) = (cluster(nodes, shards), load(batch));
            let model = Model::new(&cluster, &load, &costs);
            let mut before = model.at(0.0);
            for rate in (1..40).map(|n| 10.0 * 1.4_f64.powi(n)) {
                let now = model.at(rate);
                for &(resource, part) in &now.used {
                    // Where one is full, entries or hints become fewer, which spares the others.
                    let full = before.used[0].1 >= 1.0 - 1e-6 || now.used[0].1 >= 1.0 - 1e-6;
                    let more = part >= used(&before, resource) - 1e-9;
                    assert!(more || full, "{resource:?} of {nodes} nodes at {rate}");
                }
                assert!(now.used[0].1 >= before.used[0].1.min(1.0) - 1e-6, "{nodes} nodes at {rate}");
                before = now;
            }
        }
    }
}

#[test]
fn the_highest_rate_fills_one_resource() {
    let (costs, load) = (Costs::default(), load(100.0));
    let cluster = cluster(10, 64);
    let model = Model::new(&cluster, &load, &costs);
    let max = model.max_rate().expect("it runs");
    assert!((model.at(max).used[0].1 - 1.0).abs() < 1e-6);
    assert!(model.at(max * 1.01).used[0].1 > 1.0);
}

#[test]
fn costs_of_three_nodes_are_those_that_were_measured() {
    // bench/SCALE.md: 27.1 µs of the nodes' CPU a job in batches of 100, 154.7 µs one by one, at the highest rates.
    let cluster = Cluster { machine: Machine { cores: 2, shared: true, ..machine() }, ..cluster(3, 6) };
    let costs = Costs { sync_us: 1_370.0, coalesce_us: 800.0, ..Costs::default() };
    for (batch, rate, measured) in [(100.0, 64_299.0, 27.1), (1.0, 9_770.0, 154.7)] {
        // As many calls as there were submitters and workers, over six shards.
        let in_flight = 2.0 * (1_600.0_f64 / batch).clamp(16.0, 64.0) / 6.0;
        let load = Load { batch, queues: 8.0, users: 1.0, in_flight, ..load(batch) };
        let model = Model::new(&cluster, &load, &costs);
        let generator = STEPS * costs.generator_call_us / batch + costs.generator_job_us;
        let nodes = used(&model.at(rate), Resource::Cores) * 2.0 * 1e6 / rate - generator;
        assert!((nodes / measured - 1.0).abs() < 0.1, "batch {batch}: {nodes} µs a job, measured {measured}");
    }
}

#[test]
fn hints_keep_their_spacing_and_their_interval() {
    assert!((hints_per_s(0.0, 0.002, 0.0, 0.0) - 9.8).abs() < 0.01);
    assert!(hints_per_s(1e6, 0.002, 0.0, 0.0) > 499.0 && hints_per_s(1e6, 0.002, 0.0, 0.0) <= 500.0);
    assert!(hints_per_s(100.0, 0.002, 0.0, 0.0) > hints_per_s(10.0, 0.002, 0.0, 0.0));
}

#[test]
fn what_does_not_run_at_all_is_said() {
    let costs = Costs::default();
    let load = Load { running: 1e11, workers: 1e9, ..load(100.0) };
    let cluster = cluster(1_001, 64);
    let found = Model::new(&cluster, &load, &costs).obstacles().join("; ");
    for told in ["1000 members", "sessions", "memory"] {
        assert!(found.contains(told), "{found}");
    }
    // A node that cannot bear its own upkeep has no highest rate.
    let slow = Costs { tick_us: 1e6, ..costs };
    assert_eq!(Model::new(&cluster, &load, &slow).max_rate(), None);
}
