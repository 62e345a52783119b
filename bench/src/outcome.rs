//! The end of every command: the load stops, the accounts are read and compared.

use crate::check;
use crate::monitor::{Monitor, Seen};
use crate::report::Report;
use crate::run::Run;
use anyhow::Result;
use std::sync::Arc;

/// What a command hands back.
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// What the monitor saw.
    pub seen: Seen,
    /// The run, for its histograms.
    pub run: Arc<Run>,
}

/// Ends the run and fills the report. Call it when the last job has ended, or when patience is over.
///
/// # Errors
/// What made the run fail, or that the cluster does not answer the check.
pub async fn conclude(run: Arc<Run>, monitor: Monitor, mut report: Report, queues: &[String]) -> Result<Outcome> {
    let seen = monitor.finish().await;
    run.stop();
    run.join().await;
    if let Some(error) = run.take_failure() {
        return Err(error);
    }
    report.measured(&run, &seen);
    let count = check::count(&run, queues).await?;
    report.checked(&run.books.balance(), &count);
    Ok(Outcome { report, seen, run })
}
