//! The server of pages: HTTP/1, small heads, nobody waits for ever.

use crate::limits::{PAGE_HEAD_BYTES, PAGE_HEAD_TIME, PAGE_HEADERS_MAX};
use crate::tls::Incoming;
use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Serves `routes` to those who come, whom handlers find as `ConnectInfo<Caller>`, until `stopping`; then what was asked for
/// is answered.
pub async fn serve(mut incoming: Incoming, routes: Router, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(PAGE_HEAD_TIME)
        .max_buf_size(PAGE_HEAD_BYTES)
        .max_headers(PAGE_HEADERS_MAX);
    loop {
        let guarded = tokio::select! {
            guarded = incoming.next() => guarded,
            Some(_) = connections.join_next() => continue,
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => break,
        };
        let routes = routes.clone().layer(Extension(ConnectInfo(guarded.line().caller().clone())));
        let connection = server.serve_connection(TokioIo::new(guarded), TowerToHyperService::new(routes));
        let mut stopping = stopping.clone();
        connections.spawn(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                // What went wrong with it is its client's.
                _ = connection.as_mut() => {}
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    drop(incoming);
    while connections.join_next().await.is_some() {}
}
