//! One connection of a client or worker, and when it is hung up on.

use super::door::Place;
use super::{Gate, Reason};
use crate::limits::{
    CALL_BEGIN_MAX, LINE_IDLE_MAX, LINE_LOOK, PAGE_LINE_IDLE_MAX, SLOW_BYTES_PER_S, SLOW_MAX, TURN_BYTES,
};
use crate::tls::Caller;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{AcquireError, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

/// A wait for a turn.
type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// gRPC calls, which say when they begin and end.
    Calls,
    /// Pages over HTTP/1: what is read or written counts.
    Pages,
}

/// A connection, as its calls see it.
pub struct Line {
    gate: Arc<Gate>,
    kind: Use,
    caller: Caller,
    opened: Instant,
    /// Calls that have begun and not ended.
    calls: AtomicU32,
    /// Calls that have begun.
    begun: AtomicU64,
    /// When the last call ended, or bytes were moved, ms since it was opened.
    quiet_since_ms: AtomicU64,
    /// It carries the session of a worker that holds jobs.
    earned: AtomicBool,
    /// Until when the last part of each reply must be taken.
    untaken: Mutex<BTreeMap<u64, Instant>>,
}

impl Line {
    /// A new connection.
    pub fn new(gate: Arc<Gate>, kind: Use, caller: Caller) -> Arc<Line> {
        Arc::new(Line {
            gate,
            kind,
            caller,
            opened: Instant::now(),
            calls: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            quiet_since_ms: AtomicU64::new(0),
            earned: AtomicBool::new(false),
            untaken: Mutex::default(),
        })
    }

    /// Who is at the other end, as far as the connection shows.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Its worker holds jobs: it does not wait for turns from now on.
    pub fn earn(&self) {
        if !self.earned.load(Relaxed) {
            self.earned.store(true, Relaxed);
        }
    }

    /// A call begins; gives its number on the connection.
    pub(super) fn begin(&self) -> u64 {
        self.calls.fetch_add(1, Relaxed);
        self.begun.fetch_add(1, Relaxed)
    }

    /// A call has ended.
    pub(super) fn end(&self, call: u64) {
        self.taken(call);
        self.calls.fetch_sub(1, Relaxed);
        self.touch();
    }

    /// A part of a call's reply was given to the connection, which asks for the next one once this one has left.
    pub(super) fn gave(&self, call: u64, bytes: usize) {
        self.untaken().insert(call, Instant::now() + time_for(bytes));
    }

    /// The connection asks for the next part.
    pub(super) fn taken(&self, call: u64) {
        self.untaken().remove(&call);
    }

    fn untaken(&self) -> MutexGuard<'_, BTreeMap<u64, Instant>> {
        self.untaken.lock().expect("no code panics while it holds this lock")
    }

    fn touch(&self) {
        self.quiet_since_ms.store(self.opened.elapsed().as_millis() as u64, Relaxed);
    }

    /// Why it is to be hung up on, or when to look again.
    fn look(&self, now: Instant) -> Result<Instant, Reason> {
        let quiet_since = self.opened + Duration::from_millis(self.quiet_since_ms.load(Relaxed));
        let (reason, until) = match self.kind {
            Use::Pages => (Reason::Idle, quiet_since + PAGE_LINE_IDLE_MAX),
            Use::Calls if self.calls.load(Relaxed) > 0 => match self.untaken().values().min() {
                Some(&until) => (Reason::SlowReader, until),
                None => return Ok(now + LINE_LOOK),
            },
            Use::Calls if self.begun.load(Relaxed) == 0 => (Reason::Silent, self.opened + CALL_BEGIN_MAX),
            Use::Calls => (Reason::Idle, quiet_since + LINE_IDLE_MAX),
        };
        if now >= until { Err(reason) } else { Ok(until.min(now + LINE_LOOK)) }
    }
}

/// Time for so many bytes to arrive or to leave.
pub fn time_for(bytes: usize) -> Duration {
    SLOW_MAX + Duration::from_secs((bytes / SLOW_BYTES_PER_S) as u64)
}

/// The bytes of a connection. Ends with an error once the line is to be hung up on.
pub struct Guarded<IO> {
    io: IO,
    line: Arc<Line>,
    _place: Place,
    look: Pin<Box<Sleep>>,
    /// Since when nothing can be written.
    stuck: Option<Instant>,
    /// Bytes that may be read before the next turn.
    credit: usize,
    turn: Option<Turn>,
    ended: bool,
}

impl<IO> Guarded<IO> {
    /// Its line.
    pub fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Guards a connection that has a place.
    pub fn new(io: IO, line: Arc<Line>, place: Place) -> Self {
        let look = Box::pin(tokio::time::sleep_until(Instant::now() + LINE_LOOK.min(CALL_BEGIN_MAX)));
        Guarded { io, line, _place: place, look, stuck: None, credit: 0, turn: None, ended: false }
    }

    /// Looks after the line when it is time to.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while !self.ended && self.look.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let stuck = self.stuck.map(|since| since + SLOW_MAX);
            let next = match stuck {
                Some(until) if now >= until => Err(Reason::SlowReader),
                _ => self.line.look(now),
            };
            match next {
                Ok(next) => self.look.as_mut().reset(stuck.map_or(next, |until| next.min(until))),
                Err(reason) => {
                    self.line.gate.refusals.count(reason);
                    self.ended = true;
                }
            }
        }
        if self.ended { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// Whether it may read now, or is woken when it may.
    fn may_read(&mut self, context: &mut Context<'_>) -> bool {
        let pace = &self.line.gate.pace;
        if self.turn.is_none() {
            if self.credit > 0 || self.line.earned.load(Relaxed) || !pace.is_behind() {
                return true;
            }
            self.turn = Some(Box::pin(pace.turns().acquire_owned()));
        }
        let Some(turn) = &mut self.turn else { return true };
        let Poll::Ready(turn) = turn.as_mut().poll(context) else { return false };
        if let Ok(turn) = turn {
            turn.forget();
        }
        self.turn = None;
        self.credit = TURN_BYTES;
        true
    }

    /// Keeps in mind whether bytes leave.
    fn wrote(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending if self.stuck.is_none() => {
                let now = Instant::now();
                self.stuck = Some(now);
                if self.look.deadline() > now + SLOW_MAX {
                    self.look.as_mut().reset(now + SLOW_MAX);
                }
                // Registers the timer anew.
                if let Err(error) = self.check(context) {
                    return Poll::Ready(Err(error));
                }
            }
            Poll::Ready(Ok(_)) => {
                self.stuck = None;
                if self.line.kind == Use::Pages {
                    self.line.touch();
                }
            }
            _ => {}
        }
        written
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        if !self.may_read(context) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buf);
        match &read {
            Poll::Ready(_) => {
                let bytes = buf.filled().len() - before;
                self.credit = self.credit.saturating_sub(bytes);
                if self.line.kind == Use::Pages && bytes > 0 {
                    self.line.touch();
                }
            }
            // What comes next comes in another turn.
            Poll::Pending => self.credit = 0,
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.io).poll_write(context, buf);
        self.wrote(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bufs);
        self.wrote(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl<IO> Connected for Guarded<IO> {
    type ConnectInfo = Arc<Line>;

    fn connect_info(&self) -> Arc<Line> {
        self.line.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::door::Door;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const NOBODY: Caller = Caller { address: None, certificate: None };
    const SECOND: Duration = Duration::from_secs(1);

    fn line(kind: Use) -> Arc<Line> {
        Line::new(Gate::new(1 << 20), kind, NOBODY)
    }

    /// What is said of the line so long after it was opened.
    fn after(line: &Line, time: Duration) -> Option<Reason> {
        line.look(line.opened + time).err()
    }

    #[test]
    fn who_begins_no_call_is_hung_up_on() {
        let line = line(Use::Calls);
        assert_eq!(line.look(line.opened), Ok(line.opened + CALL_BEGIN_MAX.min(LINE_LOOK)));
        assert_eq!(after(&line, CALL_BEGIN_MAX), Some(Reason::Silent));
    }

    #[test]
    fn an_idle_line_ends_and_one_with_a_call_does_not() {
        let line = line(Use::Calls);
        let call = line.begin();
        assert_eq!(after(&line, 10 * LINE_IDLE_MAX), None);
        line.end(call);
        assert_eq!(after(&line, LINE_IDLE_MAX - SECOND), None);
        assert_eq!(after(&line, LINE_IDLE_MAX + SECOND), Some(Reason::Idle));
    }

    #[test]
    fn a_reply_that_is_not_taken_in_time_ends_the_line() {
        let line = line(Use::Calls);
        let (slow, other) = (line.begin(), line.begin());
        line.gave(slow, 10 * SLOW_BYTES_PER_S);
        line.gave(other, 1);
        line.taken(other);
        let due = SLOW_MAX + 10 * SECOND;
        assert_eq!(after(&line, due - SECOND), None);
        assert_eq!(after(&line, due + SECOND), Some(Reason::SlowReader));
        line.end(slow);
        assert_eq!(after(&line, due + SECOND), None);
    }

    #[test]
    fn pages_are_read_and_written_or_the_line_ends() {
        let line = line(Use::Pages);
        assert_eq!(after(&line, PAGE_LINE_IDLE_MAX - SECOND), None);
        assert_eq!(after(&line, PAGE_LINE_IDLE_MAX), Some(Reason::Idle));
    }

    #[tokio::test]
    async fn while_the_node_is_behind_lines_read_in_turns_and_those_of_running_jobs_do_not() {
        let gate = Gate::new(1 << 20);
        let door = Arc::new(Door::new(gate.clone(), 10, 10));
        let line = Line::new(gate.clone(), Use::Calls, NOBODY);
        let (near, mut far) = duplex(1 << 10);
        let mut guarded = Guarded::new(near, line.clone(), door.enter(None).unwrap());
        gate.pace.begin_turns();
        far.write_all(b"12345678").await.unwrap();
        let mut bytes = [0; 4];
        let read = futures::FutureExt::now_or_never(guarded.read(&mut bytes));
        assert!(read.is_none(), "it waits for its turn");
        gate.pace.turns().add_permits(1);
        assert_eq!(guarded.read(&mut bytes).await.unwrap(), 4);
        // What its turn allows.
        assert_eq!(guarded.read(&mut bytes).await.unwrap(), 4);
        assert!(futures::FutureExt::now_or_never(guarded.read(&mut bytes)).is_none());
        far.write_all(b"1234").await.unwrap();
        assert!(futures::FutureExt::now_or_never(guarded.read(&mut bytes)).is_none());
        let (near, mut far) = duplex(1 << 10);
        let mut earned = Guarded::new(near, line.clone(), door.enter(None).unwrap());
        line.earn();
        far.write_all(b"1234").await.unwrap();
        assert_eq!(earned.read(&mut bytes).await.unwrap(), 4);
        assert_eq!(door.connections(), 2);
    }
}
