//! Worker sessions connected to this node.

use crate::hints::WorkerWord;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::mpsc;

/// What is pushed to a worker's stream.
#[derive(Clone, Copy, Debug)]
pub enum Push {
    /// About a job.
    Word(WorkerWord),
    /// The node stops.
    Drain,
}

/// Words waiting for a worker's stream; more are dropped, the next heartbeat tells again.
pub const PUSHES: usize = 1_024;

/// Streams open at once: each is a worker or a pilot farm, and costs a task and some 10 KiB.
pub const STREAMS_MAX: usize = 200_000;

#[derive(Default)]
struct Open {
    /// By session: the ticket of its newest stream, and where its words go.
    sessions: BTreeMap<u64, (u64, mpsc::Sender<Push>)>,
    /// Tickets given so far.
    tickets: u64,
    /// Streams open; several may be of one session.
    streams: usize,
    draining: bool,
}

/// The sessions, by number.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<Open>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no code panics while it holds this lock")
    }

    /// A stream of the session has opened; an older one of it gets no more words. Returns the stream's ticket. `None`:
    /// [`STREAMS_MAX`] are open.
    pub fn open(&self, session: u64, pushes: mpsc::Sender<Push>) -> Option<u64> {
        let mut open = self.lock();
        if open.streams >= STREAMS_MAX {
            return None;
        }
        if open.draining {
            let _ = pushes.try_send(Push::Drain);
        }
        open.streams += 1;
        open.tickets += 1;
        let ticket = open.tickets;
        open.sessions.insert(session, (ticket, pushes));
        Some(ticket)
    }

    /// The stream has ended.
    pub fn close(&self, session: u64, ticket: u64) {
        let mut open = self.lock();
        open.streams -= 1;
        if open.sessions.get(&session).is_some_and(|(current, _)| *current == ticket) {
            open.sessions.remove(&session);
        }
    }

    /// Passes a word on; `false`: the session is not here.
    pub fn tell(&self, word: &WorkerWord) -> bool {
        match self.lock().sessions.get(&word.session) {
            Some((_, pushes)) => {
                let _ = pushes.try_send(Push::Word(*word));
                true
            }
            None => false,
        }
    }

    /// Tells all workers that the node stops, and those that still come.
    pub fn drain(&self) {
        let mut open = self.lock();
        open.draining = true;
        for (_, pushes) in open.sessions.values() {
            let _ = pushes.try_send(Push::Drain);
        }
    }

    /// Open sessions.
    pub fn len(&self) -> usize {
        self.lock().sessions.len()
    }

    /// No session is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(session: u64) -> WorkerWord {
        WorkerWord { session, job: 1, attempt: 1, gone: false }
    }

    #[test]
    fn words_go_to_the_newest_stream_of_a_session() {
        let sessions = Sessions::default();
        let open = || {
            let (send, words) = mpsc::channel(4);
            (sessions.open(7, send).unwrap(), words)
        };
        let (first, mut old) = open();
        let (second, _) = open();
        sessions.close(7, second);
        assert!(!sessions.tell(&word(7)));
        let (third, mut new) = open();
        // The first stream ends last of all: it is not the session's any more.
        sessions.close(7, first);
        assert!(sessions.tell(&word(7)));
        assert!(matches!(new.try_recv(), Ok(Push::Word(_))));
        assert!(old.try_recv().is_err());
        sessions.close(7, third);
        assert!(sessions.is_empty());
    }

    #[test]
    fn who_comes_while_the_node_stops_is_told_at_once() {
        let sessions = Sessions::default();
        let (send, mut early) = mpsc::channel(4);
        sessions.open(1, send).unwrap();
        sessions.drain();
        let (send, mut late) = mpsc::channel(4);
        sessions.open(2, send).unwrap();
        assert!(matches!(early.try_recv(), Ok(Push::Drain)));
        assert!(matches!(late.try_recv(), Ok(Push::Drain)));
    }

    #[test]
    fn streams_are_counted_also_when_they_are_of_one_session() {
        let sessions = Sessions::default();
        let (send, _words) = mpsc::channel(4);
        let first = sessions.open(1, send.clone());
        (1..STREAMS_MAX).for_each(|_| assert!(sessions.open(1, send.clone()).is_some()));
        assert_eq!(sessions.open(2, send.clone()), None);
        sessions.close(1, first.unwrap());
        assert!(sessions.open(2, send).is_some());
    }
}
