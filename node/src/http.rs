//! HTTP: health, metrics and the cluster as JSON. Its own port, GET only, small requests.

use crate::cluster::ClusterInfo;
use crate::directory::ShardStatus;
use crate::gate::Gate;
use crate::identity::Guard;
use crate::limits::PAGE_FRESH;
use crate::request::Fault;
use crate::tls::{Caller, Counts};
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use moso_proto::Code;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What the handlers see.
#[derive(Clone)]
pub struct HttpState {
    /// The cluster.
    pub info: Arc<ClusterInfo>,
    /// Who may.
    pub guard: Arc<Guard>,
    /// What came of connections.
    pub counts: Arc<Counts>,
    /// Metrics.
    pub metrics: PrometheusHandle,
    /// What was refused, and the memory of calls.
    pub gate: Arc<Gate>,
    /// The memory that the node may use, bytes.
    pub memory_limit_bytes: u64,
    /// Pages made lately.
    pub fresh: Arc<Fresh>,
}

/// Pages made lately: who asks again and again costs little.
#[derive(Default)]
pub struct Fresh {
    metrics: Mutex<Option<(Instant, Bytes)>>,
    cluster: Mutex<Option<(Instant, Bytes)>>,
}

/// The page kept here if it was made within [`PAGE_FRESH`], else a new one.
fn fresh(kept: &Mutex<Option<(Instant, Bytes)>>, make: impl FnOnce() -> Bytes) -> Bytes {
    let mut kept = kept.lock().expect("no page panics while it is made");
    match &*kept {
        Some((made, page)) if made.elapsed() < PAGE_FRESH => page.clone(),
        _ => {
            let page = make();
            *kept = Some((Instant::now(), page.clone()));
            page
        }
    }
}

/// The routes. Whether a node is well may be asked by anybody, the rest by those who say who they are.
pub fn routes(state: HttpState) -> Router {
    let known = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/cluster", get(cluster))
        .route_layer(from_fn_with_state(state.guard.clone(), identify));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .merge(known)
        .with_state(state)
}

/// Finds out who calls, for all that is served behind it: handlers find an `Extension<Arc<Principal>>`. Others are
/// answered with 401 or 403, and told why.
pub async fn identify(
    State(guard): State<Arc<Guard>>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap_or_default());
    match guard.identify(authorization, Some(&caller)) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(fault) => refusal(&fault),
    }
}

/// The answer to a call that is refused.
pub fn refusal(fault: &Fault) -> Response {
    let status = match fault.code {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::Busy => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::NotLeader | Code::Timeout => StatusCode::SERVICE_UNAVAILABLE,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = (status, format!("{}\n", fault.message)).into_response();
    if fault.retry_after_ms > 0 {
        let seconds = HeaderValue::from(fault.retry_after_ms.div_ceil(1_000));
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    response
}

async fn ready(State(state): State<HttpState>) -> Response {
    match state.info.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn cluster(State(state): State<HttpState>) -> Response {
    let page = fresh(&state.fresh.cluster, || {
        serde_json::to_vec(&state.info.view()).expect("numbers and texts are JSON").into()
    });
    ([(header::CONTENT_TYPE, "application/json")], page).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let page = fresh(&state.fresh.metrics, || render(&state).into());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
}

fn render(state: &HttpState) -> String {
    let own = state.info.own();
    let directory = &state.info.directory;
    let counters = &directory.counters;
    for (name, counter) in [
        ("moso_heartbeats_total", &counters.heartbeats),
        ("moso_jobs_submitted_total", &counters.submitted),
        ("moso_submissions_total", &counters.submissions),
        ("moso_jobs_leased_total", &counters.leased),
        ("moso_results_accepted_total", &counters.accepted),
        ("moso_results_refused_total", &counters.refused),
        ("moso_requests_shed_total", &counters.shed),
        ("moso_greetings_failed_total", &state.counts.failed),
        ("moso_greetings_slow_total", &state.counts.slow),
    ] {
        metrics::counter!(name).absolute(counter.load(Ordering::Relaxed));
    }
    for row in state.guard.rejections().view(directory.node) {
        metrics::counter!("moso_calls_rejected_total", "reason" => row.reason, "user" => row.user).absolute(row.count);
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
    state.gate.refusals.publish();
    metrics::counter!("moso_behind_total").absolute(state.gate.pace.falls());
    metrics::gauge!("moso_memory_in_flight_bytes").set(state.gate.memory.in_use_bytes() as f64);
    metrics::gauge!("moso_memory_limit_bytes").set(state.memory_limit_bytes as f64);
    state.metrics.render()
}
