use super::*;
use crate::scale::cluster::tests::{cluster, load};
use crate::scale::cluster::{Cluster, Load, Machine};
use crate::scale::event::s;
use crate::scale::model::Resource;

fn plan<'a>(cluster: &'a Cluster, load: &'a Load, costs: &'a Costs, drive: Drive) -> Plan<'a> {
    Plan { cluster, load, costs, drive, seed: 1, warmup: s(0.1), measure: s(0.4), fail_at: None }
}

#[test]
fn every_batch_ends_once() {
    let (costs, load) = (Costs::default(), load(10.0));
    for (nodes, shards, drive) in
        [(1, 4, Drive::Open(20_000.0)), (3, 6, Drive::Closed(40)), (10, 64, Drive::Open(50_000.0))]
    {
        let cluster = cluster(nodes, shards);
        let done = run(&plan(&cluster, &load, &costs, drive));
        assert!(done.submitted > 100, "{nodes} nodes: {done:?}");
        assert_eq!(done.ended_once, done.submitted, "{nodes} nodes");
    }
}

#[test]
fn every_batch_ends_once_when_a_node_fails() {
    let (costs, load, cluster) = (Costs::default(), load(10.0), cluster(10, 64));
    for drive in [Drive::Open(20_000.0), Drive::Closed(200)] {
        let plan = Plan { fail_at: Some(s(0.5)), measure: s(6.0), ..plan(&cluster, &load, &costs, drive) };
        let done = run(&plan);
        assert_eq!(done.ended_once, done.submitted);
        let failover = done.failover.expect("a node failed");
        assert!(failover.shards == 7 && (1..=2).contains(&failover.heirs), "{failover:?}");
        // Two to four seconds, less the tick in which the leader was heard last.
        assert!(failover.leaderless_p50_ms > 1_900.0 && failover.leaderless_max_ms < 4_100.0, "{failover:?}");
        assert!(failover.dispatch_gap_ms >= failover.leaderless_p50_ms, "{failover:?}");
    }
}

#[test]
fn one_seed_gives_one_result() {
    let (costs, cluster) = (Costs::default(), cluster(10, 64));
    let load = Load { running: 1e6, queued: 1e5, ..load(10.0) };
    let of = |seed| {
        let plan = plan(&cluster, &load, &costs, Drive::Open(20_000.0));
        run(&Plan { seed, fail_at: Some(s(0.2)), measure: s(5.0), ..plan })
    };
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}

#[test]
fn a_higher_rate_uses_more_and_waits_longer() {
    let (costs, load, cluster) = (Costs::default(), load(100.0), cluster(10, 640));
    let max = Model::new(&cluster, &load, &costs).max_rate().expect("it runs");
    let at = |part: f64| run(&plan(&cluster, &load, &costs, Drive::Open(max * part)));
    let runs = [0.1, 0.5, 0.9].map(at);
    for pair in runs.windows(2) {
        let [less, more] = pair else { continue };
        assert!(less.reactor_used < more.reactor_used && less.api_used < more.api_used);
        assert!(less.submit_ms.p99 < more.submit_ms.p99, "{less:?} {more:?}");
    }
}

#[test]
fn it_saturates_where_the_model_says() {
    let costs = Costs::default();
    for (nodes, shards, batch) in [(3, 6, 100.0), (3, 18, 100.0), (10, 64, 100.0), (10, 640, 1.0)] {
        let (cluster, load) = (cluster(nodes, shards), load(batch));
        let max = Model::new(&cluster, &load, &costs).max_rate().expect("it runs");
        let done = run(&plan(&cluster, &load, &costs, Drive::Closed((shards * 16).max(288))));
        let ratio = done.jobs_per_s / max;
        assert!((0.75..1.25).contains(&ratio), "{nodes} nodes, batch {batch}: {} of {max}", done.jobs_per_s);
    }
}

#[test]
fn utilisation_is_the_models() {
    let (costs, load, cluster) = (Costs::default(), load(100.0), cluster(10, 640));
    let model = Model::new(&cluster, &load, &costs);
    let rate = model.max_rate().expect("it runs") / 2.0;
    let done = run(&plan(&cluster, &load, &costs, Drive::Open(rate)));
    let estimate = model.at(rate);
    for (resource, simulated) in [(Resource::Reactor, done.reactor_used), (Resource::Api, done.api_used)] {
        let of = estimate.used.iter().find(|(r, _)| *r == resource).expect("it is there").1;
        assert!((simulated / of - 1.0).abs() < 0.25, "{resource:?}: {simulated} simulated, {of} by the model");
    }
}

#[test]
fn nodes_that_share_their_cores_are_slower() {
    let (costs, load, own) = (Costs::default(), load(100.0), cluster(3, 6));
    let shared = Cluster { machine: Machine { cores: 2, shared: true, ..own.machine }, ..own.clone() };
    let [own, shared] = [&own, &shared].map(|cluster| run(&plan(cluster, &load, &costs, Drive::Closed(32))));
    assert!(shared.jobs_per_s < own.jobs_per_s / 2.0);
    assert!(shared.cores_used > 0.95 && own.cores_used == 0.0);
}
