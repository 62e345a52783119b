//! How a client behaves.

use crate::tls::{TlsOptions, Token};
use std::time::Duration;

/// How a [`Client`](crate::Client) behaves. The defaults suit people and workers.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Longest wait for one answer of one node. Default 10 s.
    pub call_deadline: Duration,
    /// Longest time a call may take with all its repeats. Zero: one try. Default 60 s.
    pub retry_budget: Duration,
    /// Who acts, for the history of objects and the log of jobs. Default empty.
    pub author: String,
    /// Use the addresses that the cluster names, and its leader hints. `false`: only those given to
    /// [`Client::connect`](crate::Client::connect), as behind a proxy or an address translation. Default `true`.
    pub discover: bool,
    /// Encrypted connections. `None`: in plain text, as nodes on one's own machine may be run. Default `None`.
    pub tls: Option<TlsOptions>,
    /// Shows who calls. Only with `tls`: in plain text anybody could read it. Default `None`.
    pub token: Option<Token>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            call_deadline: Duration::from_secs(10),
            retry_budget: Duration::from_secs(60),
            author: String::new(),
            discover: true,
            tls: None,
            token: None,
        }
    }
}
