//! `moso cluster`.

use super::output::{Output, Table};
use super::text;
use anyhow::Result;
use moso_client::Client;
use moso_proto::view::Cluster;

pub async fn run(client: &Client, out: &Output) -> Result<()> {
    let cluster = client.cluster().await?;
    out.show(&cluster, show)
}

fn show(cluster: &Cluster) -> String {
    format!(
        "cluster {}, feature level {}, as node {} sees it\n\n{}\n{}\n{}{}",
        cluster.cluster,
        cluster.feature_level,
        cluster.node,
        nodes(cluster),
        shards(cluster),
        queues(cluster),
        rejected(cluster)
    )
}

fn nodes(cluster: &Cluster) -> String {
    let mut table = Table::new([
        "NODE",
        "UP",
        "API",
        "HTTP",
        "VERSION",
        "LEADS",
        "REPLICAS",
        "WORKERS",
        "MEMORY",
        "DISK FREE",
        "UPTIME",
    ]);
    for node in &cluster.nodes {
        table.row([
            node.id.to_string(),
            if node.up { "yes" } else { "NO" }.into(),
            node.api.clone(),
            node.http.clone(),
            node.version.clone(),
            node.leaders.to_string(),
            node.replicas.to_string(),
            node.sessions.to_string(),
            text::bytes(node.rss_bytes),
            text::bytes(node.disk_free_bytes),
            text::span_ms(node.uptime_s.saturating_mul(1_000)),
        ]);
    }
    table.render()
}

fn shards(cluster: &Cluster) -> String {
    let mut table =
        Table::new(["SHARD", "LEADER", "REPLICAS", "TERM", "COMMIT", "LAG", "LIVE", "READY", "LEASED", "ENDED"]);
    for shard in &cluster.shards {
        let replicas: Vec<_> = shard.replicas.iter().map(u32::to_string).collect();
        table.row([
            match shard.shard {
                0 => "0 meta".into(),
                shard => shard.to_string(),
            },
            match shard.leader {
                0 => "none".into(),
                leader => leader.to_string(),
            },
            replicas.join(" "),
            shard.term.to_string(),
            shard.commit.to_string(),
            shard.lag.to_string(),
            shard.live.to_string(),
            shard.ready.to_string(),
            shard.leased.to_string(),
            shard.ended.to_string(),
        ]);
    }
    table.render()
}

fn queues(cluster: &Cluster) -> String {
    let mut table = Table::new(["QUEUE", "READY", "LEASED", "WAITING WORKERS"]);
    for queue in &cluster.queues {
        table.row([
            queue.queue.clone(),
            queue.ready.to_string(),
            queue.leased.to_string(),
            queue.waiting_workers.to_string(),
        ]);
    }
    table.render()
}

/// Only where there is something to see.
fn rejected(cluster: &Cluster) -> String {
    if cluster.rejected.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["REJECTED CALLS", "USER", "NODE", "REASON"]);
    for row in &cluster.rejected {
        let user = if row.user.is_empty() { "(unknown)" } else { &row.user };
        table.row([row.count.to_string(), user.to_owned(), row.node.to_string(), row.reason.clone()]);
    }
    format!("\n{}", table.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::view::{NodeView, QueueView, Rejected, ShardView};

    #[test]
    fn what_is_wrong_is_seen() {
        let cluster = Cluster {
            feature_level: 2,
            cluster: "local".into(),
            node: 1,
            nodes: vec![NodeView { id: 2, ..NodeView::default() }],
            shards: vec![ShardView { shard: 3, lag: 17, ..ShardView::default() }],
            queues: vec![QueueView { queue: "CERN".into(), ready: 5, ..QueueView::default() }],
            rejected: vec![Rejected { node: 2, reason: "expired".into(), user: "anna".into(), count: 9 }],
        };
        let text = show(&cluster);
        let row = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start));
        assert!(row("2 ").unwrap().contains("NO"));
        assert!(row("3 ").unwrap().contains("none") && row("3 ").unwrap().contains("17"));
        assert!(row("CERN").unwrap().contains('5'));
        assert!(text.lines().any(|line| line.contains("expired") && line.contains("anna") && line.contains('9')));
    }
}
