//! Checks of a submission that need no state: names, sizes, ranges. Each refusal names the field, the value and the
//! limit with its unit.

use super::invalid;
use crate::request::Fault;
use moso_proto::{Code, v1};
use moso_queue::ClassKey;
use moso_queue::command::{Submit, SubmitJob};
use moso_queue::limits::{
    ARRAY_JOBS_MAX, ATTEMPTS_MAX, CORES_MAX, NAME_BYTES_MAX, PARENTS_MAX, PRIORITY_MAX, SUBMISSION_BYTES_MAX,
    SUBMISSION_EDGES_MAX, SUBMISSION_JOBS_MAX, TAGS_MAX, WALL_TIME_S_MAX,
};
use moso_queue::task::RetryPolicy;
use std::sync::Arc;

fn too_large(message: String) -> Fault {
    Fault::new(Code::TooLarge, message)
}

/// A text field of at most [`NAME_BYTES_MAX`] bytes without control characters.
pub fn name<'a>(field: &str, value: &'a str) -> Result<&'a str, Fault> {
    if value.len() > NAME_BYTES_MAX {
        return Err(too_large(format!("{field} has {} bytes, at most {NAME_BYTES_MAX} are allowed", value.len())));
    }
    if value.chars().any(char::is_control) {
        return Err(invalid(format!("{field} holds a control character")));
    }
    Ok(value)
}

/// A priority in its range.
pub fn priority(value: i32) -> Result<i32, Fault> {
    if (-PRIORITY_MAX..=PRIORITY_MAX).contains(&value) {
        Ok(value)
    } else {
        Err(invalid(format!("priority {value} is outside -{PRIORITY_MAX}..={PRIORITY_MAX}")))
    }
}

fn needs(base: &ClassKey, needs: &v1::Needs) -> Result<ClassKey, Fault> {
    if needs.cores > CORES_MAX {
        return Err(invalid(format!("cores {} is above {CORES_MAX}", needs.cores)));
    }
    if needs.wall_time_s > WALL_TIME_S_MAX {
        return Err(invalid(format!("wall_time_s {} is above {WALL_TIME_S_MAX} s", needs.wall_time_s)));
    }
    if needs.tags.len() > TAGS_MAX {
        return Err(too_large(format!("{} tags are given, at most {TAGS_MAX} are allowed", needs.tags.len())));
    }
    let mut tags: Vec<Arc<str>> =
        needs.tags.iter().map(|t| name("a tag", t).map(Arc::from)).collect::<Result<_, _>>()?;
    tags.sort_unstable();
    tags.dedup();
    Ok(ClassKey {
        cores: needs.cores.max(1),
        memory_mib: needs.memory_mib,
        disk_mib: needs.disk_mib,
        wall_time_s: needs.wall_time_s,
        resource_type: name("resource_type", &needs.resource_type)?.into(),
        tags,
        ..base.clone()
    })
}

fn retry(policy: &v1::RetryPolicy) -> Result<RetryPolicy, Fault> {
    let base = RetryPolicy::default();
    if policy.max_attempts > ATTEMPTS_MAX {
        return Err(invalid(format!("max_attempts {} is above {ATTEMPTS_MAX}", policy.max_attempts)));
    }
    let factor = if policy.backoff_factor == 0.0 { 2.0 } else { policy.backoff_factor };
    if !(1.0..=1_000.0).contains(&factor) {
        return Err(invalid(format!("backoff_factor {factor} is outside 1..=1000")));
    }
    Ok(RetryPolicy {
        max_attempts: if policy.max_attempts == 0 { base.max_attempts } else { policy.max_attempts },
        backoff_initial_ms: policy.backoff_initial_ms,
        backoff_factor_milli: (factor * 1_000.0) as u32,
        backoff_ceiling_ms: if policy.backoff_ceiling_ms == 0 {
            base.backoff_ceiling_ms
        } else {
            policy.backoff_ceiling_ms
        },
    })
}

/// The 16 bytes of a submission id.
pub fn submission_id(bytes: &[u8]) -> Result<[u8; 16], Fault> {
    bytes.try_into().map_err(|_| invalid(format!("submission_id has {} bytes, it must have 16", bytes.len())))
}

/// The command of a submission whose queue and share are known by number.
pub fn submit(request: v1::SubmitRequest, queue: u32, share: u32, body_bytes_max: usize) -> Result<Submit, Fault> {
    let submission = submission_id(&request.submission_id)?;
    let spec = request.task.ok_or_else(|| invalid("task is missing"))?;
    counts(&request.jobs, request.array)?;
    let label = if spec.label.is_empty() { "managed" } else { name("label", &spec.label)? };
    let base = ClassKey {
        queue,
        share,
        owner: name("owner", &spec.owner)?.into(),
        group: name("group", &spec.group)?.into(),
        label: label.into(),
        cores: 1,
        ..ClassKey::default()
    };
    let class = needs(&base, &spec.needs.unwrap_or_default())?;
    let body = |at: &str, bytes: usize| {
        if bytes > body_bytes_max {
            return Err(too_large(format!("{at} has {bytes} bytes, at most {body_bytes_max} are allowed")));
        }
        Ok(bytes)
    };
    let mut total = body("the body", spec.body.len())?;
    let mut edges = 0;
    let mut jobs = Vec::with_capacity(request.jobs.len());
    for (at, job) in request.jobs.into_iter().enumerate() {
        if job.body.len() > body_bytes_max {
            body(&format!("the body of job {at}"), job.body.len())?;
        }
        total += job.body.len();
        edges += job.depends_on.len();
        if job.depends_on.len() > PARENTS_MAX || edges > SUBMISSION_EDGES_MAX {
            return Err(too_large(format!("more than {SUBMISSION_EDGES_MAX} dependencies in one submission")));
        }
        let own = job.needs.map(|own| needs(&base, &own).map(Box::new)).transpose()?;
        let job_priority = job.priority.map(priority).transpose()?;
        jobs.push(SubmitJob { body: job.body, priority: job_priority, class: own, depends_on: job.depends_on });
    }
    if total > SUBMISSION_BYTES_MAX {
        return Err(too_large(format!(
            "the bodies have {total} bytes, at most {SUBMISSION_BYTES_MAX} are allowed in one submission: send several"
        )));
    }
    Ok(Submit {
        submission,
        content: 0,
        name: name("name", &spec.name)?.into(),
        class,
        priority: priority(spec.priority)?,
        retry: retry(&spec.retry.unwrap_or_default())?,
        not_before_ms: spec.not_before_ms,
        expires_at_ms: spec.expires_at_ms,
        run_dependents: spec.failure_policy == v1::FailurePolicy::RunDependents as i32,
        max_failed: spec.max_failed,
        body_type: name("body_type", &spec.body_type)?.into(),
        body: spec.body,
        array: request.array,
        jobs,
    })
}

fn counts(jobs: &[v1::JobSpec], array: u32) -> Result<(), Fault> {
    match (jobs.len(), array) {
        (0, 0) => Err(invalid("a submission needs at least one job")),
        (1.., 1..) => Err(invalid("a submission has either jobs or an array, not both")),
        (n, 0) if n > SUBMISSION_JOBS_MAX => Err(too_large(format!(
            "{n} jobs are written out, at most {SUBMISSION_JOBS_MAX} are allowed: send several submissions or an array"
        ))),
        (0, n) if n > ARRAY_JOBS_MAX => {
            Err(too_large(format!("an array of {n} jobs is above the limit of {ARRAY_JOBS_MAX}")))
        }
        _ => Ok(()),
    }
}

/// The encoded command with the fingerprint of its content, by which a repeat is told from a mistake.
pub fn encode(submit: &Submit) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512 + submit.jobs.iter().map(|j| j.body.len() + 16).sum::<usize>());
    moso_queue::command::encode_submit(submit, &mut bytes);
    let content = u64::from(crc32c::crc32c(&bytes)) << 32 | bytes.len() as u64 & 0xffff_ffff;
    moso_queue::command::set_content(&mut bytes, content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::SubmitRequest {
        v1::SubmitRequest {
            submission_id: vec![1; 16].into(),
            task: Some(v1::TaskSpec { queue: "Q".into(), ..Default::default() }),
            jobs: vec![v1::JobSpec::default()],
            array: 0,
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut v1::SubmitRequest), code: Code, word: &str) {
        let mut request = request();
        change(&mut request);
        let fault = submit(request, 1, 1, 1024).unwrap_err();
        assert_eq!(fault.code, code, "{}", fault.message);
        assert!(fault.message.contains(word), "{}", fault.message);
    }

    #[test]
    fn bad_fields_are_named() {
        assert!(submit(request(), 1, 1, 1024).is_ok());
        refused(|r| r.submission_id = vec![1; 15].into(), Code::Invalid, "submission_id");
        refused(|r| r.task = None, Code::Invalid, "task");
        refused(|r| r.jobs.clear(), Code::Invalid, "at least one");
        refused(|r| r.array = 3, Code::Invalid, "not both");
        refused(|r| r.jobs[0].body = vec![0; 1025].into(), Code::TooLarge, "1024");
        refused(|r| r.jobs[0].priority = Some(10_001), Code::Invalid, "priority");
        refused(|r| r.task.as_mut().unwrap().priority = -10_001, Code::Invalid, "priority");
        refused(|r| r.task.as_mut().unwrap().owner = "x".repeat(257), Code::TooLarge, "owner");
        refused(|r| r.task.as_mut().unwrap().name = "a\nb".into(), Code::Invalid, "control");
        let needs = |f: fn(&mut v1::Needs)| {
            move |r: &mut v1::SubmitRequest| f(r.task.as_mut().unwrap().needs.get_or_insert_default())
        };
        refused(needs(|n| n.cores = 100_001), Code::Invalid, "cores");
        refused(needs(|n| n.tags = vec!["t".into(); 33]), Code::TooLarge, "tags");
        let retry = |r: &mut v1::SubmitRequest| {
            r.task.as_mut().unwrap().retry = Some(v1::RetryPolicy { backoff_factor: 0.5, ..Default::default() });
        };
        refused(retry, Code::Invalid, "backoff_factor");
    }

    #[test]
    fn other_content_has_another_fingerprint() {
        let mut one = submit(request(), 1, 1, 1024).unwrap();
        let first = encode(&one);
        assert_eq!(first, encode(&one));
        one.jobs[0].body = bytes::Bytes::from_static(b"x");
        assert_ne!(first[17..25], encode(&one)[17..25]);
    }
}
