//! `moso worker`: runs the commands of a queue as processes.

use super::exit::Usage;
use super::output::Output;
use super::process::{self, Cause, Ended};
use super::{input, text};
use anyhow::Result;
use clap::Args;
use moso_client::v1::LeaseRequest;
use moso_client::{Client, Command, Job, JobOutcome, Stop, Worker, WorkerHandle};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// PanDA pilot's error code for a job that ran too long.
const ERROR_WALL_TIME: i32 = 1213;
/// PanDA pilot's error code for a payload that could not be run.
const ERROR_NOT_RUN: i32 = 1305;

#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Queue to take jobs from; may be given again, the first is asked first.
    #[arg(long = "queue", short, required = true)]
    queues: Vec<String>,
    /// Jobs run at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: u32,
    /// Name of this machine, for people. Default: its host name.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Cores for each job.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    cores: u32,
    /// Memory for each job, as 2G.
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = input::mebibytes, value_name = "SIZE")]
    memory: u32,
    /// Scratch space for each job, as 20G.
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = input::mebibytes, value_name = "SIZE")]
    disk: u32,
    /// Take only jobs of this label: user, managed, test, unified or another.
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    /// Tag that this machine offers; may be given again.
    #[arg(long = "tag")]
    tags: Vec<String>,
}

impl WorkerArgs {
    pub async fn run(self, client: &Client, out: &Output) -> Result<()> {
        if self.queues.iter().any(String::is_empty) {
            return Err(Usage("a queue has a name".into()).into());
        }
        let name = self.node_name.unwrap_or_else(host_name);
        let offer = LeaseRequest {
            cores: self.cores,
            memory_mib: self.memory,
            disk_mib: self.disk,
            label: self.label,
            tags: self.tags,
            ..LeaseRequest::default()
        };
        let worker =
            Worker::new(client).name(format!("{name}:{}", std::process::id())).slots(self.slots as usize).offer(offer);
        let worker = self.queues.into_iter().fold(worker, Worker::queue);
        let signals = tokio::spawn(end_on_signals(worker.handle())?);
        let report = worker.run(run_job).await;
        signals.abort();
        let report = report?;
        let value = json!({
            "finished": report.finished,
            "failed": report.failed,
            "cancelled": report.cancelled,
            "released": report.released,
            "lost": report.lost,
            "refused": report.refused,
        });
        out.show(&value, |_| {
            format!(
                "{} finished, {} failed, {} cancelled, {} released, {} lost",
                report.finished, report.failed, report.cancelled, report.released, report.lost
            )
        })
    }
}

/// The first SIGTERM or Ctrl-C drains, the second one kills what runs and gives it back.
fn end_on_signals(handle: WorkerHandle) -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut count = 0;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count += 1;
            match count {
                1 => {
                    eprintln!("moso: no more jobs are taken; once more kills those that run");
                    handle.drain();
                }
                _ => handle.abort(),
            }
        }
    })
}

async fn run_job(job: Job) -> JobOutcome {
    if job.body_type != Command::BODY_TYPE {
        let text = format!("this worker runs commands, not bodies of type {:?}", job.body_type);
        return JobOutcome::failed("worker", ERROR_NOT_RUN, text).no_retry();
    }
    let command = match Command::decode(&job.body) {
        Ok(command) => command,
        Err(error) => {
            return JobOutcome::failed("worker", ERROR_NOT_RUN, error.to_string()).no_retry();
        }
    };
    let env = [
        ("MOSO_JOB_ID", job.id.to_string()),
        ("MOSO_TASK_ID", job.task.to_string()),
        ("MOSO_ATTEMPT", job.attempt.to_string()),
        ("MOSO_QUEUE", job.queue.clone()),
    ];
    match process::run(&command, &env, job.wall_time, job.stopped()).await {
        Ok(ended) => {
            let outcome = outcome(&ended);
            eprintln!("job {} attempt {}: {}", job.id, job.attempt, summary(&ended));
            outcome
        }
        Err(error) => {
            let text = format!("{} cannot be started: {error}", command.argv[0]);
            JobOutcome::failed("worker", ERROR_NOT_RUN, text)
        }
    }
}

/// What the cluster is told.
fn outcome(ended: &Ended) -> JobOutcome {
    let outcome = match ended.cause {
        // Asked to end, it has: what it did counts.
        Cause::Exited | Cause::Stopped(Stop::SoftKilled) if ended.exit_code == 0 => JobOutcome::finished(),
        Cause::Exited => JobOutcome::failed("exe", ended.exit_code, how(ended)),
        Cause::WallTime => JobOutcome::failed("worker", ERROR_WALL_TIME, "it ran longer than its wall time").error(
            "exe",
            ended.exit_code,
            how(ended),
        ),
        Cause::Stopped(_) => JobOutcome::cancelled(),
    };
    outcome.exit_code(ended.exit_code).output(ended.output.clone()).usage(ended.cpu, ended.memory_peak_kib)
}

fn how(ended: &Ended) -> String {
    match ended.signal {
        Some(signal) => format!("killed by {signal}"),
        None => format!("exit code {}", ended.exit_code),
    }
}

fn summary(ended: &Ended) -> String {
    let why = match ended.cause {
        Cause::Exited => String::new(),
        Cause::WallTime => ", out of wall time".into(),
        Cause::Stopped(stop) => format!(", stopped: {stop:?}").to_lowercase(),
    };
    let peak = text::bytes(ended.memory_peak_kib.saturating_mul(1024));
    format!("{}{why}, {:.1?} CPU, {peak}", how(ended), ended.cpu)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "worker".into(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_client::v1::Outcome;
    use nix::sys::signal::Signal;
    use std::time::Duration;

    fn ended(cause: Cause, exit_code: i32) -> Ended {
        Ended {
            cause,
            exit_code,
            signal: (exit_code > 128).then_some(Signal::SIGTERM),
            output: "printed".into(),
            cpu: Duration::from_millis(1_500),
            memory_peak_kib: 2_048,
        }
    }

    #[test]
    fn an_exit_code_is_a_failure_with_its_error() {
        let outcome = outcome(&ended(Cause::Exited, 3));
        let result = outcome.result();
        assert_eq!(result.outcome(), Outcome::Failed);
        assert_eq!((result.exit_code, result.cpu_ms, result.memory_peak_kib), (3, 1_500, 2_048));
        assert_eq!((result.errors[0].source.as_str(), result.errors[0].code), ("exe", 3));
        assert_eq!(result.output, "printed");
    }

    #[test]
    fn each_end_has_its_outcome() {
        let of = |cause, code| outcome(&ended(cause, code)).outcome();
        assert_eq!(of(Cause::Exited, 0), Outcome::Finished);
        assert_eq!(of(Cause::Stopped(Stop::SoftKilled), 0), Outcome::Finished);
        assert_eq!(of(Cause::Stopped(Stop::SoftKilled), 143), Outcome::Cancelled);
        assert_eq!(of(Cause::Stopped(Stop::Killed), 0), Outcome::Cancelled);
        assert_eq!(of(Cause::WallTime, 0), Outcome::Failed);
        let late = outcome(&ended(Cause::WallTime, 143));
        assert_eq!(late.result().errors[0].code, ERROR_WALL_TIME);
        assert_eq!(late.result().errors[1].text, "killed by SIGTERM");
    }
}
