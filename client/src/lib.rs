//! The client of moso, for those who submit jobs and for those who run them.
//!
//! A [`Client`] knows some nodes of a cluster, finds the others and the leader of each shard by itself, and repeats
//! what may be repeated: a submission carries an id, so a repeat is recognised.
//!
//! ```no_run
//! use moso_client::{Client, Command, Submission, v1::TaskSpec};
//!
//! # async fn example() -> moso_client::Result<()> {
//! let client = Client::connect(["127.0.0.1:7001", "127.0.0.1:7011"]).await?;
//! let task = TaskSpec {
//!     queue: "CERN".into(),
//!     body_type: Command::BODY_TYPE.into(),
//!     body: Command::new(["simulate", "--events", "1000"]).encode(),
//!     ..TaskSpec::default()
//! };
//! let reply = client.submit(Submission::new(task).array(500)).await?;
//! println!("task {}", reply.task_id);
//! # Ok(())
//! # }
//! ```
//!
//! Where nodes ask who calls, [`ClientOptions`] name the certificate of the cluster's authority and a [`Token`], from a file
//! that is read again when it changes, or a user's certificate.
//!
//! A [`Worker`] leases jobs and runs an async closure on each; heartbeats, kill signals, fencing, reports and their
//! repeats are its own business.
//!
//! ```no_run
//! use moso_client::{Client, Job, JobOutcome, Worker};
//!
//! # async fn simulate(body: &[u8]) -> bool { true }
//! # async fn example() -> moso_client::Result<()> {
//! let client = Client::connect(["127.0.0.1:7001"]).await?;
//! Worker::new(&client)
//!     .queue("CERN")
//!     .slots(8)
//!     .run(|job: Job| async move {
//!         tokio::select! {
//!             _ = job.stopped() => JobOutcome::cancelled(),
//!             good = simulate(&job.body) => match good {
//!                 true => JobOutcome::finished(),
//!                 false => JobOutcome::failed("simulate", 1, "no events"),
//!             },
//!         }
//!     })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! Those who hold many leases without a task for each use a [`Session`].

mod admin;
mod backup;
mod client;
mod command;
mod error;
pub mod limits;
mod options;
mod pool;
mod query;
mod retry;
mod session;
mod submissions;
mod submit;
mod tls;
mod watch;
mod wire;
mod worker;

pub use backup::ShardCopy;
pub use client::Client;
pub use command::{BadCommand, Command};
pub use error::{Error, Result};
pub use moso_proto as proto;
pub use moso_proto::v1;
pub use moso_proto::{Code, Secret};
pub use options::ClientOptions;
pub use session::{NodeRef, Session, SessionOptions, Turn};
pub use submit::Submission;
pub use tls::{TlsOptions, Token};
pub use worker::job::{Job, Phase, Stop};
pub use worker::outcome::JobOutcome;
pub use worker::{Worker, WorkerHandle, WorkerReport};
