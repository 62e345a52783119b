//! Connections of clients and workers, and of those who read pages: greeted beside each other, so that one that says
//! nothing keeps nobody waiting.

use super::Tls;
use super::line::{Caller, Line};
use futures::Stream;
use std::io;
use std::net::SocketAddr;
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
/// Pause after the system refused a connection, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// The connections of a port.
pub struct Incoming {
    lines: mpsc::Receiver<Line>,
    address: Option<SocketAddr>,
}

impl Incoming {
    /// Takes what connects to `listener`; without `tls` it is not encrypted. Ends when it is dropped.
    pub fn start(listener: TcpListener, tls: Option<Arc<Tls>>, port: Port, counts: Arc<Counts>) -> Self {
        let (send, lines) = mpsc::channel(WAITING_MAX);
        let address = listener.local_addr().ok();
        tokio::spawn(run(listener, tls, port, counts, send));
        Incoming { lines, address }
    }
}

async fn run(listener: TcpListener, tls: Option<Arc<Tls>>, port: Port, counts: Arc<Counts>, send: mpsc::Sender<Line>) {
    let places = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("nobody closes it");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = send.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A connection that is gone already needs no care.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls.clone() else {
            if send.send(Line::plain(stream)).await.is_err() {
                return;
            }
            continue;
        };
        let (send, counts) = (send.clone(), counts.clone());
        tokio::spawn(async move {
            if let Some(line) = greet(&tls, port, stream, &counts).await {
                let _ = send.send(line).await;
            }
            drop(place);
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
    type Item = io::Result<Line>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines.poll_recv(context).map(|line| line.map(Ok))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Line;
    type Addr = Caller;

    async fn accept(&mut self) -> (Line, Caller) {
        match self.lines.recv().await {
            Some(line) => {
                let caller = line.caller().clone();
                (line, caller)
            }
            // Only when the runtime ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller { address: self.address, certificate: None })
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Incoming>> for Caller {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Incoming>) -> Self {
        stream.remote_addr().clone()
    }
}
