//! Selectors of the API to filters of the shards, and cursors of listings that go over all shards.

use super::{check, invalid};
use crate::query::{Filter, From};
use crate::request::Fault;
use moso_proto::{Code, JobId, JobState, TaskId, v1};
use moso_queue::meta::MetaView;
use std::collections::BTreeMap;

/// Ids in one selector.
const IDS_MAX: usize = 10_000;
/// States in one selector: more than there are.
const STATES_MAX: usize = 64;

/// Which shards to ask, and for what.
pub struct Scope {
    /// By shard.
    pub filters: BTreeMap<u16, Filter>,
    /// Ids were given: only those are meant.
    pub by_id: bool,
}

/// Whether states name jobs or tasks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Jobs.
    Jobs,
    /// Tasks.
    Tasks,
}

/// Reads a selector.
pub fn scope(selector: &v1::Selector, of: Of, meta: &MetaView, shards: u16) -> Result<Scope, Fault> {
    if selector.jobs.len() + selector.tasks.len() > IDS_MAX {
        return Err(Fault::new(Code::TooLarge, format!("at most {IDS_MAX} ids are allowed in one selector")));
    }
    if selector.states.len() > STATES_MAX {
        return Err(Fault::new(Code::TooLarge, format!("at most {STATES_MAX} states are allowed in one selector")));
    }
    let base = base(selector, of, meta)?;
    let mut filters = BTreeMap::new();
    let by_id = base.by_id;
    let known = |shard: Option<moso_proto::ShardId>, id: u64, what: &str| match shard.filter(|s| s.0 <= shards) {
        Some(shard) => Ok(shard.0),
        None => Err(Fault::new(Code::NotFound, format!("there is no {what} {id}: no shard has such a number"))),
    };
    for &id in &selector.jobs {
        let shard = known(JobId(id).shard(), id, "job")?;
        filters.entry(shard).or_insert_with(|| base.clone()).jobs.push(JobId(id).seq());
    }
    for &id in &selector.tasks {
        let shard = known(TaskId(id).shard(), id, "task")?;
        filters.entry(shard).or_insert_with(|| base.clone()).tasks.push(TaskId(id).seq());
    }
    for filter in filters.values_mut() {
        for ids in [&mut filter.jobs, &mut filter.tasks] {
            ids.sort_unstable();
            ids.dedup();
        }
    }
    if !by_id {
        filters = (1..=shards).map(|shard| (shard, base.clone())).collect();
    }
    Ok(Scope { filters, by_id })
}

fn base(selector: &v1::Selector, of: Of, meta: &MetaView) -> Result<Filter, Fault> {
    let unknown = |what: &str, name: &str| Fault::new(Code::NotFound, format!("there is no {what} {name:?}"));
    let queue = match selector.queue.as_str() {
        "" => None,
        name => Some(meta.queue(name).ok_or_else(|| unknown("queue", name))?.id),
    };
    let share = match selector.share.as_str() {
        "" => None,
        name => Some(meta.share(name).ok_or_else(|| unknown("share", name))?.id),
    };
    let mut filter = Filter {
        by_id: !selector.jobs.is_empty() || !selector.tasks.is_empty(),
        queue,
        share,
        owner: check::name("owner", &selector.owner)?.into(),
        group: check::name("group", &selector.group)?.into(),
        label: check::name("label", &selector.label)?.into(),
        ..Filter::default()
    };
    for state in &selector.states {
        if of == Of::Tasks {
            filter.task_states.push(check::name("a state", state)?.into());
        } else {
            filter.states.push(state.parse::<JobState>().map_err(|e| invalid(e.to_string()))?);
        }
    }
    Ok(filter)
}

/// A cursor as text: shard and place within it.
pub fn write_cursor(shard: u16, from: From) -> String {
    match from {
        From::Start => format!("{shard}.s"),
        From::Live(seq) => format!("{shard}.l.{seq}"),
        From::Ended(None) => format!("{shard}.f"),
        From::Ended(Some((day, seq))) => format!("{shard}.e.{day}.{seq}"),
    }
}

/// Reads a cursor; an empty one is the start.
pub fn read_cursor(text: &str) -> Result<(u16, From), Fault> {
    if text.is_empty() {
        return Ok((1, From::Start));
    }
    let bad = || invalid(format!("{text:?} is not a cursor of an earlier page"));
    let mut parts = text.split('.');
    let mut number = || parts.next().ok_or_else(bad);
    let shard = number()?.parse().map_err(|_| bad())?;
    let from = match number()? {
        "s" => From::Start,
        "l" => From::Live(number()?.parse().map_err(|_| bad())?),
        "f" => From::Ended(None),
        "e" => {
            let day = number()?.parse().map_err(|_| bad())?;
            From::Ended(Some((day, number()?.parse().map_err(|_| bad())?)))
        }
        _ => return Err(bad()),
    };
    Ok((shard, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_bounded_before_it_is_copied_for_every_shard() {
        let refused = |selector: v1::Selector| {
            let fault = scope(&selector, Of::Tasks, &MetaView::default(), 64).err().unwrap();
            assert_eq!(fault.code, Code::TooLarge, "{}", fault.message);
        };
        refused(v1::Selector { states: vec!["ready".into(); STATES_MAX + 1], ..Default::default() });
        refused(v1::Selector { states: vec!["x".repeat(1 << 20)], ..Default::default() });
        refused(v1::Selector { jobs: vec![1; IDS_MAX + 1], ..Default::default() });
    }

    #[test]
    fn cursors_come_back_and_others_are_refused() {
        for from in [From::Start, From::Live(7), From::Ended(None), From::Ended(Some((3, 9)))] {
            assert_eq!(read_cursor(&write_cursor(12, from)).unwrap(), (12, from));
        }
        for text in ["x", "1", "1.q", "1.l", "1.l.x", "1.e.99999999.1"] {
            assert!(read_cursor(text).is_err(), "{text}");
        }
    }
}
