//! Redis: a stream per queue with one consumer group. What an acknowledgement is worth is the server's setting
//! (`appendonly`, `appendfsync`). There is no attempt number: a worker whose lease ran out is noticed because its
//! acknowledgement removes nothing.

use super::{LEASE, Leased, Peer, Submitter, Worker};
use crate::args::Peer as Asked;
use crate::report::PeerServer;
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError};
use std::time::{Duration, Instant};

const GROUP: &str = "workers";
/// Longest wait of a lease.
const WAIT_MS: u64 = 1_000;
/// How often a worker looks for jobs of silent workers.
const RECLAIM: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Ids and the fields of stream entries.
type Entries = Vec<(String, Vec<Vec<u8>>)>;

/// The server.
pub struct Redis {
    client: Client,
    connection: MultiplexedConnection,
    queues: u32,
    about: PeerServer,
}

fn key(queue: u32) -> String {
    format!("moso_bench:{queue}")
}

impl Redis {
    /// Reaches the server and makes the streams.
    ///
    /// # Errors
    /// When the server is not reached or refuses, or the streams exist.
    pub async fn open(asked: &Asked) -> Result<Redis> {
        let client = Client::open(asked.url.as_str()).context("--url: redis://[USER:PASSWORD@]HOST:PORT[/DB]")?;
        let mut connection = connect(&client).await?;
        let about = about(&mut connection).await?;
        let redis = Redis { client, connection: connection.clone(), queues: asked.load.queues, about };
        if asked.replace {
            redis.remove().await?;
        }
        for queue in 0..redis.queues {
            let exists: bool = redis::cmd("EXISTS").arg(key(queue)).query_async(&mut connection).await?;
            ensure!(
                !exists,
                "key {} exists: another run is going on, or one was killed; --replace deletes the keys",
                key(queue)
            );
        }
        for queue in 0..redis.queues {
            let mut create = redis::cmd("XGROUP");
            create.arg("CREATE").arg(key(queue)).arg(GROUP).arg("0").arg("MKSTREAM");
            create.exec_async(&mut connection).await.context("XGROUP CREATE")?;
        }
        Ok(redis)
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    // A lease waits, and a sync may take its time: the run has its own patience.
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    connection.map_err(|error| {
        let advice = advice(&error);
        anyhow!(error).context(advice)
    })
}

fn advice(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::AuthenticationFailed => "the server refuses the user or password of --url",
        _ if error.is_io_error() || error.is_timeout() => {
            "the server was not reached: is it running at the host and port of --url?"
        }
        _ => "the server refuses the connection (a password goes into --url: redis://:PASSWORD@HOST:PORT)",
    }
}

async fn about(connection: &mut MultiplexedConnection) -> Result<PeerServer> {
    let mut about = PeerServer { kind: "redis".to_owned(), ..PeerServer::default() };
    let info: String = redis::cmd("INFO").arg("server").query_async(connection).await.map_err(|error| {
        anyhow!(error).context("INFO: the server may want a password (--url redis://:PASSWORD@HOST:PORT)")
    })?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
    about.version = version.unwrap_or_default().to_owned();
    for name in ["appendonly", "appendfsync"] {
        // Servers that are run for others may not tell.
        let value: redis::RedisResult<Vec<String>> =
            redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
        let value = value.ok().and_then(|pair| pair.into_iter().nth(1));
        about.settings.insert(name.to_owned(), value.unwrap_or_else(|| "not told".to_owned()));
    }
    Ok(about)
}

impl Peer for Redis {
    type Submitter = Submissions;
    type Worker = Jobs;

    fn about(&self) -> PeerServer {
        self.about.clone()
    }

    async fn submitter(&self) -> Result<Submissions> {
        Ok(Submissions { connection: connect(&self.client).await? })
    }

    async fn worker(&self, index: u32, queue: u32) -> Result<Jobs> {
        let connection = connect(&self.client).await?;
        Ok(Jobs { connection, key: key(queue), name: format!("bench-{index}"), reclaimed: Instant::now() })
    }

    async fn left(&self) -> Result<u64> {
        let mut connection = self.connection.clone();
        let mut left = 0;
        for queue in 0..self.queues {
            let length: u64 = redis::cmd("XLEN").arg(key(queue)).query_async(&mut connection).await?;
            left += length;
        }
        Ok(left)
    }

    async fn remove(&self) -> Result<()> {
        let mut unlink = redis::cmd("UNLINK");
        (0..self.queues).for_each(|queue| _ = unlink.arg(key(queue)));
        unlink.exec_async(&mut self.connection.clone()).await.context("UNLINK")
    }
}

/// A submitter's connection.
pub struct Submissions {
    connection: MultiplexedConnection,
}

impl Submitter for Submissions {
    async fn submit(&mut self, queue: u32, bodies: &[Bytes]) -> Result<()> {
        let key = key(queue);
        let mut pipeline = redis::Pipeline::with_capacity(bodies.len());
        for body in bodies {
            pipeline.cmd("XADD").arg(&key).arg("*").arg("body").arg(&body[..]).ignore();
        }
        pipeline.exec_async(&mut self.connection).await.context("XADD")
    }
}

/// A worker's connection.
pub struct Jobs {
    connection: MultiplexedConnection,
    key: String,
    name: String,
    reclaimed: Instant,
}

impl Jobs {
    /// Takes over jobs of workers that were silent for longer than a lease.
    async fn reclaim(&mut self, max: u32) -> Result<Vec<Leased<String>>> {
        self.reclaimed = Instant::now();
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&self.key).arg(GROUP).arg(&self.name).arg(LEASE.as_millis() as u64).arg("0").arg("COUNT").arg(max);
        let reply: (String, Entries, Vec<String>) =
            claim.query_async(&mut self.connection).await.context("XAUTOCLAIM")?;
        jobs(reply.1)
    }
}

impl Worker for Jobs {
    type Receipt = String;

    async fn lease(&mut self, max: u32) -> Result<Vec<Leased<String>>> {
        if self.reclaimed.elapsed() > RECLAIM {
            let jobs = self.reclaim(max).await?;
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(max).arg("BLOCK").arg(WAIT_MS);
        read.arg("STREAMS").arg(&self.key).arg(">");
        let reply: Option<Vec<(String, Entries)>> =
            read.query_async(&mut self.connection).await.context("XREADGROUP")?;
        jobs(reply.into_iter().flatten().flat_map(|(_, entries)| entries))
    }

    async fn finish(&mut self, jobs: Vec<String>) -> Result<Vec<bool>> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XACK").arg(&self.key).arg(GROUP).arg(&jobs);
        pipeline.cmd("XDEL").arg(&self.key).arg(&jobs);
        let (acked, _deleted): (usize, usize) =
            pipeline.query_async(&mut self.connection).await.context("XACK and XDEL")?;
        if acked != jobs.len() {
            // The answer is only a number: whose they were cannot be told.
            bail!("{acked} of {} jobs were still this worker's: leases of {LEASE:?} ran out", jobs.len());
        }
        Ok(vec![true; jobs.len()])
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

/// Jobs of stream entries: a name and a value each.
fn jobs(entries: impl IntoIterator<Item = (String, Vec<Vec<u8>>)>) -> Result<Vec<Leased<String>>> {
    let job = |(id, mut fields): (String, Vec<Vec<u8>>)| {
        let body = fields.pop().with_context(|| format!("entry {id} is empty"))?;
        Ok(Leased { body: body.into(), receipt: id })
    };
    entries.into_iter().map(job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_job() {
        let entry = ("1-0".to_owned(), vec![b"body".to_vec(), b"x".to_vec()]);
        let jobs = jobs([entry]).expect("well formed");
        assert_eq!((jobs[0].receipt.as_str(), &jobs[0].body[..]), ("1-0", &b"x"[..]));
        assert!(super::jobs([("1-1".to_owned(), Vec::new())]).is_err());
    }

    #[test]
    fn a_refused_connection_says_what_to_do() {
        let error = RedisError::from((ErrorKind::AuthenticationFailed, "no"));
        assert!(advice(&error).contains("user or password"));
        let error = RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(advice(&error).contains("is it running"));
    }
}
