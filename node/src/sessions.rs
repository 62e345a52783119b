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

/// The sessions, by number.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<u64, (u64, mpsc::Sender<Push>)>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (u64, mpsc::Sender<Push>)>> {
        self.open.lock().expect("no code panics while it holds this lock")
    }

    /// A stream of the session has opened; an older one of it gets no more words. Returns the stream's ticket.
    pub fn open(&self, session: u64, pushes: mpsc::Sender<Push>) -> u64 {
        let mut open = self.lock();
        let ticket = open.get(&session).map_or(1, |(ticket, _)| ticket + 1);
        open.insert(session, (ticket, pushes));
        ticket
    }

    /// The stream has ended.
    pub fn close(&self, session: u64, ticket: u64) {
        let mut open = self.lock();
        if open.get(&session).is_some_and(|(current, _)| *current == ticket) {
            open.remove(&session);
        }
    }

    /// Passes a word on; `false`: the session is not here.
    pub fn tell(&self, word: &WorkerWord) -> bool {
        match self.lock().get(&word.session) {
            Some((_, pushes)) => {
                let _ = pushes.try_send(Push::Word(*word));
                true
            }
            None => false,
        }
    }

    /// Tells all workers that the node stops.
    pub fn drain(&self) {
        for (_, pushes) in self.lock().values() {
            let _ = pushes.try_send(Push::Drain);
        }
    }

    /// Open sessions.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// No session is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
