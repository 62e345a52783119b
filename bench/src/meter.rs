//! What the nodes used: CPU time, memory and bytes written, from the nodes' own counters. A node that was started
//! again counts from zero; what it counted before is kept.

use moso_proto::view::{Cluster, NodeView};
use std::collections::BTreeMap;

/// Sums over the nodes since the first observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time, µs.
    pub cpu_us: u64,
    /// Bytes written to disk.
    pub written_bytes: u64,
    /// Heartbeats of single jobs.
    pub heartbeats: u64,
    /// Results refused.
    pub refused: u64,
}

impl Used {
    /// What was used since an earlier reading.
    pub fn since(self, earlier: Used) -> Used {
        Used {
            cpu_us: self.cpu_us - earlier.cpu_us,
            written_bytes: self.written_bytes - earlier.written_bytes,
            heartbeats: self.heartbeats - earlier.heartbeats,
            refused: self.refused - earlier.refused,
        }
    }
}

/// Reads the counters.
#[derive(Debug, Default)]
pub struct Meter {
    last: BTreeMap<u32, NodeView>,
    begun: bool,
    used: Used,
    rss_peak: u64,
}

impl Meter {
    /// Takes a view of the cluster. Restarts are noticed by counters that went back.
    pub fn observe(&mut self, cluster: &Cluster) {
        for node in cluster.nodes.iter().filter(|n| n.up && n.cpu_us > 0) {
            let fresh = NodeView::default();
            let before = match self.last.get(&node.id) {
                Some(last) if last.cpu_us <= node.cpu_us && last.uptime_s <= node.uptime_s => last,
                // Started again, or started since the beginning: everything it counted is new.
                _ if self.begun => &fresh,
                _ => node,
            };
            let grown = |now: u64, before: u64| now.saturating_sub(before);
            self.used.cpu_us += grown(node.cpu_us, before.cpu_us);
            self.used.written_bytes += grown(node.written_bytes, before.written_bytes);
            self.used.heartbeats += grown(node.heartbeats, before.heartbeats);
            self.used.refused += grown(node.refused, before.refused);
            self.last.insert(node.id, node.clone());
        }
        self.begun = true;
        self.rss_peak = self.rss_peak.max(self.rss_bytes());
    }

    /// Used since the first observation.
    pub fn used(&self) -> Used {
        self.used
    }

    /// Resident memory of all nodes now, bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.last.values().map(|node| node.rss_bytes).sum()
    }

    /// Most resident memory of all nodes, bytes.
    pub fn rss_peak_bytes(&self) -> u64 {
        self.rss_peak
    }

    /// Memory of live jobs by the nodes' own count, bytes, all nodes.
    pub fn job_bytes(&self) -> u64 {
        self.last.values().map(|node| node.job_bytes).sum()
    }

    /// Nodes seen.
    pub fn nodes(&self) -> u64 {
        self.last.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, cpu_us: u64, uptime_s: u64) -> NodeView {
        NodeView {
            id,
            up: true,
            cpu_us,
            uptime_s,
            written_bytes: cpu_us * 10,
            heartbeats: cpu_us / 10,
            rss_bytes: 1_000,
            ..NodeView::default()
        }
    }

    fn cluster(nodes: &[NodeView]) -> Cluster {
        Cluster { nodes: nodes.to_vec(), ..Cluster::default() }
    }

    #[test]
    fn a_restarted_node_counts_on() {
        let mut meter = Meter::default();
        meter.observe(&cluster(&[node(1, 500, 10), node(2, 700, 10)]));
        assert_eq!(meter.used(), Used::default());
        meter.observe(&cluster(&[node(1, 600, 11), node(2, 900, 11)]));
        assert_eq!(meter.used().cpu_us, 300);
        // Node 2 is down, then back with 50 µs.
        let mut down = node(2, 0, 0);
        down.up = false;
        meter.observe(&cluster(&[node(1, 700, 12), down]));
        assert_eq!(meter.used().cpu_us, 400);
        meter.observe(&cluster(&[node(1, 700, 13), node(2, 50, 1)]));
        let used = meter.used();
        assert_eq!((used.cpu_us, used.written_bytes), (450, 4_500));
        assert_eq!(used.since(used), Used::default());
        assert_eq!((meter.rss_bytes(), meter.nodes()), (2_000, 2));
    }

    #[test]
    fn a_restart_is_seen_by_the_uptime_too() {
        let mut meter = Meter::default();
        meter.observe(&cluster(&[node(1, 500, 100)]));
        meter.observe(&cluster(&[node(1, 600, 3)]));
        assert_eq!(meter.used().cpu_us, 600);
    }
}
