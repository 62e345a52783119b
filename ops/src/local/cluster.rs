//! A cluster of node processes on loopback.

use super::LocalError;
use super::config::{Record, config_path, log_path};
use super::node::{Process, tail};
use super::probe::{is_ready, view};
use super::secure::Credentials;
use super::surroundings::{Plain, Surroundings};
use moso_client::ClientOptions;
use moso_proto::object::Node;
use moso_proto::view::Cluster;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Names the node program.
const BINARY_ENV: &str = "MOSO_NODE";
/// How often a node that starts is asked.
const POLL: Duration = Duration::from_millis(25);
/// Starts tried when another process took a port between its choice and its use.
const STARTS_MAX: u32 = 3;
/// A node that was asked to end is killed after this.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// How a local cluster is made.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Nodes. Default 3.
    pub nodes: u32,
    /// Shards, 1..=4095; fixed once the cluster is made. Default 6.
    pub shards: u16,
    /// Replicas of each shard, at most the number of nodes. Default 3, or 1 with fewer than three nodes.
    pub replicas: Option<u32>,
    /// Cluster name. Default `local`.
    pub cluster: String,
    /// Folder for data and logs, kept. `None`: a temporary one, removed in the end. A folder that holds a cluster is
    /// started again with its ports.
    pub data: Option<PathBuf>,
    /// The node program. `None`: `$MOSO_NODE`, or `moso-node` beside the running program.
    pub binary: Option<PathBuf>,
    /// Environment variables for the nodes, in addition to ours.
    pub env: Vec<(String, String)>,
    /// What stands between and around the nodes. Default: nothing.
    pub surroundings: Arc<dyn Surroundings>,
    /// Encrypted and with certificates and tokens, made in its folder; otherwise in plain text, where nobody is asked who
    /// he is. Default: plain.
    pub secure: bool,
    /// Longest time to wait for readiness. Default 60 s.
    pub ready_timeout: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions {
            nodes: 3,
            shards: 6,
            replicas: None,
            cluster: "local".into(),
            data: None,
            binary: None,
            env: Vec::new(),
            surroundings: Arc::new(Plain),
            secure: false,
            ready_timeout: Duration::from_secs(60),
        }
    }
}

/// A cluster of `moso-node` processes on 127.0.0.1. Dropping it kills and reaps what still runs.
///
/// ```no_run
/// use moso::{LocalCluster, LocalOptions};
///
/// # async fn example() -> Result<(), moso::LocalError> {
/// let mut cluster = LocalCluster::start(LocalOptions::default()).await?;
/// println!("{}", cluster.addrs().join(","));
/// cluster.kill(2)?;
/// cluster.restart(2).await?;
/// cluster.stop().await
/// # }
/// ```
pub struct LocalCluster {
    // Before the folder, so that processes end before it is removed.
    processes: Vec<Option<Process>>,
    record: Record,
    options: LocalOptions,
    credentials: Option<Credentials>,
    binary: PathBuf,
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

impl LocalCluster {
    /// Starts a cluster and waits until every node is ready.
    ///
    /// # Errors
    /// See [`LocalError`]; what was started is ended.
    pub async fn start(options: LocalOptions) -> Result<Self, LocalError> {
        let mut tries = 1;
        loop {
            match Self::start_once(options.clone()).await {
                Err(LocalError::Died { tail, .. }) if lost_port(&tail) && tries < STARTS_MAX => {
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn start_once(options: LocalOptions) -> Result<Self, LocalError> {
        let (mut cluster, is_new) = Self::prepare_once(options)?;
        let started = cluster.start_nodes().await;
        if let (Err(LocalError::Died { tail, .. }), true) = (&started, is_new)
            && lost_port(tail)
        {
            // Nothing was stored: the next try chooses other ports.
            cluster.processes.clear();
            remove_all(&cluster.folder, cluster.record.members.len() as u32);
        }
        started.map(|()| cluster)
    }

    /// Writes the nodes' configurations and starts nothing, so that data folders can be made before the first start: see
    /// [`LocalCluster::config`], [`LocalCluster::start_nodes`].
    ///
    /// # Errors
    /// [`LocalError::NoBinary`], [`LocalError::Options`], [`LocalError::Io`].
    pub fn prepare(options: LocalOptions) -> Result<Self, LocalError> {
        Self::prepare_once(options).map(|(cluster, _)| cluster)
    }

    fn prepare_once(options: LocalOptions) -> Result<(Self, bool), LocalError> {
        let binary = find_binary(options.binary.as_deref())?;
        let (folder, temporary) = match &options.data {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(LocalError::io(folder.display().to_string()))?;
                // Nodes are told absolute paths: the folder may be given relative to ours.
                let folder = folder.canonicalize().map_err(LocalError::io(folder.display().to_string()))?;
                (folder, None)
            }
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("moso-")
                    .tempdir()
                    .map_err(LocalError::io("cannot make a temporary folder"))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let known = Record::read(&folder)?;
        let is_new = known.is_none();
        let record = match known {
            Some(record) => matching(record, &options, &folder)?,
            None => new_record(&options)?,
        };
        let credentials = match record.secure {
            true => {
                let nodes = record.members.iter().map(|member| member.node);
                Some(Credentials::make(&folder, &record.cluster, nodes)?)
            }
            false => None,
        };
        record.write(&folder, &*options.surroundings, credentials.as_ref())?;
        let cluster = LocalCluster {
            processes: record.members.iter().map(|_| None).collect(),
            record,
            options,
            credentials,
            binary,
            folder,
            _temporary: temporary,
        };
        Ok((cluster, is_new))
    }

    /// Starts all nodes and waits until every one is ready.
    ///
    /// # Errors
    /// As [`wait_ready`](Self::wait_ready).
    pub async fn start_nodes(&mut self) -> Result<(), LocalError> {
        for node in 1..=self.nodes() {
            self.spawn(node)?;
        }
        self.wait_ready().await
    }

    fn spawn(&mut self, node: u32) -> Result<(), LocalError> {
        let index = self.index(node)?;
        let config = config_path(&self.folder, node);
        let log = log_path(&self.folder, node);
        let env = [self.options.env.clone(), self.options.surroundings.env(node)].concat();
        let process = Process::spawn(&self.binary, node, &config, log, &env)?;
        self.processes[index] = Some(process);
        Ok(())
    }

    /// Waits until every running node is ready.
    ///
    /// # Errors
    /// [`LocalError::Died`] and [`LocalError::NotReady`], with the end of the node's log.
    pub async fn wait_ready(&mut self) -> Result<(), LocalError> {
        let started = Instant::now();
        let timeout = self.options.ready_timeout;
        let mut ready = vec![false; self.processes.len()];
        loop {
            for process in self.processes.iter_mut().flatten() {
                process.check()?;
                let index = process.node as usize - 1;
                if !ready[index] {
                    ready[index] = is_ready(&self.record.members[index].http, self.credentials.as_ref()).await;
                }
            }
            let mut missing = self.processes.iter().flatten();
            let Some(process) = missing.find(|p| !ready[p.node as usize - 1]) else {
                return Ok(());
            };
            if started.elapsed() > timeout {
                return Err(LocalError::NotReady {
                    node: process.node,
                    seconds: timeout.as_secs(),
                    log: process.log.clone(),
                    tail: process.tail(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Starts one more node, which waits to be let in: see [`LocalCluster::object`]. Gives its number.
    ///
    /// # Errors
    /// [`LocalError::Io`] when its files cannot be written or the process cannot be started.
    pub fn add_node(&mut self) -> Result<u32, LocalError> {
        let node = self.record.join()?;
        if let Some(credentials) = &self.credentials {
            Credentials::make(&self.folder, &self.record.cluster, std::iter::once(node))?;
            self.record.write(&self.folder, &*self.options.surroundings, Some(credentials))?;
        } else {
            self.record.write(&self.folder, &*self.options.surroundings, None)?;
        }
        self.processes.push(None);
        self.spawn(node)?;
        Ok(node)
    }

    /// The object with which a cluster knows a node.
    ///
    /// # Errors
    /// [`LocalError::NoNode`].
    pub fn object(&self, node: u32) -> Result<Node, LocalError> {
        let member = &self.record.members[self.index(node)?];
        let (api, peer, http) = (member.api.clone(), member.peer.clone(), member.http.clone());
        Ok(Node { api, peer, http, zone: member.zone.clone(), drain: false })
    }

    /// Number of nodes; they are numbered from 1.
    pub fn nodes(&self) -> u32 {
        self.record.members.len() as u32
    }

    /// The cluster as a node sees it (HTTP `/v1/cluster`); `None` when it does not answer within 2 s.
    pub async fn view(&self, node: u32) -> Option<Cluster> {
        view(&self.record.members[self.index(node).ok()?].http, self.credentials.as_ref()).await
    }

    /// Whether a node answers that it is ready, within 2 s.
    pub async fn is_ready(&self, node: u32) -> bool {
        match self.index(node) {
            Ok(index) => is_ready(&self.record.members[index].http, self.credentials.as_ref()).await,
            Err(_) => false,
        }
    }

    /// API addresses (gRPC) of all nodes, by number.
    pub fn addrs(&self) -> Vec<String> {
        self.record.members.iter().map(|m| m.api.clone()).collect()
    }

    /// HTTP addresses of all nodes, by number.
    pub fn http_addrs(&self) -> Vec<String> {
        self.record.members.iter().map(|m| m.http.clone()).collect()
    }

    /// What its clients need to show, if it asks who calls.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The options of a client that may do everything here.
    pub fn client_options(&self, options: ClientOptions) -> ClientOptions {
        match &self.credentials {
            Some(credentials) => credentials.options(options),
            None => options,
        }
    }

    /// Addresses for PanDA's programs (HTTP) of all nodes, by number; empty in a folder made before there were any.
    pub fn panda_addrs(&self) -> Vec<String> {
        self.record.members.iter().map(|m| m.panda.clone()).collect()
    }

    /// Folder of data and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The configuration file of a node.
    pub fn config(&self, node: u32) -> PathBuf {
        config_path(&self.folder, node)
    }

    /// The log of a node.
    pub fn log(&self, node: u32) -> PathBuf {
        log_path(&self.folder, node)
    }

    /// Process id of a node that was started and not stopped or killed by us.
    pub fn pid(&self, node: u32) -> Option<u32> {
        let index = self.index(node).ok()?;
        self.processes[index].as_ref().map(Process::pid)
    }

    /// Fails if a node has ended that nobody stopped or killed.
    ///
    /// # Errors
    /// [`LocalError::Died`] with the end of its log.
    pub fn check(&mut self) -> Result<(), LocalError> {
        self.processes.iter_mut().flatten().try_for_each(Process::check)
    }

    /// How a node ended that nobody stopped or killed, if it has. It counts as stopped from then on.
    ///
    /// # Errors
    /// [`LocalError::Io`] when the process cannot be looked at.
    pub fn take_ended(&mut self, node: u32) -> Result<Option<ExitStatus>, LocalError> {
        let index = self.index(node)?;
        let Some(process) = &mut self.processes[index] else { return Ok(None) };
        let status = process.status()?;
        if status.is_some() {
            self.processes[index] = None;
        }
        Ok(status)
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, node: u32) -> String {
        tail(&self.log(node))
    }

    /// Data folder of a node.
    pub fn data(&self, node: u32) -> PathBuf {
        super::config::node_folder(&self.folder, node)
    }

    /// Kills a node with SIGKILL and reaps it.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] when it does not run.
    pub fn kill(&mut self, node: u32) -> Result<(), LocalError> {
        self.take(node)?.kill()
    }

    /// Stops a node with SIGTERM and waits for its end. Gives whether it ended by itself and well; after 30 s it is
    /// killed.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] when it does not run.
    pub async fn stop_node(&mut self, node: u32) -> Result<bool, LocalError> {
        self.take(node)?.stop(STOP_GRACE).await
    }

    /// Starts a node (again) on its data, ending it first (SIGKILL) if it runs, and waits until it is ready.
    ///
    /// # Errors
    /// As [`wait_ready`](Self::wait_ready).
    pub async fn restart(&mut self, node: u32) -> Result<(), LocalError> {
        self.start_node(node)?;
        self.wait_ready().await
    }

    /// As [`restart`](Self::restart), without the wait.
    ///
    /// # Errors
    /// [`LocalError::Io`] when the process cannot be started.
    pub fn start_node(&mut self, node: u32) -> Result<(), LocalError> {
        let index = self.index(node)?;
        self.processes[index] = None;
        self.spawn(node)
    }

    /// Halts a node with SIGSTOP, as if its machine had stalled.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] when it does not run.
    pub fn pause(&mut self, node: u32) -> Result<(), LocalError> {
        self.running(node)?.signal(Signal::SIGSTOP)
    }

    /// Lets a halted node go on.
    ///
    /// # Errors
    /// [`LocalError::NoNode`] when it does not run.
    pub fn resume(&mut self, node: u32) -> Result<(), LocalError> {
        self.running(node)?.signal(Signal::SIGCONT)
    }

    /// Stops all nodes with SIGTERM, each killed after 30 s, and reaps them.
    ///
    /// # Errors
    /// [`LocalError::Io`] when a process cannot be signalled or waited for.
    pub async fn stop(&mut self) -> Result<(), LocalError> {
        let processes = self.processes.iter_mut().filter_map(Option::take);
        let stops = processes.map(|mut process| async move { process.stop(STOP_GRACE).await });
        futures::future::try_join_all(stops).await.map(drop)
    }

    fn index(&self, node: u32) -> Result<usize, LocalError> {
        match (node as usize).checked_sub(1) {
            Some(index) if index < self.record.members.len() => Ok(index),
            _ => Err(LocalError::NoNode(node)),
        }
    }

    fn running(&mut self, node: u32) -> Result<&mut Process, LocalError> {
        let index = self.index(node)?;
        self.processes[index].as_mut().ok_or(LocalError::NoNode(node))
    }

    fn take(&mut self, node: u32) -> Result<Process, LocalError> {
        let index = self.index(node)?;
        self.processes[index].take().ok_or(LocalError::NoNode(node))
    }
}

fn new_record(options: &LocalOptions) -> Result<Record, LocalError> {
    let replicas = options.replicas.unwrap_or(if options.nodes < 3 { 1 } else { 3 });
    if options.nodes == 0 || options.nodes > 99 {
        return Err(LocalError::Options("a local cluster has 1 to 99 nodes".into()));
    }
    if replicas == 0 || replicas > options.nodes {
        return Err(LocalError::Options(format!("{replicas} replicas do not fit {} nodes", options.nodes)));
    }
    if !(1..=moso_proto::id::SHARD_MAX).contains(&options.shards) {
        return Err(LocalError::Options(format!("a cluster has 1 to {} shards", moso_proto::id::SHARD_MAX)));
    }
    Record::new(&options.cluster, options.nodes, options.shards, replicas, options.secure)
}

/// The record, if the options ask for the cluster it describes.
fn matching(record: Record, options: &LocalOptions, folder: &Path) -> Result<Record, LocalError> {
    let nodes = record.members.len() as u32;
    if (nodes, record.shards) != (options.nodes, options.shards) {
        return Err(LocalError::Options(format!(
            "{} holds a cluster of {nodes} nodes and {} shards, not of {} and {}; name another folder, or ask for what it holds",
            folder.display(),
            record.shards,
            options.nodes,
            options.shards
        )));
    }
    if record.secure != options.secure {
        let made = if record.secure { "with" } else { "without" };
        return Err(LocalError::Options(format!(
            "{} holds a cluster {made} certificates (insecure); name another folder, or ask for what it holds",
            folder.display()
        )));
    }
    Ok(record)
}

/// The node program: named by the caller or the environment, or beside this program. Test programs are one folder
/// further down.
fn find_binary(named: Option<&Path>) -> Result<PathBuf, LocalError> {
    let named = named.map(Path::to_owned);
    let path = match named.or_else(|| std::env::var_os(BINARY_ENV).map(PathBuf::from)) {
        Some(path) => path,
        None => {
            let program = std::env::current_exe().map_err(LocalError::io("cannot find the running program"))?;
            let mut folder = program.parent().unwrap_or(Path::new("."));
            if folder.ends_with("deps") || folder.ends_with("examples") {
                folder = folder.parent().unwrap_or(folder);
            }
            folder.join("moso-node")
        }
    };
    match path.is_file() {
        true => Ok(path),
        false => Err(LocalError::NoBinary(path)),
    }
}

fn lost_port(tail: &str) -> bool {
    tail.to_lowercase().contains("address already in use")
}

/// Removes what a start without success left behind, and nothing else: the folder may be the user's.
fn remove_all(folder: &Path, nodes: u32) {
    let _ = std::fs::remove_file(folder.join("cluster.toml"));
    for node in 1..=nodes {
        let _ = std::fs::remove_dir_all(super::config::node_folder(folder, node));
        let _ = std::fs::remove_file(log_path(folder, node));
    }
}

#[cfg(test)]
mod tests;
