//! Which command may change a job's state from what to what: the life of a job, said a second time.

use moso_proto::JobState::{self, *};
use moso_queue::command::{Action, Command};

/// Whether the command may change a job so; from `None`: it is made.
pub fn allowed(command: &Command, from: Option<JobState>, to: JobState) -> bool {
    let leased = from.is_some_and(JobState::is_leased);
    let parked = matches!(from, Some(Waiting | Defined | Throttled | Activated));
    // The end of a job may free, or close, others of its task.
    let consequence = matches!(
        (from, to),
        (Some(Waiting), Defined | Activated) | (Some(Waiting | Defined | Throttled | Activated), Closed)
    );
    match command {
        Command::Submit(_) => from.is_none() && matches!(to, Waiting | Defined | Activated),
        Command::Lease { .. } => matches!(from, None | Some(Activated)) && to == Sent,
        Command::Phase { .. } => matches!((from, to), (Some(Sent), Starting) | (Some(Sent | Starting), Running)),
        Command::Results { .. } => {
            consequence
                || (leased && (lost(to) || to == Finished))
                || (parked && from != Some(Waiting) && to == Finished)
        }
        Command::Expire { .. } | Command::Unheld { .. } => consequence || (leased && lost(to)),
        Command::Wake { .. } => consequence || matches!((from, to), (Some(Defined), Activated)),
        Command::TimeOut { fail, .. } => {
            consequence
                || (*fail && leased && lost(to))
                || (!*fail && (leased || parked) && matches!(to, Closed | Cancelled))
        }
        Command::Act { action, .. } => consequence || acted(action, from, to) || (from.is_none() && !to.is_final()),
        Command::Prune { .. } => false,
    }
}

/// Every change of state that some command may make.
pub fn possible() -> Vec<(Option<JobState>, JobState)> {
    let act = |action| Command::Act { action, targets: Vec::new(), actor: "".into() };
    let time_out = |fail| Command::TimeOut { jobs: Vec::new(), fail, code: 0 };
    let commands = [
        Command::Submit(Box::default()),
        Command::Lease { session: 0, worker: "".into(), ttl_ms: 0, request: 0, jobs: Vec::new() },
        Command::Phase { jobs: Vec::new() },
        Command::Results { session: 0, results: Vec::new() },
        Command::Expire { jobs: Vec::new() },
        Command::Unheld { session: 0, jobs: Vec::new() },
        Command::Wake { jobs: Vec::new() },
        time_out(true),
        time_out(false),
        act(Action::Kill(0)),
        act(Action::Hold("".into())),
        act(Action::Release),
        act(Action::Retry(1)),
    ];
    // No command leaves or makes the states of stages that are not there yet.
    let lives = |state: &JobState| !matches!(state, Pending | Assigned | Holding | Transferring | Merging);
    let from = [None].into_iter().chain(JobState::ALL.into_iter().filter(lives).filter(|s| !s.is_final()).map(Some));
    let pairs = from.flat_map(|from| JobState::ALL.into_iter().filter(lives).map(move |to| (from, to)));
    pairs.filter(|(from, to)| commands.iter().any(|command| allowed(command, *from, *to))).collect()
}

/// What a lost attempt may lead to; closed, if the task has failed meanwhile.
fn lost(to: JobState) -> bool {
    matches!(to, Activated | Defined | Failed | Cancelled | Closed)
}

fn acted(action: &Action, from: Option<JobState>, to: JobState) -> bool {
    let leased = from.is_some_and(JobState::is_leased);
    match action {
        Action::Kill(_) if leased => to == Cancelled,
        Action::Kill(_) => matches!(to, Cancelled | Closed),
        Action::Hold(_) => matches!(from, None | Some(Waiting | Defined | Activated)) && to == Throttled,
        Action::Release => {
            matches!(from, None | Some(Throttled | Defined)) && matches!(to, Waiting | Defined | Activated)
        }
        Action::Retry(_) => matches!((from, to), (Some(Defined), Activated)),
        Action::Priority(_) => false,
    }
}
