//! The listener: connections and requests within bounds of number, size and time.

use super::limits::{CALL_TIME, CONNECTIONS_MAX, HEAD_BYTES_MAX, HEAD_TIME, UPLOAD_TIME};
use super::{Front, routes};
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
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

/// Wait after a failed accept: no descriptor is free, or no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stopping`; requests under way come to their end.
pub async fn serve(listener: TcpListener, front: Arc<Front>, mut stopping: watch::Receiver<bool>) {
    let router = routes(front);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some(accepted) = accepted else {
            // All places are free once what is under way has come to its end.
            drop(place);
            let _ = places.acquire_many(CONNECTIONS_MAX as u32).await;
            return;
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (router, stopping) = (router.clone(), stopping.clone());
        tokio::spawn(async move {
            connection(stream, router, stopping).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: axum::Router, mut stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request.map(Body::new)).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), service);
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
