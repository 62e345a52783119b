//! A node put together: folder, stores, reactors, log writer, peers, services; and taken apart again.

use crate::backup::serve::{BackupSource, BackupsApi};
use crate::clock::Clock;
use crate::cluster::ClusterInfo;
use crate::config::Config;
use crate::directory::{Counters, Directory, Inbox, ShardSlot};
use crate::disk::watch::Watch;
use crate::disk::{self, Disk};
use crate::dispatch::Dispatcher;
use crate::error::Error;
use crate::handler::{Handler, Served};
use crate::identity::{AuditTrail, Guard, Security, audit};
use crate::inner::Inner;
use crate::log_writer::LogWriter;
use crate::meta_group::publish;
use crate::open;
use crate::outbound::Outbound;
use crate::panda::sandbox::Sandboxes;
use crate::peer::{PeerConfig, Peers};
use crate::ports::{Listeners, Ports, Services};
use crate::reactor::{Mailbox, Reactor, reactor_of};
use crate::resident::Residents;
use crate::router::Router;
use crate::salvage::{self, Salvage};
use crate::sessions::Sessions;
use crate::snapshot::receiver::Receiver;
use crate::snapshot::sender::Sender;
use crate::store::{self, DataFolder, LogOptions, SegmentLog, SharedOptions, SharedRocks};
use crate::tls::{self, Tls};
use crate::upkeep::{Flusher, Upkeep};
use crossbeam::sync::Parker;
use metrics_exporter_prometheus::PrometheusHandle;
use moso_proto::shards::node_of;
use moso_queue::meta::MetaView;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Requests waiting at a shard: a second's worth of single calls.
pub const INBOX: usize = 8_192;
/// Changes of objects waiting at the meta group.
const META_INBOX: usize = 1_024;
/// How long a stopping node waits for its workers and leaderships to go.
const DRAIN: Duration = Duration::from_secs(3);

/// Runs a node until `stop` says so.
///
/// # Errors
/// The configuration, the folder or the ports do not allow it, or the node met an error after which it must not go on.
pub async fn run(config: Config, metrics: PrometheusHandle, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let clock = Clock::default();
    let security = Security::open(&config)?.map(Arc::new);
    let folder = DataFolder::open(&config.data, &config.cluster, config.node)?;
    let listeners = Listeners::bind(&config).await?;
    let built = build(&config, &folder, clock)?;
    let (mailboxes, directory) = (built.mailboxes.clone(), built.directory.clone());
    let sessions = Arc::new(Sessions::default());
    let served = Arc::new(OnceLock::new());
    let handler = Handler { mailboxes: mailboxes.clone(), sessions: sessions.clone(), served: served.clone() };
    let inner = Inner::start()?;
    let tls = security.as_ref().map(|security| security.tls.clone());
    let (peer, listeners) = listeners.split();
    let peer_config = peer_config(&config, &folder, inner.listen(peer)?, tls.clone())?;
    let peers = Arc::new(inner.enter(|| Peers::start(peer_config, Arc::new(handler))));
    let (trail, audited) = AuditTrail::new();
    let guard = Arc::new(Guard::new(security.clone(), directory.clone(), clock, trail));
    let outbound = Outbound::new(peers.clone(), sessions.clone());
    let router = Arc::new(Router::new(directory.clone(), peers.clone()));
    let mut background = JoinSet::new();
    background.spawn(audit::run(audited, router.clone()));
    let dispatcher = Arc::new(Dispatcher::new(router.clone()));
    let info = Arc::new(ClusterInfo {
        directory: directory.clone(),
        peers: peers.clone(),
        sessions: sessions.clone(),
        data: config.data.clone(),
        guard: guard.clone(),
        clock,
    });
    let shared = built.shared.clone();
    let receiver = Arc::new(Receiver::new(config.data.clone(), mailboxes.clone(), shared.clone()));
    let sandboxes = Arc::new(Sandboxes::open(store::sandboxes_dir(&config.data))?);
    let _ = served.set(Served {
        router: router.clone(),
        dispatcher: dispatcher.clone(),
        receiver,
        guard: guard.clone(),
        sandboxes: sandboxes.clone(),
    });
    let backups = BackupsApi::new(BackupSource {
        router: router.clone(),
        mailboxes: mailboxes.clone(),
        data: config.data.clone(),
        shared: shared.clone(),
        clock,
        guard: guard.clone(),
        mib_per_s: config.snapshot_mib_per_s,
    });
    let residents = Residents {
        config: config.clone(),
        directory: directory.clone(),
        mailboxes: mailboxes.clone(),
        log: built.log.clone(),
        shared,
        incarnations: folder.incarnations()?,
    };

    let (disk, log) = (directory.disk.clone(), built.log.clone());
    let _watch = Watch::start(disk.clone(), clock).map_err(threads)?;
    let (failed, mut failure) = watch::channel(false);
    let threads = start_threads(&config, built, &outbound, &peers, clock, &failed)?;

    let hints_info = info.clone();
    let hints = inner.spawn(crate::hints::run(directory.clone(), peers.clone(), move || hints_info.own()));
    background.spawn(crate::hints::tell_rejected(directory.clone(), peers.clone(), guard.clone()));
    background.spawn(crate::placement::run(Arc::new(residents), router.clone(), failed.clone()));
    background.spawn(refresh(security));
    let sessions_here = sessions.clone();
    let services = Services { router, dispatcher, sessions, info, backups, guard, sandboxes, metrics, clock };
    let ports = Ports::open(&config, listeners, tls, services, &mut background);
    tracing::info!(node = config.node, api = %config.api, peer = %config.peer, http = %config.http, "started");

    let mut failed_now = false;
    tokio::select! {
        () = stop => {}
        _ = failure.changed() => failed_now = *failure.borrow(),
    }
    if failed_now {
        // A reactor met an error of its replica: what it holds in memory must not be served.
        return Err(Error::Read { what: "a shard", reason: "its reactor has stopped, see above".into() });
    }
    tracing::info!("stopping");
    sessions_here.drain();
    give_leaderships_away(&directory, &mailboxes).await;
    hints.abort();
    ports.close(DRAIN).await;
    background.abort_all();
    disk.stop();
    mailboxes.iter().for_each(|m| m.stop());
    // The flusher and the log writer end when the reactors have.
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
    let _ = joined.await;
    close(&directory, &log)?;
    tracing::info!("stopped");
    Ok(())
}

/// Puts all on disk, the log first: it holds what the states do not.
fn close(directory: &Directory, log: &SegmentLog) -> Result<(), Error> {
    log.close()?;
    directory.shards.iter().filter_map(|slot| slot.store.load_full()).try_for_each(|store| store.flush())
}

fn threads(source: std::io::Error) -> Error {
    Error::Io { what: "starting a thread".into(), source }
}

/// Starts the reactors, the flusher and the log writer, in the order in which they end.
fn start_threads(
    config: &Config,
    built: Built,
    outbound: &Outbound,
    peers: &Arc<Peers>,
    clock: Clock,
    failed: &watch::Sender<bool>,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let Built { mailboxes, parkers, directory, groups, meta, log, shared } = built;
    let sender =
        Arc::new(Sender::new(peers.clone(), mailboxes.clone(), config.data.clone(), shared, config.snapshot_mib_per_s));
    let (writer, writer_thread) =
        LogWriter::start(log.clone(), outbound.clone(), mailboxes.clone(), directory.disk.clone(), clock)
            .map_err(threads)?;
    let (flusher, flusher_thread) = Flusher::start(mailboxes.clone(), directory.disk.clone()).map_err(threads)?;
    let mut started = Vec::new();
    let mut meta = Some(meta);
    let mut per_reactor: Vec<BTreeMap<u16, crate::group::Group>> = mailboxes.iter().map(|_| BTreeMap::new()).collect();
    for (shard, group) in groups {
        per_reactor[reactor_of(shard, mailboxes.len())].insert(shard, group);
    }
    for ((number, parker), groups) in parkers.into_iter().enumerate().zip(per_reactor) {
        let reactor = Reactor {
            groups,
            // Shard 0 belongs to the first reactor, as its mailbox is chosen by the shard's number.
            meta: if number == 0 { meta.take() } else { None },
            mailbox: mailboxes[number].clone(),
            parker,
            directory: directory.clone(),
            outbound: outbound.clone(),
            log: writer.clone(),
            upkeep: Upkeep::new(
                flusher.clone(),
                log.clone(),
                writer.clone(),
                peers.clone(),
                sender.clone(),
                config.log_keep_mib << 20,
            ),
            data: config.data.clone(),
            clock,
            tick_ms: config.raft_tick_ms,
            policy_version: u64::MAX,
        };
        started.push(start_reactor(number, reactor, failed.clone())?);
    }
    started.extend([flusher_thread, writer_thread]);
    Ok(started)
}

fn peer_config(
    config: &Config,
    folder: &DataFolder,
    listen: TcpListener,
    tls: Option<Arc<Tls>>,
) -> Result<PeerConfig, Error> {
    let peers = config.members.iter().filter(|m| m.node != config.node).map(|m| (m.node, m.peer.clone())).collect();
    Ok(PeerConfig {
        cluster: config.cluster.clone(),
        node: config.node,
        store: folder.identity().store,
        seen: Arc::new(folder.seen()?),
        level: config.feature_level_max,
        listen,
        tls,
        peers,
    })
}

struct Built {
    mailboxes: Vec<Arc<Mailbox>>,
    parkers: Vec<Parker>,
    directory: Arc<Directory>,
    groups: Vec<(u16, crate::group::Group)>,
    meta: crate::meta_group::MetaGroup,
    log: Arc<SegmentLog>,
    shared: Arc<SharedRocks>,
}

/// Opens the meta group's replica; makes it, if the cluster is made.
fn open_meta(
    config: &Config,
    data: &std::path::Path,
    log: &Arc<SegmentLog>,
    shared: &SharedRocks,
) -> Result<crate::meta_group::MetaGroup, Error> {
    let store = open::open_store(data, 0, open::peer_of(config.node), log, shared)?;
    if !config.join {
        open::found(0, &store, log, &open::meta_founders(config))?;
    }
    open::open_meta(config, store, log)
}

/// Opens all that is on disk.
fn build(config: &Config, folder: &DataFolder, clock: Clock) -> Result<Built, Error> {
    const MIB: usize = 1 << 20;
    let data = folder.path();
    let lost = |error: Error| if error.is_damage() { salvage::whole_node(data, &error) } else { error };
    let disk = Arc::new(open_disk(config, data)?);
    let log_options = LogOptions { segment_bytes: config.log_segment_mib * MIB };
    let log = Arc::new(SegmentLog::open(&store::log_dir(data), &log_options).map_err(lost)?.with_relief(disk.clone()));
    let shared = Arc::new(SharedRocks::new(&SharedOptions {
        block_cache_bytes: config.block_cache_mib * MIB,
        memtable_bytes: config.state_memory_mib * MIB,
        write_buffer_bytes: config.state_write_buffer_mib * MIB,
        ..SharedOptions::default()
    })?);
    let parkers: Vec<Parker> = (0..config.reactors.max(1)).map(|_| Parker::new()).collect();
    let mailboxes: Vec<Arc<Mailbox>> = parkers.iter().map(|p| Arc::new(Mailbox::new(p.unparker().clone()))).collect();
    crate::resident::finish_destroying(data, &log)?;
    let own = open::peer_of(config.node);
    let mut meta = open_meta(config, data, &log, &shared).map_err(lost)?;
    let view = MetaView::new(meta.core().machine())?;
    let founds = view.version() == 0 && !config.join;
    let table = if view.version() == 0 { open::shard_table(config) } else { view.shards().clone() };
    let on_disk = open::replicas_on_disk(data)?;
    let mut salvage = Salvage::new(config, data, &shared, &log)?;
    let mut damaged = Vec::new();
    let mut groups = Vec::new();
    let mut slots = Vec::new();
    for shard in 1..=config.shards {
        let nodes = table.replicas.get(usize::from(shard) - 1).filter(|_| !config.join || view.version() > 0);
        let slot = ShardSlot::new(shard, nodes.cloned().unwrap_or_default());
        let newest =
            on_disk.keys().filter(|key| key.0 == shard && node_of(key.1) == config.node).map(|key| key.1).max();
        let founded = nodes.filter(|nodes| founds && nodes.contains(&config.node)).map(|nodes| open::founders(nodes));
        if let Some(peer) = newest.or(founded.as_ref().map(|_| own)) {
            match salvage.open(shard, peer, founded.as_ref())? {
                Some((store, group)) => {
                    groups.push((shard, group));
                    let mailbox = &mailboxes[reactor_of(shard, mailboxes.len())];
                    slot.inbox.store(Some(Arc::new(Inbox::new(INBOX, mailbox.unparker()))));
                    slot.store.store(Some(store));
                    slot.local.store(peer, std::sync::atomic::Ordering::Release);
                }
                None => damaged.push(shard),
            }
        }
        slots.push(slot);
    }
    let directory = Arc::new(Directory {
        node: config.node,
        cluster: config.cluster.clone(),
        shards: slots,
        meta_leader: Default::default(),
        meta_voters: arc_swap::ArcSwap::from_pointee(meta.voters()),
        meta_inbox: Some(Inbox::new(META_INBOX, mailboxes[0].unparker())),
        meta: Default::default(),
        meta_changed: Default::default(),
        order: Default::default(),
        usage: Default::default(),
        live: Default::default(),
        hints: Default::default(),
        clock,
        times: Default::default(),
        waiting: Default::default(),
        disk,
        damaged: arc_swap::ArcSwap::from_pointee(damaged),
        draining: Default::default(),
        hint_now: Default::default(),
        counters: Counters::default(),
    });
    directory.set_others(config.members.iter().map(|member| member.node));
    publish(meta.core(), &directory)?;
    Ok(Built { mailboxes, parkers, directory, groups, meta, log, shared })
}

/// Looks at the disk. A start needs room for one more file of the log and one memtable.
fn open_disk(config: &Config, data: &std::path::Path) -> Result<Disk, Error> {
    let bytes = |mib: usize| (mib as u64) << 20;
    let limits = disk::Limits { low: bytes(config.disk_low_mib), reserve: bytes(config.reserve_mib) };
    let need = bytes(config.log_segment_mib + config.state_write_buffer_mib);
    Disk::open(config.node, data, limits, config.disk_stuck_ms, need)
}

fn start_reactor(number: usize, reactor: Reactor, failed: watch::Sender<bool>) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(format!("reactor-{number}"))
        .spawn(move || {
            let _guard = crate::fault::AbortOnPanic;
            let disk = reactor.directory.disk.clone();
            if let Err(error) = reactor.run() {
                salvage::write_down(disk.folder(), disk.node(), &error);
                tracing::error!(%error, "a reactor met an error: this node ends");
                let _ = failed.send(true);
            }
        })
        .map_err(threads)
}

/// Asks the reactors to hand their leaderships over, and waits until they have, or the time is up.
async fn give_leaderships_away(directory: &Directory, mailboxes: &[Arc<Mailbox>]) {
    if directory.hints.load().is_empty() {
        return;
    }
    directory.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    directory.hint_now.notify_one();
    mailboxes.iter().for_each(|m| m.drain());
    let deadline = tokio::time::Instant::now() + DRAIN;
    // Where all stop, nobody is left to lead.
    let anybody = || directory.hints.load().keys().any(|&node| !directory.is_draining(node));
    while directory.led_here().next().is_some() && anybody() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks at the files of keys and certificates, and fetches keys of issuers, for as long as the node runs.
async fn refresh(security: Option<Arc<Security>>) {
    let Some(security) = security else { return };
    let files = async {
        loop {
            tokio::time::sleep(tls::LOOK_EVERY).await;
            let security = security.clone();
            // Reads files.
            let _ = tokio::task::spawn_blocking(move || security.refresh()).await;
        }
    };
    tokio::join!(files, security.clone().fetch_keys());
}
