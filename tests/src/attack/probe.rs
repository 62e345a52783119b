//! Attempts that say what must come of them: each is one connection, and an attempt that the node should have refused and
//! did not ends the attack with an error.

use super::client::{Counts, Seen};
use anyhow::{Result, bail};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longest wait for an answer: nodes refuse at once, on a loaded machine within this.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// Bytes of an answer that are looked at.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What the node did with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It said no.
    Refused,
    /// It ended the connection without a word, or with an alert of TLS.
    Cut,
    /// It could not be reached.
    Unconnected,
    /// What was done is allowed, and costs it something.
    Done,
}

/// Repeats the attempt `width` times at a time until the time is over; each `width` makes at least one.
pub(super) async fn again<A, R>(width: usize, until: Instant, attempt: A) -> Result<Seen>
where
    A: Fn() -> R + Clone + Send + 'static,
    R: Future<Output = Result<Outcome>> + Send + 'static,
{
    let counts: Arc<Counts> = Arc::default();
    let mut players = JoinSet::new();
    for _ in 0..width {
        let (counts, attempt) = (counts.clone(), attempt.clone());
        players.spawn(async move {
            loop {
                counts.tally(attempt().await?);
                if Instant::now() >= until {
                    return Ok::<_, anyhow::Error>(());
                }
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(player) = players.join_next().await {
        player??;
    }
    Ok(counts.seen())
}

impl Counts {
    fn tally(&self, outcome: Outcome) {
        match outcome {
            Outcome::Unconnected => return self.unconnect(),
            Outcome::Refused => drop(self.answered.fetch_add(1, Relaxed)),
            Outcome::Cut => self.close(),
            Outcome::Done => {}
        }
        self.connected();
        self.sent.fetch_add(1, Relaxed);
    }
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The first bytes.
    pub bytes: Vec<u8>,
    /// The node has ended the connection.
    pub closed: bool,
}

/// Writes, and reads until the node ends the connection or `enough` of its answer has come.
pub(super) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    first: &[u8],
    enough: impl Fn(&[u8]) -> bool,
) -> Answer {
    let mut answer = Answer::default();
    let talk = async {
        // A node that has heard enough hangs up while more is written: what it said then counts.
        let _ = stream.write_all(first).await;
        let _ = stream.flush().await;
        let mut part = [0; 8_192];
        while answer.bytes.len() < ANSWER_BYTES_MAX && !enough(&answer.bytes) {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return answer.closed = true,
                Ok(read) => answer.bytes.extend_from_slice(&part[..read]),
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER, talk).await;
    answer
}

/// Connects; `None` if the port does not take it.
pub(super) async fn connect(address: &str) -> Option<TcpStream> {
    let stream = tokio::time::timeout(ANSWER, TcpStream::connect(address)).await.ok()?.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// A request over HTTP, and what may come of it: one of these codes, or the end of the connection.
#[derive(Clone)]
pub(super) struct Case {
    /// For people.
    pub what: &'static str,
    /// As it is written.
    pub request: Vec<u8>,
    /// Codes that refuse it.
    pub codes: &'static [u16],
    /// What no answer to it may hold.
    pub never: &'static str,
}

/// Makes the requests, each on a connection of its own, again and again.
pub(super) async fn refused(address: &str, width: usize, cases: Vec<Case>, until: Instant) -> Result<Seen> {
    let (cases, address): (Arc<[Case]>, Arc<str>) = (cases.into(), address.into());
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let attempt = move || {
        let case = cases[next.fetch_add(1, Relaxed) % cases.len()].clone();
        let address = address.clone();
        async move {
            let Some(stream) = connect(&address).await else { return Ok(Outcome::Unconnected) };
            judge(&case, &ask(stream, &case.request, |_| false).await)
        }
    };
    // So that even a short attack makes each request.
    again(width, until, attempt).await
}

/// Whether the answer is one that the case allows.
fn judge(case: &Case, answer: &Answer) -> Result<Outcome> {
    let text = String::from_utf8_lossy(&answer.bytes);
    let code = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let what = case.what;
    match code {
        None if answer.bytes.is_empty() && answer.closed => Ok(Outcome::Cut),
        None if answer.bytes.is_empty() => bail!("{what}: the node neither answers nor hangs up within {ANSWER:?}"),
        Some(code) if !case.codes.contains(&code) => bail!("{what}: refused by {:?}, not {code}", case.codes),
        Some(_) if !case.never.is_empty() && text.contains(case.never) => bail!("{what}: {text:.300}"),
        Some(_) => Ok(Outcome::Refused),
        None => bail!("{what}: no answer of HTTP: {text:.100}"),
    }
}
