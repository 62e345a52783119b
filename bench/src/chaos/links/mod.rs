//! The lines between the nodes: a TCP proxy for each ordered pair, so that each line can be cut, slowed or reset by
//! itself. The node that dials is told the proxy's address instead of the other node's.
//!
//! On a connection that node A dialled to B, A's messages flow forward and B's answers to A's calls flow back. So what
//! A says to B passes the proxy A→B forward and the proxy B→A backward.

mod proxy;

use anyhow::{Context, Result};
use proxy::Proxy;
use std::collections::BTreeMap;
use std::time::Duration;

/// How a direction of a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weather {
    /// Nothing passes. What was sent waits, as with a network that loses packets: it arrives when the line is mended,
    /// unless the connection was given up before.
    pub cut: bool,
    /// What passes comes later by this.
    pub delay: Duration,
}

/// All lines of a cluster. Dropping it ends the proxies.
#[derive(Debug)]
pub(super) struct Links {
    nodes: u32,
    /// By dialling and dialled node.
    proxies: BTreeMap<(u32, u32), Proxy>,
}

impl Links {
    /// Proxies for all pairs of nodes 1 to `nodes`, on ports chosen by the system.
    ///
    /// # Errors
    /// When there is no port left.
    pub async fn open(nodes: u32) -> Result<Links> {
        let mut proxies = BTreeMap::new();
        for from in 1..=nodes {
            for to in (1..=nodes).filter(|&to| to != from) {
                let proxy = Proxy::open().await.context("a proxy between nodes cannot be opened on loopback")?;
                proxies.insert((from, to), proxy);
            }
        }
        Ok(Links { nodes, proxies })
    }

    /// Sets the weather for all that `from` says to `to`.
    pub fn set(&self, from: u32, to: u32, weather: Weather) {
        if let Some(proxy) = self.proxies.get(&(from, to)) {
            proxy.set_forward(weather);
        }
        if let Some(proxy) = self.proxies.get(&(to, from)) {
            proxy.set_back(weather);
        }
    }

    /// As [`set`](Self::set), both ways.
    pub fn set_pair(&self, a: u32, b: u32, weather: Weather) {
        self.set(a, b, weather);
        self.set(b, a, weather);
    }

    /// The other nodes.
    pub fn others(&self, node: u32) -> impl Iterator<Item = u32> + use<> {
        (1..=self.nodes).filter(move |&other| other != node)
    }

    /// Resets all connections between two nodes.
    pub fn reset_pair(&self, a: u32, b: u32) {
        for pair in [(a, b), (b, a)] {
            if let Some(proxy) = self.proxies.get(&pair) {
                proxy.reset();
            }
        }
    }

    /// Good weather everywhere.
    pub fn mend(&self) {
        for proxy in self.proxies.values() {
            proxy.set_forward(Weather::default());
            proxy.set_back(Weather::default());
        }
    }

    /// Leads the line from `from` to `to` to its real end, and gives the address to dial.
    pub fn lead(&self, from: u32, to: u32, real: &str) -> String {
        match self.proxies.get(&(from, to)) {
            Some(proxy) => {
                proxy.lead_to(real);
                proxy.address()
            }
            None => real.to_owned(),
        }
    }
}
