//! HTTP: health, metrics and the cluster as JSON. Its own port, GET only, small requests.

use crate::cluster::ClusterInfo;
use crate::directory::ShardStatus;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the handlers see.
#[derive(Clone)]
pub struct HttpState {
    /// The cluster.
    pub info: Arc<ClusterInfo>,
    /// Metrics.
    pub metrics: PrometheusHandle,
}

/// The routes.
pub fn routes(state: HttpState) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/cluster", get(cluster))
        .with_state(state)
}

async fn ready(State(state): State<HttpState>) -> Response {
    match state.info.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn cluster(State(state): State<HttpState>) -> Response {
    Json(state.info.view()).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let own = state.info.own();
    let directory = &state.info.directory;
    let counters = &directory.counters;
    for (name, counter) in [
        ("moso_heartbeats_total", &counters.heartbeats),
        ("moso_jobs_submitted_total", &counters.submitted),
        ("moso_jobs_leased_total", &counters.leased),
        ("moso_results_accepted_total", &counters.accepted),
        ("moso_results_refused_total", &counters.refused),
        ("moso_requests_shed_total", &counters.shed),
    ] {
        metrics::counter!(name).absolute(counter.load(Ordering::Relaxed));
    }
    for (name, value) in [
        ("moso_rss_bytes", own.rss_bytes),
        ("moso_cpu_us", own.cpu_us),
        ("moso_written_bytes", own.written_bytes),
        ("moso_disk_free_bytes", own.disk_free_bytes),
        ("moso_sessions", own.sessions),
        ("moso_shards_led", u64::from(own.leaders)),
        ("moso_job_bytes", own.job_bytes),
        ("moso_disk_low", u64::from(own.disk_low)),
        ("moso_disk_stuck", u64::from(own.disk_stuck)),
        ("moso_replicas_damaged", own.damaged_replicas.len() as u64),
    ] {
        metrics::gauge!(name).set(value as f64);
    }
    for slot in directory.shards.iter().filter(|slot| slot.inbox.load().is_some()) {
        // A shard that is led elsewhere by now must not be counted twice.
        let led = slot.leader() == directory.node;
        let status = if led { **slot.status.load() } else { ShardStatus::default() };
        for (name, value) in [
            ("moso_shard_live_jobs", status.live),
            ("moso_shard_ready_jobs", status.ready),
            ("moso_shard_leased_jobs", status.leased),
            ("moso_shard_applied_index", status.applied),
            ("moso_shard_lag_entries", status.lag),
        ] {
            metrics::gauge!(name, "shard" => slot.shard.to_string()).set(value as f64);
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], state.metrics.render()).into_response()
}
