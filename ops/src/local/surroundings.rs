//! What a program puts between and around the nodes of a local cluster, to disturb them.

/// What a program puts between and around the nodes of a local cluster. The default: nothing.
pub trait Surroundings: std::fmt::Debug + Send + Sync {
    /// The address at which node `from` is told that it reaches the other nodes' side of node `to`, whose own is `real`
    /// (host:port). Asked for each ordered pair of nodes when the cluster starts, and again if it must choose other ports.
    fn peer_address(&self, from: u32, to: u32, real: &str) -> String {
        let _ = (from, to);
        real.to_owned()
    }

    /// Environment variables of a node, in addition to those of all nodes. Asked at each start of it.
    fn env(&self, node: u32) -> Vec<(String, String)> {
        let _ = node;
        Vec::new()
    }
}

/// Nothing.
#[derive(Debug)]
pub(super) struct Plain;

impl Surroundings for Plain {}
