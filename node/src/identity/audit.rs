//! What is on its way into the audit log: gathered here, and written by the meta group as soon as it has a leader. A call
//! does not wait for it; the node's own log has it at once.

use crate::router::Router;
use moso_proto::level;
use moso_queue::meta::limits::AUDIT_WORDS_MAX;
use moso_queue::meta::{AuditWord, MetaCommand};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Words that wait; more are only in the node's own log.
const WORDS_MAX: usize = 4_096;
/// One user's refused attempts are written this often at most, ms; what came meanwhile is counted.
const TRIES_EVERY_MS: u64 = 10_000;
/// Users whose attempts are told apart.
const USERS_MAX: usize = 1_000;
/// Pause before words are tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Takes words.
pub struct AuditTrail {
    words: mpsc::Sender<AuditWord>,
    /// When a user's last attempt was written, and how many have come since.
    tries: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl AuditTrail {
    /// A trail, and where its words come out: see [`run`].
    pub fn new() -> (Self, mpsc::Receiver<AuditWord>) {
        let (words, waiting) = mpsc::channel(WORDS_MAX);
        (AuditTrail { words, tries: Mutex::default() }, waiting)
    }

    /// Writes down what was done.
    pub(super) fn write(&self, word: AuditWord) {
        let AuditWord { actor, action, target, outcome, .. } = &word;
        tracing::info!(%actor, %action, %target, %outcome, "audit");
        if self.words.try_send(word).is_err() {
            metrics::counter!("moso_audit_lost_total").increment(1);
        }
    }

    /// Writes down what was tried in vain; a flood of it is counted.
    pub(super) fn tried(&self, word: AuditWord, now_ms: u64) {
        let more = {
            let mut tries = self.tries.lock().expect("no thread panics while it holds this lock");
            if tries.len() >= USERS_MAX {
                tries.retain(|_, (at_ms, _)| now_ms.saturating_sub(*at_ms) < TRIES_EVERY_MS);
            }
            if tries.len() >= USERS_MAX {
                return;
            }
            let (at_ms, more) = tries.entry(word.actor.clone()).or_default();
            if *at_ms > 0 && now_ms.saturating_sub(*at_ms) < TRIES_EVERY_MS {
                *more += 1;
                return;
            }
            *at_ms = now_ms;
            std::mem::take(more)
        };
        let outcome = match more {
            0 => "forbidden".to_owned(),
            more => format!("forbidden; {more} more since the last entry"),
        };
        self.write(AuditWord { outcome, ..word });
    }
}

/// Brings words into the audit log for as long as the node runs. A word whose answer is lost may be written twice.
pub async fn run(mut waiting: mpsc::Receiver<AuditWord>, router: Arc<Router>) {
    while let Some(first) = waiting.recv().await {
        let mut words = vec![first];
        while words.len() < AUDIT_WORDS_MAX
            && let Ok(word) = waiting.try_recv()
        {
            words.push(word.cut());
        }
        // Nodes of an older version could not read it.
        while router.directory.meta.load().level() < level::AUDIT {
            tokio::time::sleep(PAUSE).await;
        }
        let command = MetaCommand::Audit { words }.encode();
        while let Err(fault) = router.meta_command(command.clone().into()).await {
            tracing::debug!(error = %fault.message, "the audit log cannot be written now");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_attempts_is_counted() {
        let (trail, mut words) = AuditTrail::new();
        let word = |actor: &str| AuditWord { actor: actor.into(), ..AuditWord::default() };
        (0..1_000).for_each(|n| trail.tried(word("eve"), 1 + n));
        trail.tried(word("bob"), 2);
        trail.tried(word("eve"), 1 + TRIES_EVERY_MS);
        let seen: Vec<_> = std::iter::from_fn(|| words.try_recv().ok()).map(|w| (w.actor, w.outcome)).collect();
        let expected =
            [("eve", "forbidden"), ("bob", "forbidden"), ("eve", "forbidden; 999 more since the last entry")];
        assert_eq!(seen, expected.map(|(actor, outcome)| (actor.to_owned(), outcome.to_owned())));
        (0..10_000).for_each(|n| trail.tried(word(&n.to_string()), 1 + TRIES_EVERY_MS));
    }
}
