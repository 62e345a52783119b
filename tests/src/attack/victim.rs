//! The cluster that is attacked, at one of its nodes, and what that node uses.

use super::forged::Forged;
use anyhow::{Context, Result, ensure};
use moso::{Credentials, LocalCluster, LocalOptions};
use moso_client::proto::object::{Queue, kind};
use moso_client::{Client, ClientOptions};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The queue of the bystander's jobs: its leases are the shortest there are.
pub const QUEUE: &str = "bystander";
/// Longest time that a node may take to answer after an attack.
const ANSWER: Duration = Duration::from_secs(30);

/// A node, as those who attack it know it.
pub struct Prey {
    /// Its ports.
    pub api: String,
    /// For the other nodes.
    pub peer: String,
    /// For pages.
    pub http: String,
    /// For PanDA's programs.
    pub panda: String,
    /// Cluster.
    pub cluster: String,
    /// Its number.
    pub node: u32,
    /// Another node of its cluster.
    pub other: u32,
    /// Id of that node's store, if it is known.
    pub other_store: Option<u128>,
    /// A client.
    pub client: Client,
    /// What strangers show, if the cluster has certificates.
    secure: Option<(Credentials, Forged)>,
    /// Jobs of the bystander and their attempts.
    pub(crate) jobs: OnceLock<Vec<(u64, u32)>>,
}

impl Prey {
    /// Jobs of the bystander and their attempts.
    pub fn jobs(&self) -> &[(u64, u32)] {
        self.jobs.get().map_or(&[], Vec::as_slice)
    }

    /// Tells whose jobs are to be stolen.
    pub fn point_at(&self, jobs: Vec<(u64, u32)>) {
        let _ = self.jobs.set(jobs);
    }

    /// All ports.
    pub fn ports(&self) -> [String; 4] {
        [self.api.clone(), self.peer.clone(), self.http.clone(), self.panda.clone()]
    }

    /// Certificate of the cluster's authority.
    pub(super) fn ca(&self) -> &Path {
        &self.secure.as_ref().expect("attacks with certificates are made on a cluster with certificates").0.ca
    }

    /// What strangers show.
    pub(super) fn forged(&self) -> &Forged {
        &self.secure.as_ref().expect("attacks with certificates are made on a cluster with certificates").1
    }

    /// A page, as the operator asks for it.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn page(&self, path: &str) -> Result<String> {
        let token = match &self.secure {
            Some((credentials, _)) => std::fs::read_to_string(&credentials.token).context("the operator's token")?,
            None => String::new(),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        let everything = tokio::time::timeout(ANSWER, async {
            let mut page = Vec::new();
            let mut line = match &self.secure {
                Some(_) => {
                    let line = super::secure::line(self, &self.http, None, b"http/1.1").await?;
                    Box::new(line.context("no connection to the pages")?) as Box<dyn Stream>
                }
                None => Box::new(tokio::net::TcpStream::connect(&self.http).await?),
            };
            line.write_all(request.as_bytes()).await?;
            // Not every server says goodbye as TLS has it.
            let _ = line.read_to_end(&mut page).await;
            String::from_utf8(page).context("a page is text")
        });
        everything.await.with_context(|| format!("{path} does not come"))?
    }

    /// Waits until the cluster is at the level from which on PanDA's programs are served.
    async fn serves_panda(&self) -> Result<()> {
        let began = Instant::now();
        while self.client.cluster().await?.feature_level < moso_proto::level::PANDA {
            ensure!(began.elapsed() < ANSWER * 3, "the cluster does not reach the level of PanDA's programs");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// When it does not within a time.
    pub async fn answers(&self) -> Result<()> {
        let mut options = ClientOptions { retry_budget: ANSWER, discover: false, ..ClientOptions::default() };
        if let Some((credentials, _)) = &self.secure {
            options = credentials.options(options);
        }
        let client = Client::connect_with([self.api.clone()], options).await.context("the node does not answer")?;
        client.cluster().await.context("the node does not answer").map(drop)
    }
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// CPU time, ms.
    pub cpu_ms: u64,
    /// Resident memory, KiB.
    pub rss_kib: u64,
    /// Most so far, KiB.
    pub peak_kib: u64,
}

/// What a process uses now.
pub fn used(pid: u32) -> Used {
    // Clock ticks of Linux' user interface are a hundred a second everywhere.
    const MS_PER_TICK: u64 = 10;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time, the 14th and 15th of all fields, of which two stand before the bracket.
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Used { cpu_ms: (ticks(11) + ticks(12)) * MS_PER_TICK, rss_kib: kib("VmRSS:"), peak_kib: kib("VmHWM:") }
}

/// A cluster of three local nodes, of which the first is attacked.
pub struct Victim {
    /// The nodes.
    pub cluster: LocalCluster,
}

impl Victim {
    /// Starts it, with certificates or without.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(secure: bool) -> Result<(Victim, Prey)> {
        let options = LocalOptions { cluster: "prey".into(), secure, ..LocalOptions::default() };
        let cluster = LocalCluster::start(options).await.context("local cluster")?;
        let options = ClientOptions { retry_budget: ANSWER * 3, author: "attack".into(), ..ClientOptions::default() };
        let client = Client::connect_with(cluster.addrs(), cluster.client_options(options)).await.context("cluster")?;
        let queue = Queue { lease_ttl_ms: 15_000, heartbeat_ms: 5_000, ..Queue::default() };
        client.put_object(kind::QUEUE, QUEUE, &queue, None).await.context("queue")?;
        let record = std::fs::read_to_string(cluster.folder().join("cluster.toml")).context("the cluster's record")?;
        let record: toml::Table = record.parse().context("the cluster's record")?;
        let member = record["members"].as_array().and_then(|all| all.first()).context("a cluster has members")?;
        let address = |key: &str| member[key].as_str().unwrap_or_default().to_owned();
        let prey = Prey {
            api: address("api"),
            peer: address("peer"),
            http: address("http"),
            panda: address("panda"),
            cluster: "prey".into(),
            node: 1,
            other: 2,
            other_store: store_id(&cluster, 2),
            client,
            secure: cluster.credentials().map(forged).transpose()?,
            jobs: OnceLock::new(),
        };
        prey.serves_panda().await?;
        Ok((Victim { cluster }, prey))
    }

    /// What the attacked node uses.
    ///
    /// # Errors
    /// When it has ended.
    pub fn used(&mut self) -> Result<Used> {
        self.cluster.check().context("a node ended")?;
        Ok(used(self.cluster.pid(1).context("node 1 has ended")?))
    }

    /// Whether a node's log tells of a panic.
    ///
    /// # Errors
    /// Where it stands.
    pub fn no_panic(&self) -> Result<()> {
        for node in 1..=self.cluster.nodes() {
            let log = std::fs::read_to_string(self.cluster.log(node)).context("a node's log")?;
            let line = log.lines().find(|line| line.contains("panicked at"));
            ensure!(line.is_none(), "node {node}: {}", line.unwrap_or_default());
        }
        Ok(())
    }
}

fn forged(credentials: &Credentials) -> Result<(Credentials, Forged)> {
    let authority = credentials.authority()?;
    Ok((credentials.clone(), Forged::new(&authority, &credentials.folder, 2, QUEUE)?))
}

/// The id in a node's folder: 32 hexadecimal digits behind its key.
fn store_id(cluster: &LocalCluster, node: u32) -> Option<u128> {
    let text = std::fs::read_to_string(cluster.data(node).join("IDENTITY")).ok()?;
    let rest = &text[text.find("\"store\"")? + 7..];
    let digits: String = rest.chars().skip_while(|c| !c.is_ascii_hexdigit()).take(32).collect();
    u128::from_str_radix(&digits, 16).ok()
}
