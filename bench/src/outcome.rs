//! The end of every command: the load stops, the accounts are read and compared.

use crate::check;
use crate::monitor::{Counted, Monitor, Seen};
use crate::report::Report;
use crate::run::Run;
use anyhow::Result;
use moso_client::Client;
use std::sync::Arc;

/// What a command hands back.
pub struct Outcome<C = Client> {
    /// The report.
    pub report: Report,
    /// What the monitor saw.
    pub seen: Seen,
    /// The run, for its histograms.
    pub run: Arc<Run<C>>,
}

/// Ends the run and fills the report. Call it when the last job has ended, or when patience is over.
///
/// # Errors
/// What made the run fail, or that the cluster does not answer the check.
pub async fn conclude(run: Arc<Run>, monitor: Monitor, mut report: Report, queues: &[String]) -> Result<Outcome> {
    let seen = end(&run, monitor, &mut report).await?;
    let count = check::count(&run, queues).await?;
    report.checked(&run.books.balance(), &count);
    Ok(Outcome { report, seen, run })
}

/// Stops the load and fills in what was measured.
///
/// # Errors
/// What made the run fail.
pub async fn end<C: Counted>(run: &Arc<Run<C>>, monitor: Monitor<C>, report: &mut Report) -> Result<Seen> {
    let seen = monitor.finish().await;
    run.stop();
    run.join().await;
    if let Some(error) = run.take_failure() {
        return Err(error);
    }
    report.measured(run, &seen);
    Ok(seen)
}
