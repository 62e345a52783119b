//! What an action on a selector is for, found in steps that do not hold up the shard.

use super::{Filter, STEP_JOBS, Targets};
use moso_queue::task::Task;
use moso_queue::{ClassKey, Machine};

/// Whose jobs are to be acted on.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Owner, group, label.
    pub class: &'a ClassKey,
    /// A job or an array.
    pub id: u64,
    /// How many.
    pub jobs: u32,
}

/// Live jobs that the filter means, and arrays whose jobs not yet made it means, from the number `from` up: a job's, or a
/// task's for all that is its. Of what it means only what `may` allows, which is asked once for each job or array.
pub fn find(
    machine: &Machine,
    filter: &Filter,
    from: u64,
    limit: usize,
    may: &mut dyn FnMut(Asked<'_>) -> bool,
) -> Targets {
    let mut found = Targets::default();
    if filter.by_id && from == 0 {
        named(machine, filter, &mut found, may);
    }
    let tasks: Box<dyn Iterator<Item = &Task>> = if filter.by_id {
        Box::new(filter.tasks.iter().filter_map(|&seq| machine.task(seq)))
    } else {
        Box::new(machine.tasks_from(machine.task_of(from).map_or(from, |task| task.seq)))
    };
    let mut seen = 0;
    let mut more = limit.saturating_sub(found.jobs.len()).max(1);
    for task in tasks {
        // Otherwise the page before began with it.
        if from <= task.seq {
            if seen >= STEP_JOBS || more == 0 {
                found.next = Some(task.seq);
                return found;
            }
            seen += 1;
            let rest = |jobs| Asked { class: &machine.classes().get(task.class).key, id: task.seq, jobs };
            if task.rest_len() > 0 && filter.rest(machine, task) && may(rest(task.rest_len())) {
                found.rests.push((task.seq, task.rest_len()));
                more -= 1;
            }
        }
        let (start, end) = (task.first().max(from), task.first() + u64::from(task.jobs));
        for job in machine.jobs().from(start).take_while(|job| job.seq < end) {
            if seen >= STEP_JOBS || more == 0 {
                found.next = Some(job.seq);
                return found;
            }
            seen += 1;
            let asked = || Asked { class: &machine.classes().get(job.class).key, id: job.seq, jobs: 1 };
            if filter.job(machine, job) && may(asked()) {
                found.jobs.push(job.seq);
                more -= 1;
            }
        }
    }
    found
}

/// Jobs that are named one by one, and what is named and not live.
fn named(machine: &Machine, filter: &Filter, found: &mut Targets, may: &mut dyn FnMut(Asked<'_>) -> bool) {
    for &seq in &filter.jobs {
        let class = |class| &machine.classes().get(class).key;
        match machine.job(seq) {
            Some(job) if filter.job(machine, job) => {
                if may(Asked { class: class(job.class), id: seq, jobs: 1 }) {
                    found.jobs.push(seq);
                }
            }
            Some(_) => {}
            // An array's job not yet made is made by the action.
            None => match machine.task_of(seq).filter(|t| t.position(seq).is_some_and(|p| t.is_unmade(p))) {
                Some(task) if may(Asked { class: class(task.class), id: seq, jobs: 1 }) => found.jobs.push(seq),
                Some(_) => {}
                None => found.missing.push(seq),
            },
        }
    }
    found.missing.extend(filter.tasks.iter().filter(|&&seq| machine.task(seq).is_none()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::{JobState, ShardId};
    use moso_queue::ClassKey;
    use moso_queue::command::{Command, EntryBuilder, Submit, SubmitJob};
    use moso_queue::effect::Effects;

    const NOW: u64 = 1_800_000_000_000;

    /// Tasks of so many jobs written out; 0: an array of 100.
    fn machine(tasks: &[usize]) -> Machine {
        let mut machine = Machine::new(ShardId(1));
        for (n, &jobs) in tasks.iter().enumerate() {
            let mut submission = [n as u8; 16];
            submission[..6].copy_from_slice(&NOW.to_be_bytes()[2..]);
            let submit = Submit {
                submission,
                class: ClassKey { queue: 1, cores: 1, owner: "ann".into(), ..ClassKey::default() },
                jobs: vec![SubmitJob::default(); jobs],
                array: if jobs == 0 { 100 } else { 0 },
                ..Submit::default()
            };
            let mut entry = EntryBuilder::default();
            entry.push_command(&Command::Submit(Box::new(submit)));
            machine.apply(entry.finish(NOW), &mut Effects::default(), &mut Vec::new()).unwrap();
        }
        machine
    }

    /// All pages.
    fn pages(machine: &Machine, filter: &Filter, limit: usize) -> (Targets, usize) {
        let (mut all, mut from, mut count) = (Targets::default(), 0, 0);
        loop {
            let page = find(machine, filter, from, limit, &mut |_| true);
            assert!(page.jobs.len() <= limit.max(filter.jobs.len() + 1));
            all.jobs.extend(page.jobs);
            all.rests.extend(page.rests);
            all.missing.extend(page.missing);
            count += 1;
            match page.next {
                Some(next) => assert!(next > std::mem::replace(&mut from, next), "no way back"),
                None => return (all, count),
            }
        }
    }

    #[test]
    fn each_target_is_found_once_whatever_the_pages() {
        let machine = machine(&[3, 0, 7, 0, 1]);
        let all = Filter { owner: "ann".into(), ..Filter::default() };
        let expected: Vec<u64> = machine.jobs().from(0).map(|job| job.seq).collect();
        let arrays: Vec<(u64, u32)> = machine.tasks_from(0).filter(|t| t.array).map(|t| (t.seq, 100)).collect();
        assert_eq!((expected.len(), arrays.len()), (11, 2));
        for limit in [1, 2, 3, 5, 100] {
            let (found, _) = pages(&machine, &all, limit);
            assert_eq!((&found.jobs, &found.rests), (&expected, &arrays), "limit {limit}");
        }
        let (none, _) = pages(&machine, &Filter { owner: "bob".into(), ..Filter::default() }, 2);
        assert!(none.jobs.is_empty() && none.rests.is_empty());
    }

    #[test]
    fn jobs_and_tasks_named_together_are_found_once() {
        let machine = machine(&[3, 0, 7]);
        let tasks: Vec<u64> = machine.tasks_from(0).map(|task| task.seq).collect();
        let (array, last) = (tasks[1], tasks[2]);
        let filter = Filter {
            by_id: true,
            jobs: vec![1 + tasks[0], array + 5, array + 500],
            tasks: vec![array, last, last + 1_000],
            ..Filter::default()
        };
        for limit in [1, 3, 100] {
            let (found, _) = pages(&machine, &filter, limit);
            let expected: Vec<u64> = [tasks[0] + 1, array + 5].into_iter().chain(last + 1..=last + 7).collect();
            assert_eq!(found.jobs, expected, "limit {limit}");
            assert_eq!((found.rests, found.missing.len()), (vec![(array, 100)], 2));
        }
    }

    #[test]
    fn a_step_looks_at_a_bounded_number_of_jobs() {
        let machine = machine(&[10_000, 10_000, 10_000]);
        let filter = Filter { states: vec![JobState::Running], ..Filter::default() };
        let (found, count) = pages(&machine, &filter, 10);
        assert!(found.jobs.is_empty());
        assert_eq!(count, 2, "30,000 jobs are two steps");
    }
}
