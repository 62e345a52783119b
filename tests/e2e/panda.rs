//! PanDA's own programs against a cluster: what recorded ones sent, what is malformed, and the real ones where they are.

#![allow(clippy::unwrap_used)]

mod common;

#[path = "panda/client.rs"]
mod client;
#[path = "panda/client_replay.rs"]
mod client_replay;
#[path = "panda/files.rs"]
mod files;
#[path = "panda/harvester.rs"]
mod harvester;
#[path = "panda/http.rs"]
mod http;
#[path = "panda/malformed.rs"]
mod malformed;
#[path = "panda/pilot.rs"]
mod pilot;
#[allow(dead_code)]
#[path = "security/raw.rs"]
mod raw;
#[path = "panda/replay.rs"]
mod replay;
#[path = "panda/server.rs"]
mod server;
#[path = "panda/transcript.rs"]
mod transcript;

use common::{Cluster, eventually};
use moso::LocalOptions;
use moso_client::proto::object::Queue;

/// The queue of the transcripts.
const QUEUE: &str = "MOCK_Q";

/// The lease of a queue of pilots: a pilot is heard of every half hour, and lost after three.
fn pilots() -> Queue {
    Queue { lease_ttl_ms: 3 * 3_600_000, heartbeat_ms: 30 * 60_000, ..Queue::default() }
}

/// Three nodes with a queue of pilots that all of them know.
async fn panda_cluster() -> Cluster {
    panda_cluster_with(LocalOptions::default()).await
}

/// As [`panda_cluster`], not as by default.
async fn panda_cluster_with(options: LocalOptions) -> Cluster {
    let cluster = Cluster::start_with(options).await;
    cluster.queue_with(QUEUE, pilots()).await;
    for address in cluster.nodes.panda_addrs() {
        let path = format!("/cache/schedconfig/{QUEUE}.all.json");
        // While some node may be of an older version, as at the start, calls are not served.
        eventually("every node serves, and knows the queue", async || {
            let codes =
                [http::get(&address, "/api/v1/system/is_alive").await.code, http::get(&address, &path).await.code];
            (codes == [200, 200]).then_some(())
        })
        .await;
    }
    cluster
}
