//! The cluster a run is against: one that runs already, or one of local processes that is started for it.

use crate::args::Common;
use anyhow::{Context, Result};
use moso::{LocalCluster, LocalOptions};
use moso_client::{Client, ClientOptions, TlsOptions, Token};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Mutex;

/// A killed node stays down so long.
const DOWN: Duration = Duration::from_secs(2);

/// A cluster.
pub struct Target {
    addresses: Vec<String>,
    own: Option<Mutex<LocalCluster>>,
    options: ClientOptions,
    kills: AtomicU64,
}

impl Target {
    /// Takes the running cluster that was named, or starts one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn open(common: &Common) -> Result<Target> {
        let options = ClientOptions {
            // As long as the run itself waits: a submission is repeated, not lost.
            retry_budget: common.patience,
            author: "moso-bench".to_owned(),
            tls: common.ca.clone().map(|ca| TlsOptions { ca, ..TlsOptions::default() }),
            token: common.token_file.clone().map(Token::File),
            ..ClientOptions::default()
        };
        let mut target = Target { addresses: common.connect.clone(), own: None, options, kills: AtomicU64::new(0) };
        if common.connect.is_empty() {
            let (nodes, shards) = common.size()?;
            let options = LocalOptions {
                nodes,
                shards,
                data: common.data.clone(),
                cluster: "bench".to_owned(),
                secure: common.tls,
                ..LocalOptions::default()
            };
            let cluster = LocalCluster::start(options).await.context("local cluster")?;
            target.options = cluster.client_options(target.options);
            target.addresses = cluster.addrs();
            target.own = Some(Mutex::new(cluster));
        }
        Ok(target)
    }

    /// Where PanDA's programs are served, of a cluster that was started here.
    pub async fn fronts(&self) -> Vec<String> {
        match &self.own {
            Some(own) => own.lock().await.panda_addrs(),
            None => Vec::new(),
        }
    }

    /// A client of it.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn client(&self) -> Result<Client> {
        let addresses = self.addresses.iter().cloned();
        let client = Client::connect_with(addresses, self.options.clone()).await;
        client.context("cluster")
    }

    /// A cluster at these addresses, for tests.
    #[cfg(test)]
    pub fn at(addresses: Vec<String>) -> Target {
        Target { addresses, own: None, options: ClientOptions::default(), kills: AtomicU64::new(0) }
    }

    /// Its nodes, host:port.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Whether it was started here.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Number of its nodes.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn nodes(&self) -> Result<u64> {
        let cluster = self.client().await?.cluster().await?;
        Ok(cluster.nodes.len() as u64)
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        match &self.own {
            Some(_) => format!("{} local nodes", self.addresses.len()),
            None => self.addresses.join(","),
        }
    }

    /// Kills a node drawn from the seed every so often, and starts it again, until `until`. Is waited for until it is
    /// dropped; then [`restore`](Self::restore) is due. Returns only what went wrong.
    pub async fn kill_nodes(
        &self,
        every: Duration,
        until: tokio::time::Instant,
        seed: u64,
        say: impl Fn(String) + Send,
    ) -> anyhow::Error {
        let Some(own) = &self.own else {
            return anyhow::anyhow!("only a cluster that was started here can lose nodes");
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut next = tokio::time::Instant::now() + every;
        while next < until {
            tokio::time::sleep_until(next).await;
            next = tokio::time::Instant::now() + every;
            let mut cluster = own.lock().await;
            let node = rng.random_range(1..=cluster.nodes());
            if let Err(error) = cluster.kill(node) {
                return error.into();
            }
            self.kills.fetch_add(1, Relaxed);
            say(format!("node {node} killed"));
            tokio::time::sleep(DOWN).await;
            if let Err(error) = cluster.restart(node).await {
                return error.into();
            }
            say(format!("node {node} is back"));
        }
        std::future::pending().await
    }

    /// Nodes killed so far.
    pub fn kills(&self) -> u64 {
        self.kills.load(Relaxed)
    }

    /// Kills these nodes (SIGKILL), at once.
    ///
    /// # Errors
    /// When the cluster was not started here, or a node does not run.
    pub async fn kill(&self, nodes: &[u32]) -> Result<()> {
        let own = self.own.as_ref().context("only a cluster that was started here can lose nodes")?;
        let mut cluster = own.lock().await;
        nodes.iter().try_for_each(|&node| cluster.kill(node)).context("local cluster")?;
        self.kills.fetch_add(nodes.len() as u64, Relaxed);
        Ok(())
    }

    /// Starts the nodes that are down and waits until all are ready.
    ///
    /// # Errors
    /// When a node does not start.
    pub async fn restore(&self) -> Result<()> {
        let Some(own) = &self.own else {
            return Ok(());
        };
        let mut cluster = own.lock().await;
        for node in 1..=cluster.nodes() {
            if cluster.pid(node).is_none() {
                cluster.start_node(node)?;
            }
        }
        cluster.wait_ready().await.context("local cluster")
    }

    /// Ends a cluster that was started here. With `keep` it runs on until the user interrupts.
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub async fn close(self, keep: bool) -> Result<()> {
        let Some(own) = self.own else {
            return Ok(());
        };
        if keep {
            println!("the cluster runs on at {}; Ctrl-C ends it", self.addresses.join(","));
            tokio::signal::ctrl_c().await.context("signal")?;
        }
        own.into_inner().stop().await.context("local cluster")
    }
}
