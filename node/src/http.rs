//! HTTP: health, metrics and the cluster as JSON. Its own port, GET only, small requests.

use crate::cluster::ClusterInfo;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;

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
    for (name, value) in [
        ("moso_rss_bytes", own.rss_bytes),
        ("moso_cpu_us", own.cpu_us),
        ("moso_written_bytes", own.written_bytes),
        ("moso_disk_free_bytes", own.disk_free_bytes),
        ("moso_sessions", own.sessions),
        ("moso_shards_led", u64::from(own.leaders)),
        ("moso_heartbeats_total", own.heartbeats),
        ("moso_results_refused_total", own.refused),
        ("moso_job_bytes", own.job_bytes),
    ] {
        metrics::gauge!(name).set(value as f64);
    }
    for slot in directory.led_here() {
        let status = slot.status.load();
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
