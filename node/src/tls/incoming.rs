//! Connections of clients and workers, and of those who read pages: greeted beside each other, so that one that says
//! nothing keeps nobody waiting.

use super::Tls;
use super::line::Line;
use crate::gate::door::Door;
use crate::gate::line::{Guarded, Use};
use futures::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsStream;

/// Greetings under way at a port, each some 40 KiB: more connections wait in the system's queue.
const GREETINGS_MAX: usize = 1_024;
/// Time for a greeting: a few round trips, and a signature on a busy node.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Greeted connections that wait to be served.
const WAITING_MAX: usize = 16;
/// Which of the node's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// gRPC.
    Api,
    /// Pages and metrics.
    Http,
    /// Other nodes.
    Peer,
}

/// What came of connections.
#[derive(Debug, Default)]
pub struct Counts {
    /// Greetings that failed: no TLS, an old version of it, a certificate that is not trusted.
    pub failed: AtomicU64,
    /// Greetings not ended in time.
    pub slow: AtomicU64,
}

impl Port {
    fn used(self) -> Use {
        match self {
            Port::Http => Use::Pages,
            Port::Api | Port::Peer => Use::Calls,
        }
    }
}

/// The connections of a port.
pub struct Incoming {
    lines: mpsc::Receiver<Guarded<Line>>,
}

impl Incoming {
    /// Takes what connects to `listener` and finds a place at `door`; without `tls` it is not encrypted. Ends when it is
    /// dropped.
    pub fn start(
        listener: TcpListener,
        door: Arc<Door>,
        tls: Option<Arc<Tls>>,
        port: Port,
        counts: Arc<Counts>,
    ) -> Self {
        let (send, lines) = mpsc::channel(WAITING_MAX);
        tokio::spawn(run(listener, door, tls, port, counts, send));
        Incoming { lines }
    }

    /// The next connection.
    pub async fn next(&mut self) -> Guarded<Line> {
        match self.lines.recv().await {
            Some(line) => line,
            // Only when the runtime ends.
            None => std::future::pending().await,
        }
    }
}

async fn run(
    listener: TcpListener,
    door: Arc<Door>,
    tls: Option<Arc<Tls>>,
    port: Port,
    counts: Arc<Counts>,
    send: mpsc::Sender<Guarded<Line>>,
) {
    let places = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let greeting = places.clone().acquire_owned().await.expect("nobody closes it");
        let (stream, place) = tokio::select! {
            accepted = door.accept(&listener) => accepted,
            () = send.closed() => return,
        };
        let Some(tls) = tls.clone() else {
            if send.send(door.guard(Line::plain(stream), port.used(), place)).await.is_err() {
                return;
            }
            continue;
        };
        let (send, counts, door) = (send.clone(), counts.clone(), door.clone());
        tokio::spawn(async move {
            if let Some(line) = greet(&tls, port, stream, &counts).await {
                let _ = send.send(door.guard(line, port.used(), place)).await;
            }
            drop(greeting);
        });
    }
}

async fn greet(tls: &Tls, port: Port, stream: TcpStream, counts: &Counts) -> Option<Line> {
    match tokio::time::timeout(GREETING_TIMEOUT, tls.acceptor(port).accept(stream)).await {
        Ok(Ok(stream)) => Some(Line::tls(TlsStream::Server(stream))),
        Ok(Err(error)) => {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(?port, %error, "a connection was not let in");
            None
        }
        Err(_) => {
            counts.slow.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Guarded<Line>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines.poll_recv(context).map(|line| line.map(Ok))
    }
}
