//! Asks a node over HTTP: whether it is ready, and how it sees the cluster.

use super::secure::Credentials;
use moso_proto::view::Cluster;
use rustls::pki_types::ServerName;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A node that takes longer to answer is not ready.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A view of 4,095 shards and 1,000 nodes takes about a tenth of this.
const VIEW_BYTES_MAX: u64 = 16 << 20;

/// Whether `GET /readyz` is answered with 200.
pub(super) async fn is_ready(address: &str, credentials: Option<&Credentials>) -> bool {
    matches!(tokio::time::timeout(TIMEOUT, status(address, credentials)).await, Ok(Ok(200)))
}

/// The answer to `GET /v1/cluster`; `None`: there was none, or it makes no sense.
pub(super) async fn view(address: &str, credentials: Option<&Credentials>) -> Option<Cluster> {
    let read = async {
        let mut stream = get(address, credentials, "/v1/cluster").await?;
        let mut answer = Vec::new();
        let read = (&mut stream).take(VIEW_BYTES_MAX).read_to_end(&mut answer).await;
        // Not all say goodbye as TLS has it; what is cut short is no JSON.
        match read {
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
            _ => std::io::Result::Ok(answer),
        }
    };
    let answer = tokio::time::timeout(TIMEOUT, read).await.ok()?.ok()?;
    let head_end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    serde_json::from_slice(&answer[head_end + 4..]).ok()
}

/// A connection, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn get(address: &str, credentials: Option<&Credentials>, path: &str) -> std::io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    let mut stream: Box<dyn Stream> = match credentials {
        None => Box::new(stream),
        Some(credentials) => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
            let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
            Box::new(TlsConnector::from(credentials.http.clone()).connect(name, stream).await?)
        }
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    Ok(stream)
}

async fn status(address: &str, credentials: Option<&Credentials>) -> std::io::Result<u16> {
    let mut stream = get(address, credentials, "/readyz").await?;
    // "HTTP/1.1 200"
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    let code = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix("HTTP/1.1 "));
    code.and_then(|code| code.parse().ok()).ok_or_else(|| std::io::Error::other("not HTTP/1.1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answered_with(answer: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 12];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"GET /readyz ");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let ready = is_ready(&address, None).await;
        server.await.unwrap();
        ready
    }

    #[tokio::test]
    async fn a_view_is_read_behind_its_head() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            for body in [r#"{"cluster":"c","node":3,"nodes":[],"shards":[],"queues":[]}"#, "nonsense"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                // In full: what is closed with something unread is reset.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                assert!(request.starts_with(b"GET /v1/cluster HTTP/1.1\r\n"));
                stream.write_all(format!("HTTP/1.1 200 OK\r\nx: y\r\n\r\n{body}").as_bytes()).await.unwrap();
            }
        });
        assert_eq!(view(&address, None).await.unwrap().node, 3);
        assert!(view(&address, None).await.is_none());
        server.await.unwrap();
        assert!(view(&address, None).await.is_none(), "nobody listens");
    }

    #[tokio::test]
    async fn only_200_is_ready() {
        assert!(answered_with("HTTP/1.1 200 OK\r\n\r\n").await);
        assert!(!answered_with("HTTP/1.1 503 Service Unavailable\r\n\r\n").await);
        assert!(!answered_with("hello").await);
    }
}
