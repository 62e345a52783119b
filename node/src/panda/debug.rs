//! Commands for a job's pilot, and what they printed. An object of the meta group, which every node sees: the command is in
//! the answer to each update until it is changed, as PanDA's is.

use super::args::Args;
use super::limits::{COMMAND_BYTES_MAX, DEBUG_BYTES_MAX};
use super::reply::{Answer, Done, Refusal};
use super::{Call, Front, job_calls, report};
use moso_proto::JobId;
use moso_proto::object::kind;
use serde_json::Value;

impl Front {
    /// Keeps what a debug command printed.
    pub async fn keep_debug_output(&self, job: u64, args: &Args) {
        let stdout = args.loose_text("stdout");
        if stdout.is_empty() {
            return;
        }
        let stdout = report::last(stdout, DEBUG_BYTES_MAX);
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        let name = job.to_string();
        let keep = self.change(kind::PANDA_DEBUG, &name, "pilot", |map| {
            // Taken back meanwhile: not made anew.
            if map.contains_key("command") {
                map.insert("stdout".into(), stdout.clone().into());
            }
        });
        if let Err(fault) = keep.await {
            tracing::warn!(job, fault = %fault.message, "what a debug command printed is lost");
        }
    }

    async fn set_debug(&self, call: &Call, job: u64, command: &str) -> Answer {
        let Some(view) = self.look(JobId(job)).await? else {
            return Err(Refusal::new(format!("job {job} is not known")));
        };
        if !call.caller.may_steer(&view.owner, &view.group) {
            return Err(Refusal::new("production or pilot role required"));
        }
        if view.ended_ms > 0 {
            return Err(Refusal::new(format!("job {job} is {}", view.state)));
        }
        let now_ms = self.now_ms();
        let name = job.to_string();
        let set = self.change(kind::PANDA_DEBUG, &name, &call.caller.user, |map| {
            map.insert("command".into(), command.into());
            map.insert("changed_ms".into(), now_ms.into());
        });
        set.await?;
        Ok(Done::default())
    }

    /// The command for a job's pilot and what it printed last.
    pub async fn debug_of(&self, job: u64) -> Option<(String, String)> {
        self.meta().debug_command(job)?;
        let kept = self.object(kind::PANDA_DEBUG, &job.to_string()).await.ok()??;
        let text = |name: &str| kept.map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some((text("command"), text("stdout")))
    }
}

/// `job/set_command`: a text whose first word is one that pilots know.
pub async fn set_command(front: &Front, call: &Call) -> Answer {
    let job = call.args.id("job_id")?;
    let command = call.args.text("command")?;
    if command.is_empty() || command.len() > COMMAND_BYTES_MAX || command.chars().any(char::is_control) {
        return Err(Refusal::new(format!("a command has 1 to {COMMAND_BYTES_MAX} bytes on one line")));
    }
    if command == "tobekilled" {
        job_calls::kill_one(front, call, job, job_calls::ABORTED).await?;
    } else {
        front.set_debug(call, job, command).await?;
    }
    Ok(Done::says(format!("command {command} registered")))
}

/// `job/set_debug_mode`.
pub async fn set_mode(front: &Front, call: &Call) -> Answer {
    let job = call.args.id("job_id")?;
    let on = match call.args.get("mode") {
        Some(Value::String(text)) => matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "on"),
        _ => call.args.flag("mode")?,
    };
    front.set_debug(call, job, if on { "debug" } else { "debugoff" }).await?;
    Ok(Done::says("Succeeded"))
}

/// `setDebugMode`: the old call of it.
pub async fn set_mode_old(front: &Front, call: &Call) -> Result<Value, Refusal> {
    let wanted = ["panda_id", "job_id"].iter().find_map(|name| call.args.loose(name));
    let job = wanted.and_then(|id| u64::try_from(id).ok());
    let job = job.ok_or_else(|| Refusal::new("Argument error: missing a required argument: 'pandaID'"))?;
    let on = ["mode_on", "mode"]
        .iter()
        .any(|name| matches!(call.args.loose_text(name).to_ascii_lowercase().as_str(), "true" | "1"));
    front.set_debug(call, job, if on { "debug" } else { "debugoff" }).await?;
    Ok(Value::from("Succeeded"))
}
