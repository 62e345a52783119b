//! A stand-in for `tokio::sync::Notify` as its documentation describes it: a word given while nobody waits is kept, one at
//! most; waiters are served in the order in which they were first polled; one that was given a word and is dropped before
//! it took it passes it on.

use super::sync::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    /// A word that nobody has taken.
    kept: bool,
    next: u64,
    waiting: VecDeque<(u64, Waker)>,
    /// Those who were given a word.
    given: BTreeSet<u64>,
}

pub(crate) struct Notify(Mutex<State>);

impl Default for Notify {
    fn default() -> Self {
        Notify(Mutex::new(State::default()))
    }
}

impl Notify {
    pub(crate) fn notify_one(&self) {
        let mut state = self.0.lock().expect("a step does not panic");
        match state.waiting.pop_front() {
            Some((waiter, waker)) => {
                state.given.insert(waiter);
                drop(state);
                waker.wake();
            }
            None => state.kept = true,
        }
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { notify: self, number: None }
    }
}

pub(crate) struct Notified<'a> {
    notify: &'a Notify,
    /// Once it waits.
    number: Option<u64>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        let mut state = notify.0.lock().expect("a step does not panic");
        let waker = context.waker().clone();
        match self.number {
            Some(number) if state.given.remove(&number) => {
                self.number = None;
                return Poll::Ready(());
            }
            Some(number) => {
                let waiter = state.waiting.iter_mut().find(|(waiter, _)| *waiter == number);
                waiter.expect("it waits until it was given a word").1 = waker;
            }
            None if state.kept => {
                state.kept = false;
                return Poll::Ready(());
            }
            None => {
                state.next += 1;
                let number = state.next;
                state.waiting.push_back((number, waker));
                self.number = Some(number);
            }
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.notify.0.lock().expect("a step does not panic");
        state.waiting.retain(|(waiter, _)| *waiter != number);
        let passed_on = state.given.remove(&number);
        drop(state);
        if passed_on {
            self.notify.notify_one();
        }
    }
}
