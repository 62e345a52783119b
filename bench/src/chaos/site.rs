//! The place where faults are made: the cluster, the lines between its nodes, their clocks and disks.

use super::clock::Clocks;
use super::disk::SmallDisk;
use super::history::{History, What};
use super::kind::FaultKind;
use super::links::Links;
use super::tools::Tools;
use anyhow::{Context, Result, anyhow};
use moso::{LocalCluster, LocalOptions, Surroundings};
use rand::Rng;
use rand::rngs::StdRng;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often nodes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Size of the small disk, MiB: what a node needs for its log, and for the ended jobs of a minute.
const DISK_MIB: u64 = 512;
const DISK_MIB_PER_MINUTE: u64 = 16;

/// How the cluster is set up.
pub(super) struct SiteOptions {
    /// Nodes.
    pub nodes: u32,
    /// Shards.
    pub shards: u16,
    /// Folder for data and logs, kept; `None`: a temporary one.
    pub data: Option<PathBuf>,
    /// Kinds of faults that will be made.
    pub kinds: Vec<FaultKind>,
    /// Length of the run, minutes.
    pub minutes: f64,
    /// A fault that lasts is ended after this at the latest.
    pub hold_max: Duration,
    /// Longest time until the cluster must be live again after a fault.
    pub recovery_max: Duration,
}

/// The cluster under faults. Dropping it ends the nodes, then the proxies, then the mounts.
pub(super) struct Site {
    /// The nodes.
    pub cluster: LocalCluster,
    around: Arc<Around>,
    /// The small disk, if there is one.
    pub disk: Option<SmallDisk>,
    history: Arc<History>,
    options: SiteOptions,
    problems: Vec<String>,
    fault: u32,
    title: String,
    _folder: Option<TempDir>,
}

#[derive(Debug)]
struct Around {
    links: Links,
    clocks: Option<Clocks>,
}

impl Surroundings for Around {
    fn peer_address(&self, from: u32, to: u32, real: &str) -> String {
        self.links.lead(from, to, real)
    }

    fn env(&self, node: u32) -> Vec<(String, String)> {
        self.clocks.as_ref().map(|clocks| clocks.env(node)).unwrap_or_default()
    }
}

impl Site {
    /// Starts the cluster with what the kinds of faults need.
    ///
    /// # Errors
    /// When something cannot be set up; what was started is ended.
    pub async fn open(options: SiteOptions, tools: &Tools, history: Arc<History>, rng: &mut StdRng) -> Result<Site> {
        let (folder, temporary) = match &options.data {
            Some(folder) => (folder.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("moso-chaos-").tempdir().context("temporary folder")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
        let has = |kind| options.kinds.contains(&kind);
        let disk = has(FaultKind::DiskFull).then(|| {
            let node = rng.random_range(1..=options.nodes);
            let mib = DISK_MIB + DISK_MIB_PER_MINUTE * options.minutes.ceil() as u64;
            SmallDisk::mount(node, folder.join(format!("node-{node}")), mib).map_err(|why| anyhow!(why))
        });
        let clocks = match (has(FaultKind::ClockJump), &tools.faketime) {
            (true, Ok(library)) => Some(Clocks::new(library.clone(), &folder, options.nodes)?),
            _ => None,
        };
        let disk = disk.transpose()?;
        let around = Arc::new(Around { links: Links::open(options.nodes).await?, clocks });
        let cluster = LocalCluster::start(LocalOptions {
            nodes: options.nodes,
            shards: options.shards,
            cluster: "chaos".to_owned(),
            data: Some(folder),
            surroundings: around.clone(),
            ready_timeout: options.recovery_max,
            ..LocalOptions::default()
        });
        let cluster = cluster.await.context("local cluster")?;
        Ok(Site {
            cluster,
            around,
            disk,
            history,
            options,
            problems: Vec::new(),
            fault: 0,
            title: "before the first fault".to_owned(),
            _folder: temporary,
        })
    }

    /// The lines between the nodes.
    pub fn links(&self) -> &Links {
        &self.around.links
    }

    /// The nodes' clocks.
    ///
    /// # Errors
    /// When they were not set up.
    pub fn clocks(&self) -> Result<&Clocks> {
        self.around.clocks.as_ref().context("the nodes' clocks cannot be set: libfaketime is not loaded")
    }

    /// Any node.
    pub fn draw_node(&self, rng: &mut StdRng) -> u32 {
        rng.random_range(1..=self.cluster.nodes())
    }

    /// Two different nodes.
    pub fn draw_pair(&self, rng: &mut StdRng) -> (u32, u32) {
        let a = self.draw_node(rng);
        let others: Vec<u32> = self.links().others(a).collect();
        (a, others[rng.random_range(0..others.len())])
    }

    /// How long a fault lasts, between the two; short times are as likely as long ones.
    pub fn draw_hold(&self, rng: &mut StdRng, least_s: f64, most_s: f64) -> Duration {
        let most = most_s.min(self.options.hold_max.as_secs_f64()).max(least_s);
        let exponent = rng.random_range(0.0..=1.0);
        Duration::from_secs_f64(least_s * (most / least_s).powf(exponent))
    }

    /// The node that leads most shards, as the others see it; `None`: no node knows of one.
    pub async fn busiest_leader(&self) -> Option<u32> {
        for node in 1..=self.cluster.nodes() {
            let Some(view) = self.cluster.view(node).await else { continue };
            let leads = |node: u32| view.shards.iter().filter(|shard| shard.leader == node).count();
            let busiest = (1..=self.cluster.nodes()).max_by_key(|&node| leads(node));
            if let Some(busiest) = busiest.filter(|&node| leads(node) > 0) {
                return Some(busiest);
            }
        }
        None
    }

    /// A fault begins: what is drawn is said and recorded before it is done.
    pub fn begin(&mut self, kind: FaultKind, detail: String) {
        self.fault += 1;
        self.title = format!("{kind}: {detail}");
        println!("{:7.1} s  {}", self.history.now_ns() as f64 / 1e9, self.title);
        self.history.add(What::FaultBegin { fault: self.fault, kind: kind.name(), detail });
    }

    /// The cause of the fault is gone: nodes that are down are started, all lines are good.
    ///
    /// # Errors
    /// When a node cannot be started.
    pub fn heal(&mut self) -> Result<()> {
        self.links().mend();
        for node in 1..=self.cluster.nodes() {
            self.bury(node)?;
            if self.cluster.pid(node).is_none() {
                self.cluster.start_node(node)?;
            }
        }
        self.history.add(What::FaultHealed { fault: self.fault });
        Ok(())
    }

    /// Waits until all nodes are ready and see a leader for every shard, and each other. What takes too long is a
    /// problem, and the run goes on.
    ///
    /// # Errors
    /// When a node cannot be started.
    pub async fn recover(&mut self) -> Result<()> {
        let started = Instant::now();
        while let Err(why) = self.is_live().await {
            if started.elapsed() > self.options.recovery_max {
                let problem =
                    format!("not live {:?} after the end of {}: {why}", self.options.recovery_max, self.title);
                self.problem(problem);
                break;
            }
            self.pass(LOOK).await?;
            for node in 1..=self.cluster.nodes() {
                if self.cluster.pid(node).is_none() {
                    self.cluster.start_node(node)?;
                }
            }
        }
        self.history.add(What::FaultOver { fault: self.fault });
        Ok(())
    }

    /// Whether all nodes are ready, and see a leader for every shard and each other; or what is missing.
    pub async fn is_live(&self) -> Result<(), String> {
        for node in 1..=self.cluster.nodes() {
            if !self.cluster.is_ready(node).await {
                return Err(format!("node {node} is not ready"));
            }
            let view = self.cluster.view(node).await.ok_or_else(|| format!("node {node} does not answer"))?;
            if let Some(shard) = view.shards.iter().find(|shard| shard.leader == 0) {
                return Err(format!("node {node} knows no leader of shard {}", shard.shard));
            }
            if let Some(down) = view.nodes.iter().find(|node| !node.up) {
                return Err(format!("node {node} does not hear node {}", down.id));
            }
        }
        Ok(())
    }

    /// Lets time pass. A node that ends by itself meanwhile is a problem.
    ///
    /// # Errors
    /// When processes cannot be looked at.
    pub async fn pass(&mut self, time: Duration) -> Result<()> {
        let end = tokio::time::Instant::now() + time;
        loop {
            let now = tokio::time::Instant::now();
            tokio::time::sleep_until(end.min(now + LOOK)).await;
            for node in 1..=self.cluster.nodes() {
                self.bury(node)?;
            }
            if tokio::time::Instant::now() >= end {
                return Ok(());
            }
        }
    }

    /// Notes a node that ended by itself.
    fn bury(&mut self, node: u32) -> Result<()> {
        if let (Some(clocks), Some(pid)) = (&self.around.clocks, self.cluster.pid(node)) {
            clocks.saw(pid);
        }
        if let Some(status) = self.cluster.take_ended(node)? {
            let tail = self.cluster.log_tail(node);
            let title = self.title.clone();
            self.problem(format!("node {node} ended by itself ({status}) during {title}; the end of its log:\n{tail}"));
        }
        Ok(())
    }

    /// Notes something that must not be.
    pub fn problem(&mut self, problem: String) {
        println!("{:7.1} s  PROBLEM: {problem}", self.history.now_ns() as f64 / 1e9);
        self.problems.push(problem);
    }

    /// What must not have been.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}
