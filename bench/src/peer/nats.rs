//! NATS JetStream: a work-queue stream on file per queue, one durable pull consumer each, explicit acknowledgements
//! that the server confirms.

use super::{LEASE, Leased, Peer, Submitter, Worker};
use crate::args::Peer as Asked;
use crate::report::PeerServer;
use anyhow::{Context, Result, anyhow, bail, ensure};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use std::time::Duration;

const CONSUMER: &str = "workers";
/// Longest wait of a lease.
const WAIT: Duration = Duration::from_secs(1);
/// A batch waits so long to be full when there was nothing.
const LINGER: Duration = Duration::from_millis(20);
/// Jobs that may be leased and not acknowledged.
const PENDING_MAX: i64 = 1_000_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server.
pub struct Nats {
    url: String,
    context: jetstream::Context,
    queues: u32,
    about: PeerServer,
}

fn stream(queue: u32) -> String {
    format!("moso_bench_{queue}")
}

fn subject(queue: u32) -> String {
    format!("moso_bench.{queue}")
}

impl Nats {
    /// Reaches the server and makes the streams.
    ///
    /// # Errors
    /// When the server is not reached or refuses, or the streams exist.
    pub async fn open(asked: &Asked) -> Result<Nats> {
        let client = connect(&asked.url).await?;
        let mut about = PeerServer { kind: "nats".to_owned(), ..PeerServer::default() };
        about.version = client.server_info().version;
        about.settings.insert("storage".to_owned(), "file".to_owned());
        about.settings.insert("replicas".to_owned(), asked.replicas.to_string());
        let context = context(client);
        let nats = Nats { url: asked.url.clone(), context, queues: asked.load.queues, about };
        if asked.replace {
            nats.remove().await?;
        }
        for queue in 0..nats.queues {
            nats.make(queue, asked.replicas).await?;
        }
        Ok(nats)
    }

    async fn make(&self, queue: u32, replicas: u8) -> Result<()> {
        let name = stream(queue);
        // Making a stream that exists with the same settings is no error, so look first.
        if self.context.get_stream(&name).await.is_ok() {
            bail!("stream {name} exists: another run is going on, or one was killed; --replace deletes the streams");
        }
        let config = Config {
            name: name.clone(),
            subjects: vec![subject(queue)],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: replicas.into(),
            ..Config::default()
        };
        let made = self.context.create_stream(config).await.with_context(|| {
            format!("stream {name}: the server needs JetStream (-js) and --replicas {replicas} as many nodes")
        })?;
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: LEASE,
            max_ack_pending: PENDING_MAX,
            ..pull::Config::default()
        };
        made.create_consumer(config).await.with_context(|| format!("consumer of stream {name}"))?;
        Ok(())
    }
}

async fn connect(url: &str) -> Result<Client> {
    // Requests have as long as a lease.
    let options =
        ConnectOptions::new().name("moso-bench").connection_timeout(CONNECT_TIMEOUT).request_timeout(Some(LEASE));
    options.connect(url).await.map_err(|error| {
        let advice = advice(error.kind());
        anyhow!(error).context(advice)
    })
}

fn advice(kind: ConnectErrorKind) -> &'static str {
    match kind {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            "the server refuses the user or password of --url: nats://USER:PASSWORD@HOST:PORT"
        }
        ConnectErrorKind::ServerParse => "--url: nats://[USER:PASSWORD@]HOST:PORT",
        ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io => {
            "the server was not reached: is it running at the host and port of --url?"
        }
        _ => "the server refuses the connection",
    }
}

fn context(client: Client) -> jetstream::Context {
    let mut context = jetstream::new(client);
    context.set_timeout(LEASE);
    context
}

impl Peer for Nats {
    type Submitter = Submissions;
    type Worker = Jobs;

    fn about(&self) -> PeerServer {
        self.about.clone()
    }

    async fn submitter(&self) -> Result<Submissions> {
        Ok(Submissions { context: context(connect(&self.url).await?) })
    }

    async fn worker(&self, _: u32, queue: u32) -> Result<Jobs> {
        let client = connect(&self.url).await?;
        let context = context(client.clone());
        let consumer: PullConsumer = context.get_consumer_from_stream(CONSUMER, stream(queue)).await?;
        Ok(Jobs { client, consumer, empty: false })
    }

    async fn left(&self) -> Result<u64> {
        let mut left = 0;
        for queue in 0..self.queues {
            left += self.context.get_stream(stream(queue)).await?.cached_info().state.messages;
        }
        Ok(left)
    }

    async fn remove(&self) -> Result<()> {
        for queue in 0..self.queues {
            let name = stream(queue);
            match self.context.delete_stream(&name).await {
                Ok(_) => {}
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error).with_context(|| format!("delete stream {name}")),
            }
        }
        Ok(())
    }
}

fn is_missing(error: &jetstream::context::DeleteStreamError) -> bool {
    use jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// A submitter's connection.
pub struct Submissions {
    context: jetstream::Context,
}

impl Submitter for Submissions {
    async fn submit(&mut self, queue: u32, bodies: &[Bytes]) -> Result<()> {
        let (stream, subject) = (stream(queue), subject(queue));
        let mut acks = Vec::with_capacity(bodies.len());
        for body in bodies {
            acks.push(self.context.publish(subject.clone(), body.clone()).await.context("publish")?);
        }
        for ack in acks {
            let ack = ack.await.context("acknowledgement of a publish")?;
            ensure!(ack.stream == stream && !ack.duplicate, "a job went to stream {}", ack.stream);
        }
        Ok(())
    }
}

/// A worker's connection.
pub struct Jobs {
    client: Client,
    consumer: PullConsumer,
    /// The last lease found nothing at once.
    empty: bool,
}

impl Worker for Jobs {
    /// The subject of the acknowledgement, which names the delivery.
    type Receipt = async_nats::Subject;

    async fn lease(&mut self, max: u32) -> Result<Vec<Leased<async_nats::Subject>>> {
        let max = max as usize;
        // One job: wait for it. More: what is there at once, or else what comes within a moment.
        let request = if max == 1 {
            self.consumer.batch().max_messages(1).expires(WAIT).messages().await
        } else if self.empty {
            self.consumer.batch().max_messages(max).expires(LINGER).messages().await
        } else {
            self.consumer.fetch().max_messages(max).messages().await
        };
        let mut messages = request.context("pull")?;
        let mut jobs = Vec::with_capacity(max);
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| anyhow!(error)).context("delivery")?.message;
            let receipt = message.reply.context("a delivery cannot be acknowledged")?;
            jobs.push(Leased { body: message.payload, receipt });
        }
        self.empty = jobs.is_empty();
        Ok(jobs)
    }

    async fn finish(&mut self, jobs: Vec<async_nats::Subject>) -> Result<Vec<bool>> {
        let ack = |receipt| self.client.request::<async_nats::Subject>(receipt, Bytes::from_static(b"+ACK"));
        let count = jobs.len();
        try_join_all(jobs.into_iter().map(ack)).await.context("acknowledgement")?;
        Ok(vec![true; count])
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_says_what_to_do() {
        assert!(advice(ConnectErrorKind::AuthorizationViolation).contains("user or password"));
        assert!(advice(ConnectErrorKind::Io).contains("is it running"));
        assert!(advice(ConnectErrorKind::ServerParse).contains("--url"));
    }
}
