//! Asks a node over HTTP whether it is ready.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node that takes longer to answer is not ready.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether `GET /readyz` is answered with 200.
pub(super) async fn is_ready(address: &str) -> bool {
    matches!(tokio::time::timeout(TIMEOUT, status(address)).await, Ok(Ok(200)))
}

async fn status(address: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
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
        let ready = is_ready(&address).await;
        server.await.unwrap();
        ready
    }

    #[tokio::test]
    async fn only_200_is_ready() {
        assert!(answered_with("HTTP/1.1 200 OK\r\n\r\n").await);
        assert!(!answered_with("HTTP/1.1 503 Service Unavailable\r\n\r\n").await);
        assert!(!answered_with("hello").await);
    }
}
