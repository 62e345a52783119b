//! The listener: connections and requests within bounds of number, size and time.

use super::limits::{CALL_TIME, HEAD_BYTES_MAX, HEAD_TIME, UPLOAD_TIME};
use super::{Front, routes};
use crate::gate::line::Guarded;
use crate::tls;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// Serves those who come until `stopping`; requests under way come to their end.
pub async fn serve(mut lines: tls::Incoming, front: Arc<Front>, mut stopping: watch::Receiver<bool>) {
    let router = routes(front);
    let mut connections = JoinSet::new();
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            Some(_) = connections.join_next() => continue,
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => break,
        };
        connections.spawn(connection(line, router.clone(), stopping.clone()));
    }
    drop(lines);
    while connections.join_next().await.is_some() {}
}

async fn connection(line: Guarded<tls::Line>, router: axum::Router, mut stopping: watch::Receiver<bool>) {
    let caller = line.line().caller().clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(line), service);
    tokio::pin!(connection);
    // What goes wrong here is the other side's: it has gone, or speaks no HTTP.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(router: axum::Router, request: Request) -> Response {
    let time = if request.uri().path().contains("/file_server/") || request.uri().path().starts_with("/cache/") {
        UPLOAD_TIME
    } else {
        CALL_TIME
    };
    match tokio::time::timeout(time, router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(_) => super::reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("ERROR : not answered within {time:?}")),
    }
}
