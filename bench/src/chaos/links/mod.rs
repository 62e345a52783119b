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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Waited for in full only by what does not come.
    const WHILE: Duration = Duration::from_millis(300);

    /// A node that counts what it hears, and answers.
    async fn node() -> (String, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(AtomicU32::new(0));
        let counter = heard.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = counter.clone();
                tokio::spawn(async move {
                    while stream.read_u8().await.is_ok() {
                        counter.fetch_add(1, SeqCst);
                        let _ = stream.write_u8(0).await;
                    }
                });
            }
        });
        (address, heard)
    }

    /// A word that may be waited for long, on a busy machine.
    const LONG: Duration = Duration::from_secs(10);

    /// Whether a word is answered in this time.
    async fn answered(stream: &mut TcpStream, time: Duration) -> bool {
        stream.write_u8(1).await.unwrap();
        matches!(tokio::time::timeout(time, stream.read_u8()).await, Ok(Ok(_)))
    }

    #[tokio::test]
    async fn what_a_node_says_is_cut_on_both_connections_and_nothing_else() {
        let links = Links::open(2).await.unwrap();
        let ((one, heard_by_one), (two, heard_by_two)) = (node().await, node().await);
        let mut to_two = TcpStream::connect(links.lead(1, 2, &two)).await.unwrap();
        let mut to_one = TcpStream::connect(links.lead(2, 1, &one)).await.unwrap();
        assert!(answered(&mut to_two, LONG).await && answered(&mut to_one, LONG).await);
        links.set(1, 2, Weather { cut: true, ..Weather::default() });
        assert!(!answered(&mut to_two, WHILE).await, "what 1 says on its own connection");
        assert!(!answered(&mut to_one, WHILE).await, "what 1 answers on that of 2");
        assert_eq!((heard_by_one.load(SeqCst), heard_by_two.load(SeqCst)), (2, 1), "1 still hears 2");
        links.mend();
        assert!(matches!(tokio::time::timeout(LONG, to_two.read_u8()).await, Ok(Ok(_))));
        assert!(matches!(tokio::time::timeout(LONG, to_one.read_u8()).await, Ok(Ok(_))));
        assert_eq!(links.lead(3, 1, "x:1"), "x:1", "no line");
    }
}
