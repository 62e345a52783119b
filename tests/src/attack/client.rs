//! Connections that write any bytes and see what comes back.

use super::victim::Prey;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an answer is waited for once all was written.
const ANSWER: Duration = Duration::from_millis(300);
/// Between two pieces of what is written slowly.
const SLOWLY: Duration = Duration::from_millis(200);
/// Longest wait for a connection to be made or to take bytes.
const STUCK: Duration = Duration::from_secs(2);

/// What an attack did, and what the node did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections made.
    pub connections: u64,
    /// Connections that could not be made.
    pub unconnected: u64,
    /// Bytes written, or calls made.
    pub sent: u64,
    /// Connections that the node ended.
    pub closed: u64,
    /// Connections on which the node said something.
    pub answered: u64,
}

/// The counters of an attack under way.
#[derive(Default)]
pub(super) struct Counts {
    connections: AtomicU64,
    unconnected: AtomicU64,
    pub sent: AtomicU64,
    closed: AtomicU64,
    pub answered: AtomicU64,
}

impl Counts {
    pub fn seen(&self) -> Seen {
        Seen {
            connections: self.connections.load(Relaxed),
            unconnected: self.unconnected.load(Relaxed),
            sent: self.sent.load(Relaxed),
            closed: self.closed.load(Relaxed),
            answered: self.answered.load(Relaxed),
        }
    }

    pub fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub fn unconnect(&self) {
        self.unconnected.fetch_add(1, Relaxed);
    }

    pub fn close(&self) {
        self.closed.fetch_add(1, Relaxed);
    }
}

/// What one connection writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// First.
    pub first: Vec<u8>,
    /// Then again and again, as fast as it goes, each time with a number raised where [`Script::number_at`] says.
    pub flood: Vec<u8>,
    /// Where in the flood stream numbers of four bytes stand, which rise by two: as those of new calls do.
    pub number_at: Vec<usize>,
    /// One byte at a time instead, slowly.
    pub slowly: bool,
    /// So many bytes at once before what is written slowly.
    pub slow_from: usize,
    /// Waits for the node to end it.
    pub stays: bool,
}

/// Connects `width` times at a time and plays the script, again and again until the time is over.
pub(super) async fn play(address: &str, width: usize, script: Script, until: Instant) -> Result<Seen> {
    let (counts, script): (Arc<Counts>, Arc<Script>) = (Arc::default(), Arc::new(script));
    let mut players = JoinSet::new();
    for _ in 0..width {
        let (counts, script, address) = (counts.clone(), script.clone(), address.to_owned());
        players.spawn(async move {
            while Instant::now() < until {
                match tokio::time::timeout(STUCK, TcpStream::connect(&address)).await {
                    Ok(Ok(stream)) => once(stream, &script, &counts, until).await,
                    _ => drop(counts.unconnected.fetch_add(1, Relaxed)),
                }
            }
        });
    }
    while players.join_next().await.is_some() {}
    Ok(counts.seen())
}

async fn once(stream: TcpStream, script: &Script, counts: &Counts, until: Instant) {
    counts.connections.fetch_add(1, Relaxed);
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let end = tokio::time::Instant::from_std(until);
    // What the node says is read, so that it is not what it waits for.
    let reading = async {
        let (mut bytes, mut said) = ([0; 16_384], false);
        loop {
            match reader.read(&mut bytes).await {
                Ok(0) | Err(_) => break counts.close(),
                Ok(_) if !said => {
                    said = true;
                    counts.answered.fetch_add(1, Relaxed);
                }
                Ok(_) => {}
            }
        }
    };
    let writing = async {
        if script.slowly {
            let (head, rest) = script.first.split_at(script.slow_from.min(script.first.len()));
            write(&mut writer, head, counts).await?;
            for byte in rest {
                write(&mut writer, std::slice::from_ref(byte), counts).await?;
                tokio::time::sleep(SLOWLY).await;
            }
        } else {
            write(&mut writer, &script.first, counts).await?;
        }
        let mut flood = script.flood.clone();
        while !flood.is_empty() && Instant::now() < until {
            write(&mut writer, &flood, counts).await?;
            for &at in &script.number_at {
                let number = u32::from_be_bytes([flood[at], flood[at + 1], flood[at + 2], flood[at + 3]]);
                let next = number.wrapping_add(2 * script.number_at.len() as u32) & 0x7fff_ffff;
                flood[at..at + 4].copy_from_slice(&next.to_be_bytes());
            }
            tokio::task::yield_now().await;
        }
        if script.stays || script.slowly {
            tokio::time::sleep_until(end).await;
        }
        tokio::time::sleep(ANSWER).await;
        std::io::Result::Ok(())
    };
    tokio::select! {
        () = reading => {}
        // A connection that takes no more bytes is as good as ended.
        _ = writing => {}
        () = tokio::time::sleep_until(end) => {}
    }
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], counts: &Counts) -> std::io::Result<()> {
    match tokio::time::timeout(STUCK, writer.write_all(bytes)).await {
        Ok(written) => written?,
        Err(_) => return Err(std::io::ErrorKind::TimedOut.into()),
    }
    counts.sent.fetch_add(bytes.len() as u64, Relaxed);
    Ok(())
}

/// Plays a script at the port of the API.
pub(super) async fn at_api(prey: &Prey, width: usize, script: Script, until: Instant) -> Result<Seen> {
    play(&prey.api, width, script, until).await
}

/// Connects, writes and goes, again and again.
pub(super) async fn churn(address: &str, width: usize, bytes: &[u8], until: Instant) -> Result<Seen> {
    let counts: Arc<Counts> = Arc::default();
    let mut players = JoinSet::new();
    for _ in 0..width {
        let (counts, bytes, address) = (counts.clone(), bytes.to_vec(), address.to_owned());
        players.spawn(async move {
            while Instant::now() < until {
                match tokio::time::timeout(STUCK, TcpStream::connect(&address)).await {
                    Ok(Ok(mut stream)) => {
                        counts.connected();
                        let _ = write(&mut stream, &bytes, &counts).await;
                    }
                    _ => drop(counts.unconnected.fetch_add(1, Relaxed)),
                }
            }
        });
    }
    while players.join_next().await.is_some() {}
    Ok(counts.seen())
}
