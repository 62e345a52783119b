//! What a node serves on its ports: gRPC, pages, PanDA's REST. That of the other nodes is `peer`'s.

use crate::api::admin::AdminApi;
use crate::api::caller::identify;
use crate::api::jobs::JobsApi;
use crate::api::workers::WorkersApi;
use crate::backup::serve::BackupsApi;
use crate::clock::Clock;
use crate::cluster::ClusterInfo;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::error::Error;
use crate::gate::call::CallLayer;
use crate::gate::door::Door;
use crate::gate::{self, Gate};
use crate::http::{self, HttpState};
use crate::identity::Guard;
use crate::limits::{
    CALL_HEAD_BYTES, CONNECTION_WINDOW_BYTES, PROBE, STREAM_ERRORS_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
    STREAMS_RESET_MAX,
};
use crate::panda::sandbox::Sandboxes;
use crate::panda::{self, Front};
use crate::router::Router;
use crate::sessions::Sessions;
use crate::tls::{Counts, Incoming, Port, Tls};
use metrics_exporter_prometheus::PrometheusHandle;
use moso_proto::MESSAGE_BYTES_MAX;
use moso_proto::v1::admin_server::AdminServer;
use moso_proto::v1::backups_server::BackupsServer;
use moso_proto::v1::jobs_server::JobsServer;
use moso_proto::v1::workers_server::WorkersServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::service::InterceptorLayer;

/// The ports, before anything is served there.
pub struct Listeners {
    peer: TcpListener,
    open: Open,
}

/// The ports of those who are no nodes.
pub struct Open {
    api: TcpListener,
    http: TcpListener,
    /// If PanDA's programs are served.
    panda: Option<TcpListener>,
}

impl Listeners {
    /// Takes the ports.
    ///
    /// # Errors
    /// `Io`, with the address.
    pub async fn bind(config: &Config) -> Result<Self, Error> {
        let bind = async |what: &str, addr: &str| {
            TcpListener::bind(addr)
                .await
                .map_err(|source| Error::Io { what: format!("listening on {what} address {addr}"), source })
        };
        let open = Open {
            api: bind("api", &config.api).await?,
            http: bind("http", &config.http).await?,
            panda: match config.panda.as_str() {
                "" => None,
                address => Some(bind("panda", address).await?),
            },
        };
        Ok(Listeners { peer: bind("peer", &config.peer).await?, open })
    }

    /// That of the other nodes, and the rest.
    pub fn split(self) -> (TcpListener, Open) {
        (self.peer, self.open)
    }
}

/// What the services speak to.
pub struct Services {
    /// To the shards' leaders.
    pub router: Arc<Router>,
    /// Jobs for workers.
    pub dispatcher: Arc<Dispatcher>,
    /// Workers connected here.
    pub sessions: Arc<Sessions>,
    /// The cluster as this node sees it.
    pub info: Arc<ClusterInfo>,
    /// Copies for operators.
    pub backups: BackupsApi,
    /// Who may do what.
    pub guard: Arc<Guard>,
    /// Files of PanDA's clients.
    pub sandboxes: Arc<Sandboxes>,
    /// Metrics.
    pub metrics: PrometheusHandle,
    /// Time.
    pub clock: Clock,
}

/// The ports, served.
pub struct Ports {
    stopping: watch::Sender<bool>,
    served: Vec<JoinHandle<()>>,
}

impl Ports {
    /// Serves from now on. What the ports need beside is added to `background`.
    pub fn open(
        config: &Config,
        listeners: Open,
        tls: Option<Arc<Tls>>,
        services: Services,
        background: &mut JoinSet<()>,
    ) -> Ports {
        let (stopping, stop) = watch::channel(false);
        let gate = Gate::new(config.api_memory_mib << 20);
        let directory = services.info.directory.clone();
        background.spawn(gate::pace::run(gate.clone(), move || gate::pace::taken(&directory.counters)));
        let counts = Arc::new(Counts::default());
        let incoming = |listener, connections, port| {
            let door = Arc::new(Door::new(gate.clone(), connections, config.address_connections));
            Incoming::start(listener, door, tls.clone(), port, counts.clone())
        };
        let http = incoming(listeners.http, config.http_connections, Port::Http);
        let pages = http::routes(HttpState {
            info: services.info.clone(),
            guard: services.guard.clone(),
            counts: counts.clone(),
            metrics: services.metrics.clone(),
            gate: gate.clone(),
            memory_limit_bytes: gate::memory_limit_bytes(config),
            fresh: Arc::default(),
        });
        let panda = listeners.panda.map(|listener| incoming(listener, panda::limits::CONNECTIONS_MAX, Port::Http));
        let api = incoming(listeners.api, config.api_connections, Port::Api);
        let served = vec![
            tokio::spawn(gate::http::serve(http, pages, stop.clone())),
            tokio::spawn(serve_panda(panda, front(&services, config, &gate, &stop), stop.clone())),
            tokio::spawn(async move {
                if let Err(error) = serve_api(api, services, gate, stop).await {
                    tracing::error!(%error, "gRPC is not served any more");
                }
            }),
        ];
        Ports { stopping, served }
    }

    /// Nothing new is begun; what is under way has so long to end on each port.
    pub async fn close(self, time: Duration) {
        let _ = self.stopping.send(true);
        for port in self.served {
            let _ = tokio::time::timeout(time, port).await;
        }
    }
}

fn front(services: &Services, config: &Config, gate: &Arc<Gate>, stop: &watch::Receiver<bool>) -> Arc<Front> {
    let Services { router, dispatcher, guard, sandboxes, clock, .. } = services;
    let jobs = JobsApi::new(router.clone(), guard.clone(), *clock, gate.clone(), stop.clone());
    let times = panda::limits::Times::of(config);
    Arc::new(Front::new(router.clone(), dispatcher.clone(), jobs, guard.clone(), sandboxes.clone(), times))
}

/// Serves PanDA's programs, if they are, and keeps their files in any case: other nodes may serve them.
async fn serve_panda(lines: Option<Incoming>, front: Arc<Front>, stopping: watch::Receiver<bool>) {
    let sweep = front.clone().sweep(stopping.clone());
    match lines {
        Some(lines) => drop(tokio::join!(panda::serve::serve(lines, front, stopping), sweep)),
        None => sweep.await,
    }
}

async fn serve_api(
    lines: Incoming,
    services: Services,
    gate: Arc<Gate>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let Services { router, dispatcher, sessions, info, backups, guard, clock, .. } = services;
    let jobs = JobsApi::new(router.clone(), guard.clone(), clock, gate.clone(), stopping.clone());
    let jobs = JobsServer::new(jobs)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX * 2);
    let workers = WorkersApi::new(router.clone(), guard.clone(), dispatcher, sessions, gate.clone());
    let workers = WorkersServer::new(workers)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX * 2);
    let admin = AdminServer::new(AdminApi::new(router, guard.clone(), info));
    tonic::transport::Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(CALL_HEAD_BYTES))
        .http2_max_pending_accept_reset_streams(Some(STREAMS_RESET_MAX))
        .http2_max_local_error_reset_streams(Some(STREAM_ERRORS_MAX))
        .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
        .initial_connection_window_size(Some(CONNECTION_WINDOW_BYTES))
        .http2_keepalive_interval(Some(PROBE))
        .http2_keepalive_timeout(Some(PROBE))
        .layer(CallLayer { gate })
        .layer(InterceptorLayer::new(move |request| identify(&guard, request)))
        .add_service(jobs)
        .add_service(workers)
        .add_service(admin)
        .add_service(BackupsServer::new(backups))
        .serve_with_incoming_shutdown(lines, async move { drop(stopping.wait_for(|s| *s).await) })
        .await
}
