//! The client: one handle on a cluster.

use crate::error::{Error, Result};
use crate::options::ClientOptions;
use crate::pool::{Line, Node, Pool};
use crate::submissions::Submissions;
use moso_proto::MESSAGE_BYTES_MAX;
use moso_proto::v1::admin_client::AdminClient;
use moso_proto::v1::backups_client::BackupsClient;
use moso_proto::v1::jobs_client::JobsClient;
use moso_proto::v1::workers_client::WorkersClient;
use moso_proto::v1::{ClusterReply, ClusterRequest};
use moso_proto::view::Cluster;
use std::sync::Arc;
use std::time::Instant;
use tonic::Request;

/// A handle on a cluster. Clones are cheap and share their connections; one per process is enough.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    submissions: Submissions,
    options: ClientOptions,
}

impl Client {
    /// Connects to a cluster of which some nodes' API addresses (`host:port`) are known. The others are found.
    ///
    /// # Errors
    /// [`Error::Refused`] when an address is malformed; [`Error::Unreachable`] when no node answers within the retry
    /// budget.
    pub async fn connect(addresses: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        Self::connect_with(addresses, ClientOptions::default()).await
    }

    /// As [`connect`](Self::connect), with options.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_with(
        addresses: impl IntoIterator<Item = impl Into<String>>,
        options: ClientOptions,
    ) -> Result<Self> {
        let addresses = addresses.into_iter().map(Into::into).collect();
        let pool = Pool::new(addresses, &options)?;
        let client = Client { inner: Arc::new(Inner { pool, submissions: Submissions::default(), options }) };
        // Claimed here, so that the first call below does not read the list a second time.
        client.pool().claim_refresh(Instant::now());
        client.cluster().await?;
        Ok(client)
    }

    /// The cluster as a node sees it: nodes, shards with their leaders, queues. Also renews what the client knows.
    ///
    /// # Errors
    /// As of any call: see [`Error`].
    pub async fn cluster(&self) -> Result<Cluster> {
        let request = ClusterRequest { local: false };
        let reply = self.call(None, request, |node, call| async move { admin(&node).cluster(call).await }).await?;
        let cluster = parse(&reply)?;
        self.pool().adopt(&cluster, Instant::now());
        Ok(cluster)
    }

    /// The options given when it was made.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// API addresses of the nodes it knows now, in the order of their numbers.
    pub fn addresses(&self) -> Vec<String> {
        self.pool().addresses()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub(crate) fn submissions(&self) -> &Submissions {
        &self.inner.submissions
    }

    /// Reads the list of nodes and leaders again in the background, if it is old. One try: the next call is another.
    pub(crate) fn refresh_when_due(&self) {
        if !self.pool().claim_refresh(Instant::now()) {
            return;
        }
        let client = self.clone();
        tokio::spawn(async move {
            let node = client.pool().pick(None, Instant::now());
            let mut request = Request::new(ClusterRequest { local: false });
            request.set_timeout(client.options().call_deadline);
            match admin(&node).cluster(request).await {
                Ok(reply) => match parse(reply.get_ref()) {
                    Ok(cluster) => client.pool().adopt(&cluster, Instant::now()),
                    Err(error) => tracing::warn!(%error, "the list of nodes cannot be read"),
                },
                Err(status) => {
                    tracing::debug!(node = %node.address, %status, "the list of nodes was not read");
                    client.pool().mark_down(&node.address, Instant::now());
                    client.pool().forget(Instant::now());
                }
            }
        });
    }
}

fn parse(reply: &ClusterReply) -> Result<Cluster> {
    serde_json::from_str(&reply.json).map_err(|error| Error::Defect {
        node: "any".into(),
        message: format!("the view of the cluster is not its JSON: {error}"),
    })
}

pub(crate) fn admin(node: &Node) -> AdminClient<Line> {
    AdminClient::new(node.channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn backups(node: &Node) -> BackupsClient<Line> {
    BackupsClient::new(node.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn jobs(node: &Node) -> JobsClient<Line> {
    JobsClient::new(node.channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn workers(node: &Node) -> WorkersClient<Line> {
    WorkersClient::new(node.channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
