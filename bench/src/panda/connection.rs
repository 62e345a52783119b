//! An HTTP connection that is kept open, with no more of HTTP than a load generator needs.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Bytes of an answer's body: a job is some KiB.
const BODY_BYTES_MAX: usize = 16 << 20;

/// One connection.
pub struct Connection {
    address: String,
    stream: BufReader<TcpStream>,
    line: String,
    out: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true).context("socket")?;
        let (stream, line) = (BufReader::with_capacity(16 << 10, stream), String::new());
        Ok(Connection { address: address.to_owned(), stream, line, out: Vec::with_capacity(1024) })
    }

    /// Sends a request and reads the body of the answer.
    pub async fn post(&mut self, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.out.clear();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.out.extend_from_slice(head.as_bytes());
        self.out.extend_from_slice(body);
        self.stream.get_mut().write_all(&self.out).await.context("request")?;
        self.read_line().await?;
        let code = self.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = None;
        loop {
            self.read_line().await?;
            match self.line.split_once(':') {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse::<usize>().ok();
                }
                Some(_) => {}
            }
        }
        let length = length.filter(|&length| length <= BODY_BYTES_MAX).context("an answer without its length")?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await.context("answer")?;
        if code != "200" {
            bail!("{path} was answered with {code}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(answer)
    }

    async fn read_line(&mut self) -> Result<()> {
        self.line.clear();
        let read = self.stream.read_line(&mut self.line).await.context("answer")?;
        anyhow::ensure!(read > 0, "{} hung up", self.address);
        self.line.truncate(self.line.trim_end().len());
        Ok(())
    }
}
