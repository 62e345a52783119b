//! placeholder
use crate::error::Error;
use serde::Deserialize;
use std::path::PathBuf;
/// Member.
#[derive(Clone, Debug, Deserialize)]
pub struct Member { pub node: u32, pub api: String, pub peer: String, pub http: String, #[serde(default)] pub zone: String }
/// Config.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    pub cluster: String, pub node: u32, pub data: PathBuf, pub api: String, pub peer: String, pub http: String,
    pub shards: u16, pub replicas: u32, pub members: Vec<Member>, pub reactors: usize, pub api_threads: usize,
    pub raft_tick_ms: u64, pub election_ticks: u32, pub heartbeat_ticks: u32,
    pub log_write_buffer_mib: usize, pub state_write_buffer_mib: usize, pub state_memory_mib: usize, pub block_cache_mib: usize,
}
impl Default for Config { fn default() -> Self { Config { cluster: String::new(), node: 0, data: PathBuf::new(), api: String::new(), peer: String::new(), http: String::new(), shards: 64, replicas: 3, members: vec![], reactors: 1, api_threads: 1, raft_tick_ms: 100, election_ticks: 20, heartbeat_ticks: 3, log_write_buffer_mib: 64, state_write_buffer_mib: 16, state_memory_mib: 192, block_cache_mib: 64 } } }
impl Config { pub fn load() -> Result<Self, Error> {
    let path = std::env::args().skip_while(|a| a != "--config").nth(1).unwrap_or_default();
    let text = std::fs::read_to_string(&path).map_err(|e| Error::Config(vec![format!("{path}: {e}")]))?;
    toml::from_str(&text).map_err(|e| Error::Config(vec![e.to_string()])) } }
