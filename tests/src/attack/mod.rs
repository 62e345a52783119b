//! Attacks on a node's ports, each beside a worker that holds jobs: what the node did, what it cost, and whether the worker
//! noticed. What must come of each is said with it, and it fails if something else comes of it.
//!
//! ```text
//! client.rs       connections that write any bytes, fast or slowly, and see what comes back
//! probe.rs        attempts that must be refused, each looked at
//! http2.rs        the API's port: frames that no client sends
//! calls.rs        the API's port: calls that no client makes
//! peer.rs         the port of the other nodes
//! pages.rs        the port of pages and metrics
//! panda.rs        the port of PanDA's programs
//! tls.rs          a cluster with certificates: bytes and greetings that no client sends
//! who.rs          a cluster with certificates: callers who are not who they say
//! forged.rs       what those show
//! secure.rs       connections over TLS that show any certificate
//! bystander.rs    a worker with running jobs
//! victim.rs       the cluster, and what a node uses
//! report.rs       the table
//! ```

pub mod bystander;
mod calls;
mod client;
mod forged;
mod http2;
mod pages;
mod panda;
mod peer;
mod probe;
pub mod report;
mod secure;
mod tls;
pub mod victim;
mod who;

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
    /// What must come of it.
    pub must: &'static str,
    /// Whether the cluster that it attacks has certificates.
    pub secure: bool,
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
    ($($port:literal $module:ident $secure:literal $must:literal: $($name:ident)*;)*) => {
        /// All attacks, by port.
        pub const ALL: &[Attack] = &[$($(Attack {
            port: $port,
            name: stringify!($name),
            must: $must,
            secure: $secure,
            run: |prey, until| Box::pin($module::$name(prey, until)),
        }),*),*];
    };
}

attacks! {
    "api" http2 false "cut off, or answered within the limits of frames, heads and calls": no_preface silence
        settings_flood ping_flood rapid_reset continuation_flood huge_head head_bomb window_overflow goaway_spam
        empty_data_flood stream_flood random_frames slow_frames churn;
    "api" calls false "refused with an error, or cut off": length_of_4_gib compressed_bomb wrong_content_type
        unknown_method deep_nesting huge_lists invalid_utf8 random_fields half_call unread_lists silent_sessions
        unread_sessions;
    "api" calls false "no forged result is taken": forged_jobs;
    "peer" peer false "refused in the greeting, or cut off within 5 s": wrong_magic other_cluster forged_store
        replayed_greeting huge_length unknown_kind stranger_flood slow_greeting churn;
    "http" pages false "answered within limits, or cut off": slow_head huge_head_lines huge_body pipeline bad_paths
        metrics_flood many_silent;
    "panda" panda false "4xx, or cut off": bad_request_line bad_heads head_flood path_tricks;
    "panda" panda false "413 before it is read": told_too_large;
    "panda" panda false "413 once it inflates to more than 16 MiB": gzip_bomb;
    "panda" panda false "400": bad_chunks broken_gzip;
    "panda" panda false "refused in words, nothing of it is done": deep_json wrong_content_types many_arguments
        multipart_of_heads upload_tricks;
    "panda" panda false "413 or cut off once it is too large": chunked_without_end multipart_without_end;
    "panda" panda false "cut off within 60 s": slow_body;
    "panda" panda false "cut off within 30 s": slow_head churn;
    "tls" tls true "an alert or nothing, on every port": plain_text old_versions weak_ciphers broken_greetings;
    "tls" tls true "cut off within 10 s": open_greeting;
    "tls" tls true "costs a signature each": half_greetings greeting_churn;
    "tls" tls true "cut off": garbage_inside garbage_below;
    "who" who true "not let in": nobody user_of_another_authority user_of_another_cluster node_as_user bad_tokens
        bad_tokens_over_http;
    "who" who true "refused as a node": no_certificate_as_node user_as_node node_of_another_authority
        node_of_another_cluster node_without_place node_under_another_number node_without_its_store;
    "who" who true "the lease stays with its worker, no result is taken": lease_of_another session_of_another;
}
