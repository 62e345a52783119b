//! Which jobs a lease takes, beside those from the ready index, and how they are told to the worker.

use crate::directory::Usage;
use crate::live::is_any_capped;
use crate::request::{Body, LeasedJob};
use moso_proto::JobState;
use moso_queue::Machine;
use moso_queue::filter::WorkerOffer;
use moso_queue::meta::MetaView;
use moso_queue::ready::Popped;
use moso_shard::core::Core;
use std::collections::BTreeMap;

/// A leased job as its worker gets it; `None`: it has ended since.
pub(super) fn leased<T>(core: &Core<T>, seq: u64, attempt: u32) -> Option<LeasedJob> {
    let machine = core.machine();
    let job = machine.job(seq)?;
    let task = machine.task(job.task)?;
    let class = &machine.classes().get(job.class).key;
    let at = if task.array { task.seq } else { seq };
    Some(LeasedJob {
        seq,
        body: core.body(at).cloned().map_or(Body::Stored(at), Body::Here),
        task: task.seq,
        index: task.position(seq).unwrap_or(0),
        attempt,
        body_type: (*task.body_type).into(),
        wall_time_s: class.wall_time_s,
        queue: class.queue,
    })
}

/// Splits what was taken into what the users' caps leave room for, and the rest. A class is tested when it is taken from,
/// a single request may want more of it than there is room.
pub(super) fn within_user_caps(
    machine: &Machine,
    popped: Vec<Popped>,
    meta: &MetaView,
    usage: &Usage,
) -> (Vec<Popped>, Vec<Popped>) {
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    popped.into_iter().partition(|job| {
        let Some(class) = machine.classes().find(job.class) else { return true };
        let owner = &*class.key.owner;
        let left = left.entry(owner).or_insert_with(|| match meta.user(owner).max_running {
            0 => u64::MAX,
            cap => cap.saturating_sub(usage.user_leased.get(owner).copied().unwrap_or(0)),
        });
        let room = *left > 0;
        *left = left.saturating_sub(1);
        room
    })
}

/// Ready jobs of one task in a queue that a worker fits, whatever their place in the order.
pub(super) fn pick_from_task(machine: &Machine, task: u64, queue: u32, offer: &WorkerOffer, max: usize) -> Vec<Popped> {
    let Some(task) = machine.task(task) else { return Vec::new() };
    let fits = |class| {
        let class = &machine.classes().get(class).key;
        class.queue == queue && offer.fits(class)
    };
    let end = task.first() + u64::from(task.jobs);
    // Stops behind the last ready job: looking through a large task for nothing would hold up the shard.
    let unmade = if task.rest_state == JobState::Activated { task.rest_len() } else { 0 };
    let ready = task.counts[JobState::Activated as usize] - unmade;
    let mut out: Vec<Popped> = machine
        .jobs()
        .from(task.first())
        .take_while(|job| job.seq < end)
        .filter(|job| job.state == JobState::Activated)
        .take(ready as usize)
        .filter(|job| !job.reserved && fits(job.class))
        .take(max)
        .map(|job| Popped { seq: job.seq, class: job.class, priority: job.priority })
        .collect();
    if task.rest_state == JobState::Activated && fits(task.class) {
        let unmade = task.rest.iter().flat_map(|&(a, b)| a..b).take(max - out.len());
        out.extend(unmade.map(|position| Popped {
            seq: task.first() + u64::from(position),
            class: task.class,
            priority: task.priority,
        }));
    }
    out
}

/// What the leased jobs of a shard use, and how many live ones there are of users that have a cap on them.
pub fn usage(machine: &Machine, meta: &MetaView) -> Usage {
    let mut sum = Usage::default();
    let counts_live = is_any_capped(meta);
    for (_, class) in machine.classes().iter() {
        let leased = class.leased();
        if leased > 0 {
            *sum.queue_leased.entry(class.key.queue).or_default() += leased;
            *sum.share_cores.entry(class.key.share).or_default() += leased * u64::from(class.key.cores);
            *sum.user_leased.entry(class.key.owner.to_string()).or_default() += leased;
        }
        if counts_live && meta.user(&class.key.owner).max_live > 0 {
            let live: u64 = class.counts.iter().map(|&jobs| u64::from(jobs)).sum();
            *sum.user_live.entry(class.key.owner.to_string()).or_default() += live;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::ShardId;
    use moso_proto::object::{Node, ShardTable, kind};
    use moso_queue::ClassKey;
    use moso_queue::Effects;
    use moso_queue::command::{Command, EntryBuilder, Submit, SubmitJob};
    use moso_queue::meta::{MetaCommand, MetaMachine, MetaReply};

    fn capped(name: &str, cap: u64) -> MetaView {
        let mut objects = MetaMachine::new();
        let nodes = vec![(
            1,
            Node { api: "h:1".into(), peer: "h:2".into(), http: "h:3".into(), zone: String::new(), drain: false },
        )];
        let bootstrap = MetaCommand::Bootstrap {
            cluster: "test".into(),
            nodes,
            shards: ShardTable { replicas: vec![vec![1]], ..ShardTable::default() },
        };
        let json = format!("{{\"max_running\":{cap}}}");
        let author = "op".to_owned();
        let user =
            MetaCommand::Put { kind: kind::USER.into(), name: name.into(), json, expected_version: None, author };
        for command in [bootstrap, user] {
            let reply = objects.apply(1, &command.encode()).unwrap();
            assert!(matches!(reply, MetaReply::Ok(_)), "{reply:?}");
        }
        MetaView::new(&objects).unwrap()
    }

    #[test]
    fn one_request_gets_no_more_of_a_users_jobs_than_the_cap_leaves() {
        let mut machine = Machine::new(ShardId(1));
        for (n, owner) in ["ann", "bob"].into_iter().enumerate() {
            let class = ClassKey { queue: 1, cores: 1, owner: owner.into(), ..ClassKey::default() };
            let mut submission = [n as u8; 16];
            submission[..6].fill(0);
            let submit = Submit { submission, class, jobs: vec![SubmitJob::default(); 10], ..Submit::default() };
            let mut entry = EntryBuilder::default();
            entry.push_command(&Command::Submit(Box::new(submit)));
            machine.apply(entry.finish(1), &mut Effects::default(), &mut Vec::new()).unwrap();
        }
        let popped: Vec<Popped> =
            machine.jobs().from(0).map(|j| Popped { seq: j.seq, class: j.class, priority: j.priority }).collect();
        assert_eq!(popped.len(), 20);
        let usage = Usage { user_leased: [("ann".to_owned(), 3)].into(), ..Usage::default() };
        let (allowed, over) = within_user_caps(&machine, popped, &capped("ann", 5), &usage);
        let of = |jobs: &[Popped], owner: &str| {
            jobs.iter().filter(|j| *machine.classes().get(j.class).key.owner == *owner).count()
        };
        assert_eq!((of(&allowed, "ann"), of(&allowed, "bob")), (2, 10));
        assert_eq!((of(&over, "ann"), over.len()), (8, 8));
    }
}
