//! Keys of issuers that are fetched over https, from a given address or from the one that the issuer publishes (OpenID
//! Connect Discovery).
//!
//! No call waits for a fetch. Keys are fetched when the node starts, again each [`Pace::fresh`], and when a token names a
//! key that is not among them, but not sooner than [`Pace::again`] after the last fetch began, one at a time for each
//! issuer. Until keys are here, or the fetch that a token's key needs has ended, the token is refused with the word to try
//! again. A fetch that fails changes nothing for [`Pace::kept`]; then the keys are given up, and with them all that was
//! found good by them.

mod fetch;

#[cfg(test)]
mod tests;

use arc_swap::ArcSwapOption;
use fetch::Source;
pub use fetch::jwks_uri;
use moso_proto::token::KeySet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// When keys are fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Keys that are so old are fetched again.
    pub fresh: Duration,
    /// Pause after a fetch that failed.
    pub retry: Duration,
    /// Between the beginnings of two fetches for a key that is not known.
    pub again: Duration,
    /// Keys that could not be fetched again for so long are given up.
    pub kept: Duration,
    /// A fetch takes at most so long.
    pub time: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            fresh: Duration::from_secs(3_600),
            retry: Duration::from_secs(15),
            again: Duration::from_secs(10),
            kept: Duration::from_secs(24 * 3_600),
            time: Duration::from_secs(10),
        }
    }
}

/// What is known of a key that a token names.
#[derive(Debug)]
pub(super) enum Found {
    /// It is in this set; or it is in none, and will be in none soon.
    Set(Arc<KeySet>),
    /// A fetch will tell: try again.
    Soon,
}

/// An issuer's keys.
#[derive(Debug)]
pub(super) struct RemoteKeys {
    source: Source,
    pace: Pace,
    set: ArcSwapOption<KeySet>,
    /// When the last fetch that ended well began, ms since `born`, plus 1; 0: never.
    fetched_ms: AtomicU64,
    wanted: Arc<Notify>,
    served: AtomicBool,
    born: Instant,
}

impl RemoteKeys {
    /// Keys of `issuer` at the address `keys`, or where the issuer says if it is `None`. The server's certificate is checked
    /// by those in the file `ca`, or by those that the system trusts.
    ///
    /// # Errors
    /// For people: the address is none of https.
    pub fn new(issuer: &str, keys: Option<&str>, ca: Option<PathBuf>, pace: Pace) -> Result<Self, String> {
        Ok(RemoteKeys {
            source: Source::new(issuer, keys, ca)?,
            pace,
            set: ArcSwapOption::empty(),
            fetched_ms: AtomicU64::new(0),
            wanted: Arc::default(),
            served: AtomicBool::new(false),
            born: Instant::now(),
        })
    }

    /// Whether both are the same keys of the same place.
    pub fn is_as(&self, other: &RemoteKeys) -> bool {
        self.source == other.source
    }

    /// Keys for a token that names the key `id`. Asks for a fetch if it is not among those that are here.
    pub fn find(&self, id: &str) -> Found {
        match self.set.load_full() {
            Some(set) if set.has(id) => Found::Set(set),
            // Just fetched: another fetch would bring the same, and whoever invents keys must not cause one each time.
            Some(set) if self.age_ms() < self.pace.again.as_millis() as u64 => Found::Set(set),
            _ => {
                self.wanted.notify_one();
                Found::Soon
            }
        }
    }

    /// How old the keys are; `u64::MAX`: there are none.
    fn age_ms(&self) -> u64 {
        match self.fetched_ms.load(Ordering::Acquire) {
            0 => u64::MAX,
            at => self.now_ms().saturating_sub(at - 1),
        }
    }

    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// Fetches once. Gives whether the keys are others than before.
    async fn fetch(&self) -> bool {
        let began_ms = self.now_ms();
        let fetched = tokio::time::timeout(self.pace.time, self.source.fetch()).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.pace.time)));
        match fetched {
            Ok(set) => {
                let new = self.set.load().as_ref().is_none_or(|old| **old != set);
                self.set.store(Some(Arc::new(set)));
                self.fetched_ms.store(began_ms + 1, Ordering::Release);
                if new {
                    tracing::info!(issuer = self.source.issuer(), "new keys of tokens were fetched");
                }
                metrics::counter!("moso_issuer_keys_fetched_total").increment(1);
                new
            }
            Err(error) => {
                metrics::counter!("moso_issuer_keys_failed_total").increment(1);
                let age_s = self.age_ms() / 1_000;
                let here = self.set.load().is_some();
                if here && age_s >= self.pace.kept.as_secs() {
                    self.set.store(None);
                    tracing::error!(%error, issuer = self.source.issuer(), age_s, "its old keys are not used any more");
                    return true;
                }
                tracing::warn!(%error, issuer = self.source.issuer(), here, "keys of tokens cannot be fetched");
                false
            }
        }
    }

    /// Fetches for as long as somebody holds the keys; `changed` is called when they are others than before.
    async fn run(keys: Weak<RemoteKeys>, changed: impl Fn()) {
        loop {
            let Some(held) = keys.upgrade() else { return };
            let (pace, wanted, began) = (held.pace, held.wanted.clone(), Instant::now());
            let before_ms = held.fetched_ms.load(Ordering::Acquire);
            if held.fetch().await {
                changed();
            }
            let failed = held.fetched_ms.load(Ordering::Acquire) == before_ms;
            drop(held);
            let rest = if failed { pace.retry } else { pace.fresh };
            // Who asked while it was fetched was told to try again: if his key came, he does not ask any more.
            let _ = tokio::time::timeout(rest, wanted.notified()).await;
            tokio::time::sleep_until(began + pace.again).await;
        }
    }
}

/// Fetches the keys that `current` names, also those that are new, for as long as it is polled.
pub(super) async fn run(current: impl Fn() -> Vec<Arc<RemoteKeys>>, changed: impl Fn() + Clone + Send + 'static) {
    let mut fetchers = JoinSet::new();
    loop {
        for keys in current() {
            if !keys.served.swap(true, Ordering::Relaxed) {
                fetchers.spawn(RemoteKeys::run(Arc::downgrade(&keys), changed.clone()));
            }
        }
        while fetchers.try_join_next().is_some() {}
        tokio::time::sleep(crate::tls::LOOK_EVERY).await;
    }
}
