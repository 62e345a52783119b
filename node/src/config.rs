//! A node's configuration: one TOML file; `MOSO_NODE_<KEY>` in the environment overrides a key of it, a flag both.

mod check;
mod keys;

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::offline::Offline;
use clap::Parser;
use moso_proto::level;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use toml::{Table, Value};

/// Prefix of the environment variables that override a key.
pub const ENV_PREFIX: &str = "MOSO_NODE_";

/// One node of a moso cluster.
#[derive(Debug, Default, Parser)]
#[command(
    name = "moso-node",
    version,
    after_help = "`moso-node restore --help`: make the data folder from a backup.",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, env = "MOSO_NODE_CONFIG", value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// Number of this node.
    #[arg(long, value_name = "N")]
    pub node: Option<u32>,
    /// Data folder.
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// Address for clients and workers (gRPC).
    #[arg(long, value_name = "IP:PORT")]
    pub api: Option<String>,
    /// Address for the other nodes.
    #[arg(long, value_name = "IP:PORT")]
    pub peer: Option<String>,
    /// Address for pages and metrics.
    #[arg(long, value_name = "IP:PORT")]
    pub http: Option<String>,
    /// No TLS, and nobody is asked who he is: only on loopback, to try things out.
    #[arg(long)]
    pub insecure: bool,
    /// Address for PanDA's pilots, clients and Harvester (HTTP).
    #[arg(long, value_name = "IP:PORT")]
    pub panda: Option<String>,
    /// Say "ok", or all that is wrong, and end.
    #[arg(long)]
    pub check_config: bool,
    /// Print the configuration as it is in force, and end.
    #[arg(long)]
    pub print_config: bool,
    /// Instead of running a node.
    #[command(subcommand)]
    pub offline: Option<Offline>,
}

/// A node of the cluster, as the others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its number, 1 to 65,535. Never given to another node, nor to one that lost its data folder.
    pub node: u32,
    /// host:port for clients and workers (gRPC).
    pub api: String,
    /// host:port for the other nodes.
    pub peer: String,
    /// host:port for pages and metrics.
    pub http: String,
    /// What fails as one: a rack, a room. Replicas of a shard should be in different zones.
    #[serde(default)]
    pub zone: String,
}

/// A node's configuration. Ranges and units of the numbers are checked, see `moso-node --check-config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the cluster, the same on all its nodes. Required.
    pub cluster: String,
    /// Number of this node; one of `members`. Required.
    pub node: u32,
    /// Data folder. Required.
    pub data: PathBuf,
    /// IP:port to listen on for clients and workers; this member's own if not given.
    pub api: String,
    /// IP:port to listen on for the other nodes; this member's own if not given.
    pub peer: String,
    /// IP:port to listen on for pages and metrics; this member's own if not given.
    pub http: String,
    /// IP:port to listen on for PanDA's pilots, clients and Harvester; empty: not served.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub panda: String,
    /// Time for the body of a request of PanDA's programs to arrive, s.
    pub panda_body_s: u64,
    /// How long uploads of PanDA's programs are kept, s; the same on all nodes.
    pub panda_upload_s: u64,
    /// Of no more use: with TLS a node may listen anywhere, without it only on loopback.
    pub listen_anywhere: bool,
    /// No TLS, and nobody is asked who he is: only on loopback.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Certificates of those whose signatures are trusted, PEM. Required, as the next two, unless `insecure`.
    #[serde(skip_serializing_if = "is_empty")]
    pub tls_ca: PathBuf,
    /// The node's certificate, PEM; it names cluster and node.
    #[serde(skip_serializing_if = "is_empty")]
    pub tls_cert: PathBuf,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "is_empty")]
    pub tls_key: PathBuf,
    /// Public keys of the cluster's own tokens (JWKS); without them no such token is taken.
    #[serde(skip_serializing_if = "is_empty")]
    pub token_keys: PathBuf,
    /// Other issuers whose tokens are taken (JSON).
    #[serde(skip_serializing_if = "is_empty")]
    pub token_issuers: PathBuf,
    /// Keys that make workers' sessions their own (JSON), the same on all nodes. Required unless `insecure`.
    #[serde(skip_serializing_if = "is_empty")]
    pub session_keys: PathBuf,
    /// Number of shards, fixed when the cluster is made.
    pub shards: u16,
    /// Replicas of each shard: 1, 3 or 5.
    pub replicas: u32,
    /// Threads that own shards. Default: a quarter of the cores, 1 to 8.
    pub reactors: usize,
    /// Threads that serve clients, workers and nodes. Default: half of the cores.
    pub api_threads: usize,
    /// Connections of clients and workers at once.
    pub api_connections: usize,
    /// Of these from one address; those from this machine are not counted.
    pub address_connections: usize,
    /// Connections for pages and metrics at once.
    pub http_connections: usize,
    /// Memory for calls and replies under way, MiB. Submissions are refused once half of it is in use, heartbeats and
    /// results last.
    pub api_memory_mib: usize,
    /// Raft's unit of time, ms.
    pub raft_tick_ms: u64,
    /// Ticks without a word from the leader before another one is elected; up to twice as many.
    pub election_ticks: u32,
    /// Ticks between a leader's heartbeats.
    pub heartbeat_ticks: u32,
    /// A file of the log, MiB. The log has as many as it needs, and some to spare.
    pub log_segment_mib: usize,
    /// A memtable of a shard's state, MiB.
    pub state_write_buffer_mib: usize,
    /// Memtables of all shards' states, MiB.
    pub state_memory_mib: usize,
    /// Blocks of the state kept after being read, MiB.
    pub block_cache_mib: usize,
    /// Log that a shard keeps for replicas that lag, MiB: who lacks more gets a copy of the state.
    pub log_keep_mib: u64,
    /// What copies of shards' states to other nodes may take of the line, MiB/s each.
    pub snapshot_mib_per_s: u64,
    /// This node is added to a cluster that runs: `members` are itself and some of the cluster's nodes.
    pub join: bool,
    /// Space kept for the end of a full disk, MiB: given up when there is no other. Less free is taken for a full disk.
    pub reserve_mib: usize,
    /// Free space of the data folder's disk below which submissions are refused and leaderships given away, MiB.
    pub disk_low_mib: usize,
    /// A write of the log longer than this means that the disk hangs, ms: leaderships are given up. After a minute the
    /// node ends.
    pub disk_stuck_ms: u64,
    /// Highest feature level that this node admits to know: to rehearse an upgrade, with nodes that behave as an older
    /// version would.
    pub feature_level_max: u32,
    /// All nodes of the cluster when it is made, this one too. Required.
    pub members: Vec<Member>,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Config {
            cluster: String::new(),
            node: 0,
            data: PathBuf::new(),
            api: String::new(),
            peer: String::new(),
            http: String::new(),
            panda: String::new(),
            panda_body_s: 60,
            panda_upload_s: 7 * 86_400,
            listen_anywhere: false,
            insecure: false,
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            token_keys: PathBuf::new(),
            token_issuers: PathBuf::new(),
            session_keys: PathBuf::new(),
            shards: 64,
            replicas: 3,
            reactors: (cores / 4).clamp(1, 8),
            api_threads: (cores / 2).clamp(1, 256),
            api_connections: 12_000,
            address_connections: 2_048,
            http_connections: 256,
            api_memory_mib: 1_024,
            raft_tick_ms: 100,
            election_ticks: 20,
            heartbeat_ticks: 3,
            log_segment_mib: 16,
            state_write_buffer_mib: 16,
            state_memory_mib: 192,
            block_cache_mib: 64,
            log_keep_mib: 96,
            snapshot_mib_per_s: 100,
            join: false,
            reserve_mib: 64,
            disk_low_mib: 256,
            disk_stuck_ms: 3_000,
            feature_level_max: level::LEVEL,
            members: Vec::new(),
        }
    }
}

impl Config {
    /// The configuration that this process was started with, by `cli` and its environment. As for `--help`, the process ends here if it was only to
    /// check or print it.
    ///
    /// # Errors
    /// `Config` with every mistake found; `Io` if the file cannot be read.
    pub fn load(cli: &Cli) -> Result<Config> {
        let config = Config::read(cli, std::env::vars())?;
        check::check_secured(&config).map_err(Error::Config)?;
        if cli.print_config {
            print!("{}", config.to_toml());
        }
        if cli.check_config {
            println!("ok");
        }
        if cli.print_config || cli.check_config {
            std::process::exit(0);
        }
        Ok(config)
    }

    /// The configuration in force: the file, overridden by `env`, overridden by `cli`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(cli: &Cli, env: impl IntoIterator<Item = (String, String)>) -> Result<Config> {
        let missing = || Error::Config(vec!["--config FILE must be given".to_owned()]);
        let file = cli.config.as_deref().ok_or_else(missing)?;
        let path = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| Error::io(format!("{path}"), error))?;
        let mut table: Table =
            text.parse().map_err(|error: toml::de::Error| Error::Config(vec![format!("{path}: {error}")]))?;
        let mut errors = Vec::new();
        override_by_env(&mut table, env, &mut errors);
        override_by_flags(&mut table, cli);
        keys::check(&table, &mut errors);
        if !errors.is_empty() {
            return Err(Error::Config(errors));
        }
        let mut config: Config =
            table.try_into().map_err(|error: toml::de::Error| Error::Config(vec![format!("{path}: {error}")]))?;
        config.listen_as_own_member();
        check::check(&config).map_err(Error::Config)?;
        Ok(config)
    }

    /// As a TOML file.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers, strings and tables are TOML")
    }

    /// This node among the members.
    pub fn own_member(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.node == self.node)
    }

    fn listen_as_own_member(&mut self) {
        let Some(own) = self.own_member().cloned() else { return };
        for (address, of_member) in [(&mut self.api, own.api), (&mut self.peer, own.peer), (&mut self.http, own.http)] {
            if address.is_empty() {
                *address = of_member;
            }
        }
    }
}

fn is_empty(path: &std::path::Path) -> bool {
    path.as_os_str().is_empty()
}

fn override_by_env(table: &mut Table, env: impl IntoIterator<Item = (String, String)>, errors: &mut Vec<String>) {
    for (name, text) in env {
        let Some(key) = name.strip_prefix(ENV_PREFIX).map(str::to_ascii_lowercase) else { continue };
        match key.as_str() {
            // The flag's own variable.
            "config" => {}
            "members" => errors.push(format!("{name}: members can only be given in the file")),
            _ if keys::is_text(&key) => drop(table.insert(key, Value::String(text))),
            _ if keys::is_known(&key) => {
                // What is not a number or a truth value is refused by the check of the keys.
                let parsed = format!("value = {text}").parse::<Table>().ok();
                let value = parsed.and_then(|mut table| table.remove("value"));
                table.insert(key, value.unwrap_or(Value::String(text)));
            }
            _ => errors.push(format!("{name}: {}", keys::unknown(&key))),
        }
    }
}

fn override_by_flags(table: &mut Table, cli: &Cli) {
    if let Some(node) = cli.node {
        table.insert("node".to_owned(), Value::Integer(node.into()));
    }
    if cli.insecure {
        table.insert("insecure".to_owned(), Value::Boolean(true));
    }
    let texts =
        [("data", &cli.data), ("api", &cli.api), ("peer", &cli.peer), ("http", &cli.http), ("panda", &cli.panda)];
    for (key, value) in texts {
        if let Some(value) = value {
            table.insert(key.to_owned(), Value::String(value.clone()));
        }
    }
}
