//! How many items the lists of a message may have, told from its bytes before it is read: an empty item takes two bytes
//! in a message and some hundred in memory.

use crate::v1;

/// A list of a message, or all such lists of its items together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Numbers of the fields that lead to it.
    pub path: &'static [u32],
    /// Most items.
    pub max: usize,
    /// What it is called.
    pub name: &'static str,
}

/// A message whose lists are bounded before it is read.
pub trait Shape {
    /// Its lists that take much more memory than bytes.
    const LISTS: &'static [List] = &[];
}

const fn list(path: &'static [u32], max: usize, name: &'static str) -> List {
    List { path, max, name }
}

/// Tags of all jobs of a call.
const TAGS_MAX: usize = 320_000;

impl Shape for v1::SubmitRequest {
    const LISTS: &'static [List] =
        &[list(&[3], 10_000, "jobs"), list(&[2, 8, 6], 1_000, "tags"), list(&[3, 3, 6], TAGS_MAX, "tags of jobs")];
}

impl Shape for v1::SubmitFrame {
    const LISTS: &'static [List] = &[
        list(&[1], 4_096, "submissions"),
        list(&[1, 2, 3], 100_000, "jobs"),
        list(&[1, 2, 2, 8, 6], TAGS_MAX, "tags"),
        list(&[1, 2, 3, 3, 6], TAGS_MAX, "tags of jobs"),
    ];
}

impl Shape for v1::WorkerFrame {
    const LISTS: &'static [List] = &[
        list(&[2], 10_000, "results"),
        list(&[2, 5], 100_000, "errors of results"),
        list(&[4, 2], 10_000, "queues"),
        list(&[4, 9], 1_000, "tags"),
    ];
}

impl Shape for v1::ListRequest {
    const LISTS: &'static [List] = &[list(&[1, 4], 1_000, "states")];
}

impl Shape for v1::ActRequest {
    const LISTS: &'static [List] = &[list(&[1, 4], 1_000, "states")];
}

macro_rules! without_lists {
    ($($message:ident)*) => { $(impl Shape for v1::$message {})* };
}

// Requests of one item, and what nodes answer: a client trusts its cluster.
without_lists! {
    JobRequest TaskRequest PutObjectRequest ObjectKey ClusterRequest BackupRequest AuditRequest AuditList
    SubmitReply SubmitAnswers JobView JobList TaskView TaskList Explanation ActReply NodeFrame Object ObjectList
    ClusterReply BackupPart
}

/// The first list of `M` with more items than it may have. Bytes that are no message are looked at as far as they go:
/// reading them tells.
pub fn too_long<M: Shape>(bytes: &[u8]) -> Option<&'static List> {
    M::LISTS.iter().find(|list| count(bytes, list.path, list.max) > list.max)
}

/// Items at the end of the path; no longer counted once there are more than `max`.
fn count(bytes: &[u8], path: &[u32], max: usize) -> usize {
    const DELIMITED: u64 = 2;
    let Some((&wanted, rest)) = path.split_first() else { return 1 };
    let (mut left, mut items) = (bytes, 0);
    while items <= max
        && let Some(key) = varint(&mut left)
    {
        let length = match key & 7 {
            0 => varint(&mut left).map(|_| 0),
            1 => Some(8),
            DELIMITED => varint(&mut left).and_then(|length| usize::try_from(length).ok()),
            5 => Some(4),
            // The bounds of a group, which we have none of.
            _ => Some(0),
        };
        let Some((value, after)) = length.and_then(|length| left.split_at_checked(length)) else { break };
        left = after;
        if key & 7 == DELIMITED && key >> 3 == u64::from(wanted) {
            items += count(value, rest, max);
        }
    }
    items
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn jobs(count: usize) -> v1::SubmitRequest {
        v1::SubmitRequest { jobs: vec![v1::JobSpec::default(); count], ..Default::default() }
    }

    #[test]
    fn items_are_counted_before_they_are_made() {
        let fits = jobs(10_000).encode_to_vec();
        assert_eq!(too_long::<v1::SubmitRequest>(&fits), None);
        // The shortest message that takes the most.
        let bomb = [26u8, 0].repeat(4 << 20);
        assert_eq!(too_long::<v1::SubmitRequest>(&bomb).unwrap().name, "jobs");
        let submission = |number| v1::NumberedSubmission { number, request: Some(jobs(9_000)) };
        let frame = |count| v1::SubmitFrame { submissions: (0..count).map(submission).collect() }.encode_to_vec();
        assert_eq!(too_long::<v1::SubmitFrame>(&frame(11)), None);
        assert_eq!(too_long::<v1::SubmitFrame>(&frame(12)).unwrap().name, "jobs");
    }

    #[test]
    fn other_fields_are_passed_over() {
        let error = v1::ErrorPair { source: "exe".into(), code: -1, text: "x".repeat(300) };
        let result = v1::JobResult {
            job_id: 7,
            exit_code: -9,
            errors: vec![error; 12],
            output: vec![0xff; 999].into(),
            ..Default::default()
        };
        let frame = v1::WorkerFrame { results: vec![result; 50], ..Default::default() }.encode_to_vec();
        assert_eq!(count(&frame, &[2], 1_000), 50);
        assert_eq!(count(&frame, &[2, 5], 1_000), 600);
        assert_eq!(count(&frame, &[2, 5], 100), 108, "no longer than needed: to the end of the item");
    }

    #[test]
    fn what_is_no_message_is_left_to_those_who_read_it() {
        for bytes in
            [&[26][..], &[26, 200], &[0xff; 12], &[26, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]]
        {
            assert_eq!(too_long::<v1::SubmitRequest>(bytes), None, "{bytes:?}");
        }
    }
}
