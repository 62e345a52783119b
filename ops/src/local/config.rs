//! What is written down: a node's configuration file, and the cluster's own record in its folder.

use super::LocalError;
use super::secure::{Credentials, NodeFiles};
use super::surroundings::Surroundings;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// A node as the others reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub node: u32,
    pub api: String,
    pub peer: String,
    pub http: String,
    pub zone: String,
    /// HTTP for PanDA's programs; empty: not served.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub panda: String,
    /// It came after the cluster was made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
}

/// A node in another node's configuration file.
#[derive(Serialize)]
struct NodeMember {
    node: u32,
    api: String,
    peer: String,
    http: String,
    zone: String,
}

/// A node's configuration file.
#[derive(Serialize)]
struct NodeConfig<'a> {
    cluster: &'a str,
    node: u32,
    data: &'a Path,
    api: &'a str,
    peer: &'a str,
    http: &'a str,
    panda: &'a str,
    shards: u16,
    replicas: u32,
    join: bool,
    insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ca: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_keys: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_keys: Option<&'a Path>,
    members: Vec<NodeMember>,
}

/// The cluster's record: what must stay the same when it is started again from its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub cluster: String,
    pub shards: u16,
    pub replicas: u32,
    /// With certificates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
    pub members: Vec<Member>,
}

impl Record {
    /// A new cluster on ports that are free now.
    pub fn new(cluster: &str, nodes: u32, shards: u16, replicas: u32, secure: bool) -> Result<Self, LocalError> {
        let mut ports = free_ports(4 * nodes as usize)
            .map_err(LocalError::io("no free ports on 127.0.0.1"))?
            .into_iter()
            .map(|address| address.to_string());
        let mut port = || ports.next().expect("four ports per node were taken");
        let members = (1..=nodes)
            .map(|node| Member {
                node,
                api: port(),
                peer: port(),
                http: port(),
                panda: port(),
                zone: format!("zone-{node}"),
                joined: false,
            })
            .collect();
        Ok(Record { cluster: cluster.to_owned(), shards, replicas, secure, members })
    }

    /// Adds a node that joins, on ports that are free now.
    pub fn join(&mut self) -> Result<u32, LocalError> {
        let ports = free_ports(4).map_err(LocalError::io("no free ports on 127.0.0.1"))?;
        let node = self.members.iter().map(|member| member.node).max().unwrap_or(0) + 1;
        let [api, peer, http, panda] = [0, 1, 2, 3].map(|at: usize| ports[at].to_string());
        self.members.push(Member { node, api, peer, http, panda, zone: format!("zone-{node}"), joined: true });
        Ok(node)
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join("cluster.toml")
    }

    /// The record in this folder, if it holds a cluster.
    pub fn read(folder: &Path) -> Result<Option<Self>, LocalError> {
        let path = Self::path(folder);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LocalError::io(path.display().to_string())(error)),
        };
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| LocalError::Options(format!("{} is damaged: {error}", path.display())))
    }

    /// Writes the record and each node's configuration, which names the others as the surroundings show them.
    pub fn write(
        &self,
        folder: &Path,
        surroundings: &dyn Surroundings,
        credentials: Option<&Credentials>,
    ) -> Result<(), LocalError> {
        for member in &self.members {
            let data = node_folder(folder, member.node);
            std::fs::create_dir_all(&data).map_err(LocalError::io(data.display().to_string()))?;
            let files = credentials.map(|credentials| credentials.node(member.node)).transpose()?;
            write(&config_path(folder, member.node), &self.node_config(member, &data, surroundings, files.as_ref()))?;
        }
        // Last, so that a folder with a record is complete.
        let text = toml::to_string(self).expect("strings, numbers and tables are TOML");
        write(&Self::path(folder), &text)
    }

    fn node_config(
        &self,
        member: &Member,
        data: &Path,
        surroundings: &dyn Surroundings,
        files: Option<&NodeFiles>,
    ) -> String {
        // A cluster is made of those that it was made of.
        let known = self.members.iter().filter(|other| !other.joined || other.node == member.node);
        let members = known
            .map(|other| {
                let peer = match other.node == member.node {
                    true => other.peer.clone(),
                    false => surroundings.peer_address(member.node, other.node, &other.peer),
                };
                let Member { node, api, http, zone, .. } = other.clone();
                NodeMember { node, api, peer, http, zone }
            })
            .collect();
        toml::to_string(&NodeConfig {
            cluster: &self.cluster,
            node: member.node,
            data,
            api: &member.api,
            peer: &member.peer,
            http: &member.http,
            panda: &member.panda,
            shards: self.shards,
            replicas: self.replicas,
            join: member.joined,
            insecure: files.is_none(),
            tls_ca: files.map(|files| &*files.ca),
            tls_cert: files.map(|files| &*files.cert),
            tls_key: files.map(|files| &*files.key),
            token_keys: files.map(|files| &*files.token_keys),
            session_keys: files.map(|files| &*files.session_keys),
            members,
        })
        .expect("strings, numbers and tables are TOML")
    }
}

fn write(path: &Path, text: &str) -> Result<(), LocalError> {
    std::fs::write(path, text).map_err(LocalError::io(path.display().to_string()))
}

pub(super) fn node_folder(folder: &Path, node: u32) -> PathBuf {
    folder.join(format!("node-{node}"))
}

pub(super) fn config_path(folder: &Path, node: u32) -> PathBuf {
    folder.join(format!("node-{node}.toml"))
}

pub(super) fn log_path(folder: &Path, node: u32) -> PathBuf {
    folder.join(format!("node-{node}.log"))
}

/// Ports that nobody listens on. All are held until all are chosen, so that no two are equal.
fn free_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let listeners =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<Vec<_>>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::surroundings::Plain;
    use std::collections::BTreeSet;

    /// Names every line between two nodes.
    #[derive(Debug)]
    struct Lines;

    impl Surroundings for Lines {
        fn peer_address(&self, from: u32, to: u32, real: &str) -> String {
            format!("{from}-{to}-{real}")
        }
    }

    #[test]
    fn a_node_is_told_the_others_as_its_surroundings_show_them() {
        let record = Record::new("here", 3, 6, 3, false).unwrap();
        let text = record.node_config(&record.members[1], Path::new("/data/node-2"), &Lines, None);
        let config: toml::Table = text.parse().unwrap();
        let real = |node: usize| record.members[node - 1].peer.clone();
        assert_eq!(config["peer"].as_str(), Some(&*real(2)), "its own address stays");
        let members = config["members"].as_array().unwrap();
        let peers: Vec<_> = members.iter().map(|member| member["peer"].as_str().unwrap().to_owned()).collect();
        assert_eq!(peers, [format!("2-1-{}", real(1)), real(2), format!("2-3-{}", real(3))]);
    }

    #[test]
    fn a_node_is_told_itself_and_all_members() {
        let record = Record::new("here", 3, 6, 3, false).unwrap();
        let text = record.node_config(&record.members[1], Path::new("/data/node-2"), &Plain, None);
        let config: toml::Table = text.parse().unwrap();
        assert_eq!(config["cluster"].as_str(), Some("here"));
        assert_eq!(config["node"].as_integer(), Some(2));
        assert_eq!(config["data"].as_str(), Some("/data/node-2"));
        assert_eq!(config["api"].as_str(), Some(&*record.members[1].api));
        assert_eq!(config["shards"].as_integer(), Some(6));
        assert_eq!(config["replicas"].as_integer(), Some(3));
        let members = config["members"].as_array().unwrap();
        let keys: Vec<_> = members[2].as_table().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members.len(), 3);
        assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), ["api", "http", "node", "peer", "zone"].into());
    }

    #[test]
    fn ports_differ() {
        let record = Record::new("here", 5, 6, 3, false).unwrap();
        let ports: BTreeSet<_> = record.members.iter().flat_map(|m| [&m.api, &m.peer, &m.http]).collect();
        assert_eq!(ports.len(), 15);
    }

    #[test]
    fn the_record_comes_back_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), None);
        let record = Record::new("here", 2, 4, 1, false).unwrap();
        record.write(folder.path(), &Plain, None).unwrap();
        assert_eq!(Record::read(folder.path()).unwrap(), Some(record));
        assert!(config_path(folder.path(), 2).exists());
        std::fs::write(Record::path(folder.path()), "cluster = 7").unwrap();
        assert!(matches!(Record::read(folder.path()), Err(LocalError::Options(_))));
    }
}
