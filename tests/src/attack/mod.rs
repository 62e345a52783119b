//! Attacks on a node's ports, each beside a worker that holds jobs: what the node did, what it cost, and whether the worker
//! noticed.
//!
//! ```text
//! client.rs       connections that write any bytes, fast or slowly, and see what comes back
//! http2.rs        the API's port: frames that no client sends
//! calls.rs        the API's port: calls that no client makes
//! peer.rs         the port of the other nodes
//! pages.rs        the port of pages and metrics
//! bystander.rs    a worker with running jobs
//! victim.rs       the cluster, and what a node uses
//! report.rs       the table
//! ```

pub mod bystander;
mod calls;
mod client;
mod http2;
mod pages;
mod peer;
pub mod report;
pub mod victim;

pub use client::Seen;

use anyhow::Result;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use victim::Prey;

/// What an attack does, until its time is over.
type Run = fn(Arc<Prey>, Instant) -> Pin<Box<dyn Future<Output = Result<Seen>> + Send>>;

/// One attack.
#[derive(Clone, Copy)]
pub struct Attack {
    /// The port.
    pub port: &'static str,
    /// Its name.
    pub name: &'static str,
    run: Run,
}

impl Attack {
    /// Runs it until `until`.
    ///
    /// # Errors
    /// When it could not be made; the node itself is looked after by the caller.
    pub async fn run(&self, prey: Arc<Prey>, until: Instant) -> Result<Seen> {
        (self.run)(prey, until).await
    }
}

macro_rules! attacks {
    ($($port:literal $module:ident: $($name:ident)*;)*) => {
        /// All attacks, by port.
        pub const ALL: &[Attack] = &[$($(Attack {
            port: $port,
            name: stringify!($name),
            run: |prey, until| Box::pin($module::$name(prey, until)),
        }),*),*];
    };
}

attacks! {
    "api" http2: no_preface silence settings_flood ping_flood rapid_reset continuation_flood huge_head head_bomb
        window_overflow goaway_spam empty_data_flood stream_flood random_frames slow_frames churn;
    "api" calls: length_of_4_gib compressed_bomb wrong_content_type unknown_method deep_nesting huge_lists invalid_utf8
        random_fields half_call unread_lists silent_sessions unread_sessions forged_jobs;
    "peer" peer: wrong_magic other_cluster forged_store replayed_greeting huge_length unknown_kind stranger_flood
        slow_greeting churn;
    "http" pages: slow_head huge_head_lines huge_body pipeline bad_paths metrics_flood many_silent;
}
