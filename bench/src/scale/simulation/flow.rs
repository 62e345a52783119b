//! The steps of a batch: submitted, ready, leased, reported; from the client to the leader's inbox and back.

use super::{Batch, Drive, Event, Simulation, Step, Thread};
use crate::scale::event::{Ns, s, us};
use rand::Rng;

/// A request without a leader is tried again after so long (`PAUSE` in `node/src/router.rs`).
pub const PAUSE: Ns = 25_000_000;

impl Simulation<'_> {
    /// The open loop's next submission, and when the one after it comes.
    pub(super) fn arrive(&mut self) {
        let Drive::Open(rate) = self.plan.drive else { return };
        if self.now() >= self.end() || rate <= 0.0 {
            return;
        }
        self.submit();
        let mean_s = self.plan.load.batch / (rate * self.part);
        let gap = -(1.0 - self.rng.random::<f64>()).ln() * mean_s;
        self.events.at(self.now() + s(gap), Event::Arrive);
    }

    /// A client submits a batch, at the leader of its shard if it has one.
    pub(super) fn submit(&mut self) {
        let now = self.now();
        let shard = self.rng.random_range(0..self.shards.len());
        let gateway = match self.shards[shard].leader {
            Some(leader) => leader,
            None => self.any_node(),
        };
        let batch = self.batches.len();
        self.batches.push(Batch {
            shard,
            gateway,
            step: Step::Submit,
            tag: 0,
            due: now,
            step_due: now,
            ready: 0,
            submit_answered: false,
            ends: 0,
        });
        self.under_way += 1;
        self.generate();
        self.events.at(now + self.latency(), Event::Call(batch, 0));
    }

    /// The load generator's part of a call, where it shares the machine.
    fn generate(&mut self) {
        if self.cores.is_some() {
            let costs = self.plan.costs;
            let jobs = self.plan.load.batch / crate::scale::model::STEPS;
            let cost = costs.generator_call_us + jobs * costs.generator_job_us;
            self.work(0, Thread::Api, cost);
        }
    }

    fn is_current(&self, batch: usize, tag: u32) -> bool {
        let batch = &self.batches[batch];
        batch.tag == tag && batch.step != Step::Ended
    }

    pub(super) fn call(&mut self, batch: usize, tag: u32) {
        self.read_call(batch, tag, 0.0);
    }

    /// A lease request that waited looks over the hints, and once more for the next one.
    pub(super) fn look(&mut self, batch: usize, tag: u32) {
        if self.is_current(batch, tag) {
            self.measured.hinted(self.batches[batch].ready, self.now(), self.plan);
            let scan = 2.0 * self.background.look_us;
            self.read_call(batch, tag, scan);
        }
    }

    fn read_call(&mut self, batch: usize, tag: u32, more_us: f64) {
        if !self.is_current(batch, tag) {
            return;
        }
        let gateway = self.batches[batch].gateway;
        if !self.nodes[gateway].alive {
            return self.again(batch);
        }
        let costs = self.plan.costs;
        let cost = costs.call_us + self.plan.load.batch * costs.call_job_us + more_us;
        let done = self.work(gateway, Thread::Api, cost);
        self.events.at(done, Event::Route(batch, tag));
    }

    /// To the shard's leader, here or elsewhere; later, if it has none.
    pub(super) fn route(&mut self, batch: usize, tag: u32) {
        if !self.is_current(batch, tag) {
            return;
        }
        let gateway = self.batches[batch].gateway;
        if !self.nodes[gateway].alive {
            return self.again(batch);
        }
        match self.shards[self.batches[batch].shard].leader {
            None => self.events.at(self.now() + PAUSE, Event::Route(batch, tag)),
            Some(leader) if leader == gateway => self.inbox(batch, tag),
            Some(leader) => {
                let (arrives, fresh) = self.send(gateway, leader, false);
                self.events.at(arrives, Event::Forwarded(batch, tag, fresh));
            }
        }
    }

    pub(super) fn forwarded(&mut self, batch: usize, tag: u32, fresh: bool) {
        if !self.is_current(batch, tag) {
            return;
        }
        match self.shards[self.batches[batch].shard].leader {
            Some(leader) => {
                let done = self.work(leader, Thread::Api, self.side_us(fresh));
                self.events.at(done, Event::Inbox(batch, tag));
            }
            None => self.events.at(self.now() + PAUSE, Event::Route(batch, tag)),
        }
    }

    pub(super) fn inbox(&mut self, batch: usize, tag: u32) {
        if !self.is_current(batch, tag) {
            return;
        }
        let shard = self.batches[batch].shard;
        if self.shards[shard].leader.is_none() {
            return self.events.at(self.now() + PAUSE, Event::Route(batch, tag));
        }
        self.shards[shard].waiting.push_back((batch, tag));
        self.turn_soon(shard);
    }

    /// The command is applied: the call is answered, and what was submitted is ready.
    pub(super) fn settle(&mut self, batch: usize, tag: u32, leader: usize) {
        // What a client sent twice is recognised: only the present try counts.
        if !self.is_current(batch, tag) {
            return;
        }
        let (step, gateway) = (self.batches[batch].step, self.batches[batch].gateway);
        if gateway == leader {
            self.events.at(self.now() + self.latency(), Event::Answered(batch, tag, step));
        } else {
            let (arrives, fresh) = self.send(leader, gateway, false);
            self.events.at(arrives, Event::Reply(batch, tag, step, fresh));
        }
        match step {
            Step::Submit => self.ready(batch, leader),
            Step::Lease => self.leased(batch),
            Step::Finish => self.ended(batch),
            Step::Ended => {}
        }
    }

    /// A worker somewhere waits for it.
    fn ready(&mut self, batch: usize, leader: usize) {
        let now = self.now();
        let worker = self.any_node();
        let job = &mut self.batches[batch];
        job.step = Step::Lease;
        job.tag += 1;
        job.gateway = worker;
        job.ready = now;
        let tag = job.tag;
        self.generate();
        if worker == leader {
            self.events.at(now, Event::Look(batch, tag));
        } else {
            self.nodes[leader].hints.unheard.push((batch, tag));
        }
        self.hint_soon(leader);
    }

    fn leased(&mut self, batch: usize) {
        let (shard, now) = (self.batches[batch].shard, self.now());
        self.failover.leased(shard, now);
    }

    fn ended(&mut self, batch: usize) {
        let job = &mut self.batches[batch];
        job.ends += 1;
        job.step = Step::Ended;
        self.under_way -= 1;
        self.measured.ended(self.events.now(), self.plan);
        if let Drive::Closed(_) = self.plan.drive
            && self.now() < self.end()
        {
            self.submit();
        }
    }

    pub(super) fn reply(&mut self, batch: usize, tag: u32, step: Step, fresh: bool) {
        let gateway = match step {
            // Submissions are answered while the batch goes on.
            Step::Submit | Step::Finish => None,
            _ => self.is_current(batch, tag).then(|| self.batches[batch].gateway),
        };
        let done = match gateway {
            Some(node) if self.nodes[node].alive => self.work(node, Thread::Api, self.side_us(fresh)),
            Some(_) => return self.again(batch),
            None => self.now() + us(self.side_us(fresh)),
        };
        self.events.at(done + self.latency(), Event::Answered(batch, tag, step));
    }

    pub(super) fn answered(&mut self, batch: usize, tag: u32, step: Step) {
        let now = self.now();
        match step {
            Step::Submit => {
                let job = &mut self.batches[batch];
                if !std::mem::replace(&mut job.submit_answered, true) {
                    self.measured.step(0, job.due, now, self.plan);
                }
            }
            Step::Lease if self.is_current(batch, tag) => {
                self.measured.step(1, self.batches[batch].due, now, self.plan);
                let job = &mut self.batches[batch];
                job.step = Step::Finish;
                job.tag += 1;
                job.step_due = now;
                let tag = job.tag;
                self.generate();
                self.events.at(now + self.latency(), Event::Call(batch, tag));
            }
            Step::Finish => {
                let job = &self.batches[batch];
                self.measured.step(2, job.step_due, now, self.plan);
                self.measured.step(3, job.due, now, self.plan);
            }
            _ => {}
        }
    }

    /// The client or worker has lost its node: it goes to another one and repeats its call.
    pub(super) fn again(&mut self, batch: usize) {
        let node = self.any_node();
        let pause = PAUSE + self.rng.random_range(0..2 * PAUSE);
        let job = &mut self.batches[batch];
        job.tag += 1;
        job.gateway = node;
        let tag = job.tag;
        self.events.at(self.now() + pause, Event::Call(batch, tag));
    }
}
