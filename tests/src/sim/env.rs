//! The surroundings of everything simulated: virtual time, the one source of chance, events to come, and the record
//! of what happened.

use super::coverage::Coverage;
use super::event::Event;
use super::meta::Meta;
use super::network::Network;
use super::plan::{Plan, Span};
use super::trace::{Note, Trace};
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::BTreeMap;

/// Unix time at which every simulation starts, ms.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// Virtual time, chance, and events to come.
pub struct Env {
    /// True time since the start, ms. No node sees it.
    pub now_ms: u64,
    /// The only source of chance.
    pub rng: SmallRng,
    /// What this seed does.
    pub plan: Plan,
    /// Links that are cut.
    pub net: Network,
    /// What members the shards should have.
    pub meta: Meta,
    /// No more faults; everybody behaves.
    pub calm: bool,
    /// What happened.
    pub trace: Trace,
    /// How often.
    pub cover: Coverage,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    next_request: u64,
}

impl Env {
    /// The start of time.
    pub fn new(rng: SmallRng, plan: Plan, verbose: bool) -> Env {
        Env {
            now_ms: 0,
            rng,
            net: Network::new(plan.nodes),
            meta: Meta::new(plan.nodes, plan.shards, plan.replicas),
            plan,
            calm: false,
            trace: Trace::new(verbose),
            cover: Coverage::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            next_request: 1,
        }
    }

    /// Lets `event` happen in `delay_ms`, after what was planned for the same time before.
    pub fn after(&mut self, delay_ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now_ms + delay_ms, self.sequence), event);
    }

    /// Moves time to the next event and returns it.
    pub fn next(&mut self) -> Option<Event> {
        let ((time_ms, _), event) = self.queue.pop_first()?;
        self.now_ms = time_ms;
        Some(event)
    }

    /// A duration within the span.
    pub fn within(&mut self, span: Span) -> u64 {
        self.rng.random_range(span.0..=span.1)
    }

    /// True once in `times`; never if 0.
    pub fn once_in(&mut self, times: u32) -> bool {
        times > 0 && self.rng.random_range(0..times) == 0
    }

    /// True in this part of cases.
    pub fn chance(&mut self, part: f64) -> bool {
        part > 0.0 && self.rng.random_bool(part)
    }

    /// A number that no request had before.
    pub fn request_id(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// Unix time as a client with a right clock reads it, ms.
    pub fn client_wall_ms(&self) -> u64 {
        EPOCH_MS + self.now_ms
    }

    /// Records what happened.
    pub fn note(&mut self, note: Note) {
        self.trace.add(self.now_ms, note);
    }
}
