//! The nodes a client knows: their connections, which of them answer, and who leads which shard.

use crate::error::{Error, Result};
use crate::limits::NODES_MAX;
use crate::options::ClientOptions;
use crate::tls::{Bearer, Tls};
use moso_proto::view::Cluster;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};

/// A node that failed is passed over for so long, unless all have failed.
const DOWN: Duration = Duration::from_secs(1);
/// The list of nodes and leaders is read again after so long.
const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// How long a connection may take: on a network that works, far less.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent connection is probed after this time and given up after [`PROBE_TIMEOUT`] more: together within the
/// shortest lease (15 s).
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);
/// HTTP/2 windows in bytes: a full message in flight for each stream, several for the connection.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The way to a node, on which each call says who makes it.
pub(crate) type Line = InterceptedService<Channel, Bearer>;

/// A node picked for a call.
#[derive(Clone)]
pub(crate) struct Node {
    pub address: Arc<str>,
    pub channel: Line,
}

struct Entry {
    node: Node,
    /// Number in the cluster; `u32::MAX` while only the user has named it.
    number: u32,
    down_until: Option<Instant>,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    /// Round robin.
    turn: usize,
    leaders: HashMap<u16, Arc<str>>,
    shards: u16,
    refreshed: Option<Instant>,
}

/// Nodes by address. Entries in the order of node numbers, those the cluster does not name last.
pub(crate) struct Pool {
    state: Mutex<State>,
    discover: bool,
    lines: Lines,
}

/// Makes the ways to nodes.
#[derive(Clone, Default)]
struct Lines {
    tls: Option<Tls>,
    bearer: Bearer,
}

impl Pool {
    pub fn new(addresses: Vec<String>, options: &ClientOptions) -> Result<Self> {
        if addresses.is_empty() || addresses.len() > NODES_MAX {
            return Err(Error::invalid(format!("give 1 to {NODES_MAX} node addresses")));
        }
        if options.tls.is_none() && options.token.is_some() {
            return Err(Error::invalid("a token is sent on encrypted connections only: give the cluster's CA"));
        }
        let tls = options.tls.clone().map(Tls::new).transpose()?;
        let lines = Lines { tls, bearer: Bearer::new(options.token.as_ref())? };
        let mut state = State::default();
        for address in addresses {
            state.add(&lines, &address, u32::MAX)?;
        }
        Ok(Pool { state: Mutex::new(state), discover: options.discover, lines })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// The preferred node if it is not known to be down, else the next that is not, else the one down longest.
    pub fn pick(&self, preferred: Option<&str>, now: Instant) -> Node {
        let mut state = self.lock();
        if let Some(entry) = preferred.and_then(|address| state.find(address))
            && entry.is_up(now)
        {
            return entry.node.clone();
        }
        state.turn = state.turn.wrapping_add(1);
        let (count, turn) = (state.entries.len(), state.turn);
        let in_turn = || (0..count).map(|i| &state.entries[(turn + i) % count]);
        let named = in_turn().find(|e| e.is_up(now) && e.number != u32::MAX);
        named
            .or_else(|| in_turn().find(|e| e.is_up(now)))
            .or_else(|| in_turn().min_by_key(|e| e.down_until))
            .map(|entry| entry.node.clone())
            .expect("a pool is never empty")
    }

    /// The node at this place of the list, counted round.
    pub fn at(&self, index: usize) -> Node {
        let state = self.lock();
        let named = state.entries.iter().filter(|e| e.number != u32::MAX).count();
        let count = if named == 0 { state.entries.len() } else { named };
        state.entries[index % count].node.clone()
    }

    /// The node with this address, added if it is new.
    pub fn named(&self, address: &str) -> Result<Node> {
        let mut state = self.lock();
        state.add(&self.lines, address, u32::MAX)?;
        Ok(state.find(address).expect("it was just added").node.clone())
    }

    /// Whether some node is not known to be down.
    pub fn any_up(&self, now: Instant) -> bool {
        self.lock().entries.iter().any(|e| e.is_up(now))
    }

    pub fn mark_down(&self, address: &str, now: Instant) {
        self.mark_down_for(address, now, DOWN);
    }

    /// Passes the node over for so long, as when it says that it stops.
    pub fn mark_down_for(&self, address: &str, now: Instant, time: Duration) {
        if let Some(entry) = self.lock().find_mut(address) {
            entry.down_until = Some(now + time);
        }
    }

    pub fn mark_up(&self, address: &str) {
        if let Some(entry) = self.lock().find_mut(address) {
            entry.down_until = None;
        }
    }

    /// Number of shards; 0: not yet known.
    pub fn shards(&self) -> u16 {
        self.lock().shards
    }

    pub fn leader(&self, shard: u16) -> Option<Arc<str>> {
        self.lock().leaders.get(&shard).cloned()
    }

    /// Takes a node's hint. A hint that is no address is ignored: it only costs a detour.
    pub fn set_leader(&self, shard: Option<u16>, address: &str) {
        if !self.discover {
            return;
        }
        let mut state = self.lock();
        if state.add(&self.lines, address, u32::MAX).is_ok()
            && let Some(shard) = shard
        {
            state.leaders.insert(shard, address.into());
        }
    }

    /// Takes the cluster's own list of nodes and leaders.
    pub fn adopt(&self, cluster: &Cluster, now: Instant) {
        let mut state = self.lock();
        state.refreshed = Some(now);
        state.shards = cluster.shards.iter().map(|s| s.shard).max().unwrap_or(0);
        if !self.discover {
            return;
        }
        for entry in &mut state.entries {
            // A node that has left the cluster is asked last.
            entry.number = u32::MAX;
        }
        for node in &cluster.nodes {
            if let Err(error) = state.add(&self.lines, &node.api, node.id) {
                tracing::warn!(node = node.id, %error, "the cluster names a node that cannot be used");
            }
        }
        state.entries.sort_by_key(|e| e.number);
        let address: HashMap<u32, &str> = cluster.nodes.iter().map(|n| (n.id, n.api.as_str())).collect();
        state.leaders =
            cluster.shards.iter().filter_map(|s| Some((s.shard, Arc::from(*address.get(&s.leader)?)))).collect();
    }

    /// Claims the refresh of the list: true for one caller per interval, or after `forget`.
    pub fn claim_refresh(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let due = state.refreshed.is_none_or(|at| now.duration_since(at) >= REFRESH_INTERVAL);
        if due {
            state.refreshed = Some(now);
        }
        due
    }

    /// Leaders have moved: the next call reads the list again, at most once a second.
    pub fn forget(&self, now: Instant) {
        let mut state = self.lock();
        let earliest = now.checked_sub(REFRESH_INTERVAL - Duration::from_secs(1));
        if state.refreshed.is_some() && earliest.is_some() {
            state.refreshed = state.refreshed.min(earliest);
        }
    }

    /// All addresses, for people.
    pub fn addresses(&self) -> Vec<String> {
        self.lock().entries.iter().map(|e| e.node.address.to_string()).collect()
    }
}

impl State {
    fn find(&self, address: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| &*e.node.address == address)
    }

    fn find_mut(&mut self, address: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| &*e.node.address == address)
    }

    fn add(&mut self, lines: &Lines, address: &str, number: u32) -> Result<()> {
        if let Some(entry) = self.find_mut(address) {
            entry.number = entry.number.min(number);
            return Ok(());
        }
        if self.entries.len() >= NODES_MAX {
            return Err(Error::invalid(format!("a client keeps at most {NODES_MAX} nodes")));
        }
        let node = Node { address: address.into(), channel: lines.to(address)? };
        self.entries.push(Entry { node, number, down_until: None });
        Ok(())
    }
}

impl Lines {
    /// The way to the node at this address.
    fn to(&self, address: &str) -> Result<Line> {
        let endpoint = endpoint(address)?;
        let channel = match self.tls.clone() {
            None => endpoint.connect_lazy(),
            Some(tls) => {
                let address: Arc<str> = address.into();
                endpoint
                    .connect_with_connector_lazy(tower::service_fn(move |_: Uri| tls.clone().connect(address.clone())))
            }
        };
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }
}

impl Entry {
    fn is_up(&self, now: Instant) -> bool {
        self.down_until.is_none_or(|until| until <= now)
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    let (host, port) = address.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(Error::invalid(format!("{address:?} is not a node's host:port")));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Error::invalid(format!("{address:?} is not a node's host:port: {e}")))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PROBE_INTERVAL)
        .keep_alive_timeout(PROBE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::view::{NodeView, ShardView};

    fn cluster() -> Cluster {
        let node = |id, api: &str| NodeView { id, api: api.into(), ..NodeView::default() };
        let shard = |shard, leader| ShardView { shard, leader, ..ShardView::default() };
        Cluster {
            nodes: vec![node(2, "b:2"), node(1, "a:1")],
            shards: vec![shard(0, 1), shard(1, 2), shard(2, 0)],
            ..Cluster::default()
        }
    }

    #[tokio::test]
    async fn adopts_nodes_leaders_and_shard_count() {
        let pool = Pool::new(vec!["seed:9".into()], &ClientOptions::default()).unwrap();
        let now = Instant::now();
        pool.adopt(&cluster(), now);
        assert_eq!(pool.shards(), 2);
        assert_eq!(pool.leader(1).as_deref(), Some("b:2"));
        assert_eq!(pool.leader(2), None);
        assert_eq!(pool.addresses(), ["a:1", "b:2", "seed:9"]);
        assert_eq!(&*pool.at(3).address, "b:2");

        let mut smaller = cluster();
        smaller.nodes.remove(0);
        pool.adopt(&smaller, now);
        assert_eq!(pool.leader(1), None);
        for _ in 0..4 {
            assert_eq!(&*pool.pick(None, now).address, "a:1");
        }
    }

    #[tokio::test]
    async fn passes_over_nodes_that_are_down_until_all_are() {
        let pool = Pool::new(vec!["seed:9".into()], &ClientOptions::default()).unwrap();
        let now = Instant::now();
        pool.adopt(&cluster(), now);
        pool.mark_down("a:1", now);
        assert_eq!(&*pool.pick(Some("a:1"), now).address, "b:2");
        pool.mark_down("b:2", now + DOWN / 2);
        assert_eq!(&*pool.pick(None, now).address, "seed:9");
        pool.mark_down("seed:9", now + DOWN / 2);
        assert!(!pool.any_up(now));
        assert_eq!(&*pool.pick(None, now).address, "a:1");
        assert_eq!(&*pool.pick(Some("b:2"), now + 2 * DOWN).address, "b:2");
    }

    #[tokio::test]
    async fn without_discovery_only_the_given_addresses_are_used() {
        let pool =
            Pool::new(vec!["proxy:9".into()], &ClientOptions { discover: false, ..ClientOptions::default() }).unwrap();
        pool.adopt(&cluster(), Instant::now());
        pool.set_leader(Some(1), "b:2");
        assert_eq!((pool.shards(), pool.leader(1)), (2, None));
        assert_eq!(pool.addresses(), ["proxy:9"]);
    }

    #[tokio::test]
    async fn refuses_what_is_no_address() {
        for bad in ["", "host", "host:", ":1", "host:99999", "ho st:1"] {
            assert!(Pool::new(vec![bad.into()], &ClientOptions::default()).is_err(), "{bad:?}");
        }
        assert!(Pool::new(Vec::new(), &ClientOptions::default()).is_err());
    }

    #[tokio::test]
    async fn one_caller_refreshes() {
        let pool = Pool::new(vec!["a:1".into()], &ClientOptions::default()).unwrap();
        let now = Instant::now();
        assert!(pool.claim_refresh(now));
        assert!(!pool.claim_refresh(now));
        assert!(pool.claim_refresh(now + REFRESH_INTERVAL));
    }
}
