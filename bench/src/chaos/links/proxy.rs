//! One proxy: takes connections of one node, and makes one to the other for each.

use super::Weather;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;
/// Pieces on their way on a slow line; a reader beyond that waits, as with a full window.
const PIECES_MAX: usize = 1_024;
/// A dial to a node that is down is given up after this; on loopback it is refused at once.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// The listener failed, as when there are too many open files: it is tried again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What is shared with the connections.
#[derive(Debug)]
struct Line {
    /// Where connections lead; empty: not known yet.
    target: Mutex<String>,
    forward: watch::Sender<Weather>,
    back: watch::Sender<Weather>,
    /// Counts resets.
    reset: watch::Sender<u64>,
}

/// A proxy. Dropping it ends it and its connections.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of loopback.
    pub async fn open() -> std::io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            target: Mutex::default(),
            forward: watch::Sender::default(),
            back: watch::Sender::default(),
            reset: watch::Sender::default(),
        });
        let listener = tokio::spawn(listen(listener, line.clone()));
        Ok(Proxy { address, line, listener })
    }

    /// Where to dial.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connections go there from now on.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.line.target.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Weather from the node that dials to the other.
    pub fn set_forward(&self, weather: Weather) {
        self.line.forward.send_replace(weather);
    }

    /// Weather for the answers.
    pub fn set_back(&self, weather: Weather) {
        self.line.back.send_replace(weather);
    }

    /// Resets all connections.
    pub fn reset(&self) {
        self.line.reset.send_modify(|count| *count += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        // Ends the connections, which hold the line but not the proxy.
        self.reset();
    }
}

async fn listen(listener: TcpListener, line: Arc<Line>) {
    loop {
        match listener.accept().await {
            Ok((near, _)) => drop(tokio::spawn(serve(near, line.clone()))),
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

/// One connection, until either side closes it or it is reset.
async fn serve(near: TcpStream, line: Arc<Line>) {
    let mut reset = line.reset.subscribe();
    reset.mark_unchanged();
    let (mut forward, mut back) = (line.forward.subscribe(), line.back.subscribe());
    let dial = async {
        // A handshake needs both ways.
        clear(&mut forward).await;
        clear(&mut back).await;
        let target = line.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(target)).await.ok()?.ok()
    };
    let far = tokio::select! {
        far = dial => far,
        _ = reset.changed() => None,
    };
    let Some(far) = far else { return close_hard(&near) };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let (near_write, far_write) = (Side::new(near_write), Side::new(far_write));
    tokio::select! {
        () = pass(near_read, &far_write, forward) => {}
        () = pass(far_read, &near_write, back) => {}
        _ = reset.changed() => {
            near_write.close_hard();
            far_write.close_hard();
        }
    }
}

/// A socket's writing side.
struct Side(tokio::sync::Mutex<OwnedWriteHalf>);

impl Side {
    fn new(half: OwnedWriteHalf) -> Side {
        Side(tokio::sync::Mutex::new(half))
    }

    /// The peer sees a reset, not an end.
    fn close_hard(self) {
        let half = self.0.into_inner();
        close_hard(half.as_ref());
        // Dropped, it would say goodbye first.
        half.forget();
    }
}

/// The stream ends with a reset once it is dropped.
fn close_hard(stream: &TcpStream) {
    // A socket that cannot be told so closes gently: also an end of the connection.
    let _ = stream.set_zero_linger();
}

/// Waits until the line is not cut.
async fn clear(weather: &mut watch::Receiver<Weather>) {
    // The sender lives as long as the line.
    let _ = weather.wait_for(|weather| !weather.cut).await;
}

/// Passes bytes on, as the weather is, until either end closes.
async fn pass(read: OwnedReadHalf, write: &Side, mut weather: watch::Receiver<Weather>) {
    let (pieces, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reading = take_in(read, pieces, weather.clone());
    let writing = async {
        let mut write = write.0.lock().await;
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            clear(&mut weather).await;
            if write.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // A reader that ended leaves what it read to the writer.
    let mut reading = std::pin::pin!(reading);
    let mut writing = std::pin::pin!(writing);
    tokio::select! {
        () = &mut reading => writing.await,
        () = &mut writing => {}
    }
}

async fn take_in(mut read: OwnedReadHalf, pieces: mpsc::Sender<(Instant, Vec<u8>)>, weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let length = match read.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let delay = weather.borrow().delay;
        if pieces.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that answers each byte with the next.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        if stream.write_u8(byte + 1).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    async fn dial() -> (Proxy, TcpStream) {
        let proxy = Proxy::open().await.unwrap();
        proxy.lead_to(&echo().await);
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    async fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
        stream.write_u8(byte).await?;
        stream.read_u8().await
    }

    /// Long enough for what is not cut, even on a busy machine; waited for in full only by what is cut.
    const WHILE: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn a_good_line_passes_everything() {
        let (_proxy, mut stream) = dial().await;
        for byte in 0..10 {
            assert_eq!(ask(&mut stream, byte).await.unwrap(), byte + 1);
        }
    }

    #[tokio::test]
    async fn what_was_sent_on_a_cut_line_arrives_when_it_is_mended() {
        for forward in [true, false] {
            let (proxy, mut stream) = dial().await;
            assert_eq!(ask(&mut stream, 1).await.unwrap(), 2);
            let set = |cut| {
                let weather = Weather { cut, ..Weather::default() };
                if forward { proxy.set_forward(weather) } else { proxy.set_back(weather) }
            };
            set(true);
            assert!(tokio::time::timeout(WHILE, ask(&mut stream, 5)).await.is_err(), "forward {forward}");
            let mut new = TcpStream::connect(proxy.address()).await.unwrap();
            assert!(tokio::time::timeout(WHILE, ask(&mut new, 7)).await.is_err(), "a new connection");
            set(false);
            assert_eq!(stream.read_u8().await.unwrap(), 6);
            assert_eq!(new.read_u8().await.unwrap(), 8);
        }
    }

    #[tokio::test]
    async fn a_slow_line_delays() {
        let (proxy, mut stream) = dial().await;
        proxy.set_forward(Weather { delay: WHILE / 2, ..Weather::default() });
        proxy.set_back(Weather { delay: WHILE / 2, ..Weather::default() });
        let started = Instant::now();
        assert_eq!(ask(&mut stream, 1).await.unwrap(), 2);
        assert!(started.elapsed() >= WHILE, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_reset_ends_connections_and_lets_new_ones_in() {
        let (proxy, mut stream) = dial().await;
        assert_eq!(ask(&mut stream, 1).await.unwrap(), 2);
        proxy.reset();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream, 3).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_node_that_is_down_refuses() {
        let proxy = Proxy::open().await.unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        proxy.lead_to(&free.to_string());
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(stream.read_u8().await.is_err());
    }
}
