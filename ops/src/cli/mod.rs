//! The command line: one module for each noun, one for what goes out, one for what the user types.

mod act;
mod audit;
mod backup;
mod ca;
mod cluster;
mod connect;
pub mod exit;
mod fields;
mod input;
mod jobs;
mod members;
mod object;
mod output;
mod policy;
mod process;
mod queue;
mod settings;
mod submit;
mod tasks;
mod text;
mod up;
mod worker;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use output::{Format, Output};

/// moso: a job queue for computing sites, without a central database.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no node answers, 4 not found.
#[derive(Debug, Parser)]
#[command(name = "moso", version, max_term_width = 100)]
pub struct Args {
    /// Nodes to ask, host:port,host:port,…; the others are found. Default: the local cluster of `moso up`.
    #[arg(long, global = true, env = "MOSO_CONNECT", value_delimiter = ',', value_name = "HOST:PORT")]
    connect: Vec<String>,
    #[command(flatten)]
    identity: connect::Identity,
    /// How results are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine; Ctrl-C stops it.
    Up(up::Up),
    /// Make, show and change queues.
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Divide the resources between shares.
    #[command(subcommand)]
    Share(policy::Share),
    /// Limit or ban users.
    #[command(subcommand)]
    User(policy::User),
    /// What happens to jobs that stay too long in a state.
    #[command(subcommand)]
    Timeouts(policy::Timeouts),
    /// Numbers that may be changed while the cluster runs.
    #[command(subcommand)]
    Settings(settings::Settings),
    /// Submit a task: a command, run once or many times.
    Submit(Box<submit::Submit>),
    /// Run jobs of a queue as processes on this machine.
    Worker(worker::WorkerArgs),
    /// Show a task.
    Task(tasks::Task),
    /// List tasks.
    Tasks(tasks::Tasks),
    /// Show a job with its log and the end of its output.
    Job(jobs::Job),
    /// List jobs.
    Jobs(jobs::Jobs),
    /// Say why a job does not run.
    Explain(jobs::Explain),
    /// Kill jobs.
    Kill(act::Kill),
    /// Hold jobs that do not run yet.
    Hold(act::Hold),
    /// Release held jobs.
    Release(act::Release),
    /// Give jobs that have not ended further attempts, and end their wait for the next one.
    Retry(act::Retry),
    /// Change the priority of jobs.
    Priority(act::Priority),
    /// Show nodes, shards and queues; add, empty and remove nodes.
    Cluster {
        #[command(subcommand)]
        command: Option<members::Cluster>,
    },
    /// Back a cluster up; check and show backups. `moso-node restore` makes a new cluster of one.
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Show who changed or tried what; for operators.
    Audit(audit::Audit),
    /// Make certificates of a cluster.
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Make tokens, with which users and workers show who they are.
    #[command(subcommand)]
    Token(ca::Token),
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command.
pub async fn run(args: Args) -> Result<()> {
    let out = Output::new(args.output);
    match args.command {
        Command::Up(up) => up.run(&out).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "moso", &mut script);
            out.raw(&script)
        }
        Command::Backup(backup) if !backup.asks() => backup.run(&out),
        Command::Ca(ca) => ca.run(&out),
        Command::Token(token) => token.run(&out),
        command => command.ask(&out, &args.connect, &args.identity).await,
    }
}

impl Command {
    /// Runs a command that speaks to a cluster.
    async fn ask(self, out: &Output, connect: &[String], identity: &connect::Identity) -> Result<()> {
        let client = connect::client(connect, identity).await?;
        match self {
            Command::Queue(queue) => queue.run(&client, out).await,
            Command::Share(share) => share.run(&client, out).await,
            Command::User(user) => user.run(&client, out).await,
            Command::Timeouts(timeouts) => timeouts.run(&client, out).await,
            Command::Settings(settings) => settings.run(&client, out).await,
            Command::Submit(submit) => submit.run(&client, out).await,
            Command::Worker(worker) => worker.run(&client, out).await,
            Command::Task(task) => task.run(&client, out).await,
            Command::Tasks(tasks) => tasks.run(&client, out).await,
            Command::Job(job) => job.run(&client, out).await,
            Command::Jobs(jobs) => jobs.run(&client, out).await,
            Command::Explain(explain) => explain.run(&client, out).await,
            Command::Kill(kill) => kill.run(&client, out).await,
            Command::Hold(hold) => hold.run(&client, out).await,
            Command::Release(release) => release.run(&client, out).await,
            Command::Retry(retry) => retry.run(&client, out).await,
            Command::Priority(priority) => priority.run(&client, out).await,
            Command::Cluster { command } => command.unwrap_or(members::Cluster::Show).run(&client, out).await,
            Command::Backup(backup) => backup.ask(&client, out).await,
            Command::Audit(audit) => audit.run(&client, out).await,
            Command::Up(_) | Command::Ca(_) | Command::Token(_) | Command::Completion { .. } => {
                unreachable!("these ask no cluster and are run before")
            }
        }
    }
}

#[cfg(test)]
mod tests;
