//! What comes of held jobs when nodes are killed: when leases flow again, when every lease has been confirmed by a leader,
//! and whether one was lost.

use crate::args::Common;
use crate::cluster::Target;
use crate::load::{Load, finish_all, make_queues, queue_names};
use crate::mark::Bodies;
use crate::report::{Failover, Report};
use crate::roll_call::RollCall;
use crate::run::Run;
use anyhow::{Context, Result, bail, ensure};
use moso_proto::object::Queue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Jobs submitted a second, one by one, so that each shard has some to give.
const PROBES_PER_S: u64 = 300;
/// Streams on which they leave: those for shards without a leader wait, and the others must not wait for them.
const STREAMS: usize = 2_048;
/// Workers that take them.
const WORKERS: usize = 16;
/// Leases flow so long before a fault.
const CALM: Duration = Duration::from_secs(3);
/// A killed node stays down until all is well without it, and this on top.
const DOWN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);
const BODY: usize = 64;

/// Probes flow, and nodes may be killed.
pub struct Failing<'a> {
    target: &'a Target,
    run: Arc<Run>,
    patience: Duration,
    queue: String,
    call: watch::Sender<u32>,
    roll_call: RollCall,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    seed: u64,
}

impl<'a> Failing<'a> {
    /// Makes the queue of the probes. `calls`: to call the roll of the holders, and to hear of them.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn start(
        common: &Common,
        run: &Arc<Run>,
        target: &'a Target,
        (call, roll_call): (watch::Sender<u32>, RollCall),
    ) -> Result<Failing<'a>> {
        let queues = queue_names("bench-probe", 1);
        make_queues(run, &queues, &Queue::default()).await?;
        Ok(Failing {
            target,
            run: run.clone(),
            patience: common.patience,
            queue: queues.concat(),
            call,
            roll_call,
            stop: Arc::default(),
            sent: Arc::default(),
            seed: common.seed,
        })
    }

    /// The queue of the probes.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Kills the node that leads most shards, then all nodes at once. Returns how many probes were submitted.
    ///
    /// # Errors
    /// When a node cannot be killed or started, or the cluster is not well again in time.
    pub async fn run(self, holders: u32, report: &mut Report, say: impl Fn(&str)) -> Result<u64> {
        let load = Load::new(vec![self.queue.clone()], u32::MAX, 1, Bodies::new(self.seed, BODY));
        let begin_us = self.run.now_us();
        let probes = Arc::new(());
        for _ in 0..STREAMS {
            let part = (self.stop.clone(), self.sent.clone(), probes.clone());
            self.run.spawn(probe(self.run.clone(), load.clone(), begin_us, part));
        }
        for index in 0..WORKERS {
            self.run.spawn(finish_all(self.run.clone(), index, vec![self.queue.clone()], 10));
        }
        let view = self.run.client.cluster().await.context("cluster")?;
        let shards = 1..=view.shards.iter().map(|shard| shard.shard).max().unwrap_or(0);
        let leads = |node: u32| view.shards.iter().filter(|shard| shard.leader == node).count();
        let leader = view.nodes.iter().map(|node| node.id).max_by_key(|&node| leads(node)).context("no node")?;
        let all: Vec<u32> = view.nodes.iter().map(|node| node.id).collect();
        let first = format!("leader of {} killed", leads(leader));
        for (killed, nodes) in [(first, vec![leader]), ("all nodes killed".to_owned(), all)] {
            say(&format!("{killed}: nodes {nodes:?}"));
            let failover = self.fail(killed, &nodes, shards.clone(), holders).await?;
            report.failovers.push(failover);
        }
        self.stop.store(true, Relaxed);
        let ended = |_: &Run| Arc::strong_count(&probes) == 1;
        ensure!(self.run.wait_until(self.patience, ended).await, "the submissions did not end");
        Ok(u64::from(self.sent.load(Relaxed)))
    }

    async fn fail(
        &self,
        killed: String,
        nodes: &[u32],
        shards: std::ops::RangeInclusive<u16>,
        holders: u32,
    ) -> Result<Failover> {
        let run = &self.run;
        tokio::time::sleep(CALM).await;
        let (lost, through) = (run.leases_lost(), self.roll_call.through());
        let all = nodes.len() > 1;
        let (began, began_us) = (Instant::now(), run.now_us());
        run.flow.begin(began_us);
        self.target.kill(nodes).await?;
        self.call.send_modify(|number| *number += 1);
        let mut ready_s = 0.0;
        if all {
            ready_s = self.restart().await?;
        }
        let mut leases_live_s = None;
        loop {
            let live = self.roll_call.through() >= through + u64::from(holders);
            if live && leases_live_s.is_none() {
                leases_live_s = Some(began.elapsed().as_secs_f64());
            }
            if live && run.flow.all_came(shards.clone(), began_us) {
                break;
            }
            ensure!(!run.is_stopped(), "the load ended");
            if began.elapsed() > self.patience {
                let waiting = u64::from(holders) - (self.roll_call.through() - through).min(holders.into());
                let (patience, silent) = (self.patience, run.flow.silence_s(shards, run.now_us()).1);
                bail!(
                    "{killed}: not live again within {patience:?}: {waiting} of {holders} workers wait for the word that \
                     their leases are live, a shard gave no lease for {silent:.1} s"
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        let (no_lease_any_s, no_lease_worst_s) = run.flow.silence_s(shards, run.now_us());
        if !all {
            tokio::time::sleep(DOWN).await;
            ready_s = self.restart().await?;
        }
        let leases_lost = run.leases_lost() - lost;
        let leases_live_s = leases_live_s.unwrap_or_default();
        Ok(Failover { killed, no_lease_any_s, no_lease_worst_s, leases_live_s, ready_s, leases_lost })
    }

    async fn restart(&self) -> Result<f64> {
        let started = Instant::now();
        self.target.restore().await?;
        Ok(started.elapsed().as_secs_f64())
    }
}

/// Submits a job when it is due, until told to stop. It lets go of what it got when it is over.
async fn probe(
    run: Arc<Run>,
    load: Arc<Load>,
    begin_us: u64,
    (stop, sent, _part): (Arc<AtomicBool>, Arc<AtomicU32>, Arc<()>),
) -> Result<()> {
    while !stop.load(Relaxed) && !run.is_stopped() {
        let Some(batch) = load.take() else { break };
        let due_us = begin_us + u64::from(batch) * 1_000_000 / PROBES_PER_S;
        tokio::time::sleep_until(run.moment(due_us)).await;
        sent.fetch_add(1, Relaxed);
        load.submit(&run, batch, due_us).await?;
    }
    Ok(())
}
