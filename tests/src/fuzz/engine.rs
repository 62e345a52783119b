//! The loop of the runner: takes an input of the pool, changes it, runs the target, keeps it if it reached something new.
//! Deterministic in the seed, the pool and the number of executions.

use super::mutate::mutate;
use super::{BYTES_PER_BYTE, Target, taken};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs in the pool: enough for what the targets can tell apart.
const POOL_MAX: usize = 4_096;
/// Bytes of an input.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// Executions between two looks at the clock.
const LOOK_EVERY: u64 = 64;

/// Measures the memory that a target holds: bytes now, and the most since the last reset.
#[derive(Clone, Copy)]
pub struct Meter {
    /// Sets the peak to what is held now, and says how much that is.
    pub reset: fn() -> usize,
    /// The peak.
    pub peak: fn() -> usize,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many executions, or this time.
    Executions(u64, Duration),
}

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Executions.
    pub executions: u64,
    /// Time.
    pub seconds: f64,
    /// Inputs that reached something different.
    pub reached: usize,
    /// Most bytes held for one input, and the length of that input.
    pub most_bytes: (usize, usize),
}

/// An input that the target does not survive.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What happened.
    pub what: String,
    /// Executions before it.
    pub executions: u64,
}

/// Is told of an input.
type Told<'a> = Box<dyn FnMut(&[u8]) + 'a>;

/// Feeds a target.
pub struct Engine<'a> {
    target: &'a Target,
    meter: Option<Meter>,
    random: SmallRng,
    pool: Vec<Vec<u8>>,
    seen: BTreeSet<u64>,
    executions: u64,
    most_bytes: (usize, usize),
    /// Called with each input before it is run.
    before: Told<'a>,
}

impl<'a> Engine<'a> {
    /// An engine with a pool of the target's seeds. `before` is called with each input before it is run.
    pub fn new(target: &'a Target, seed: u64, meter: Option<Meter>, before: impl FnMut(&[u8]) + 'a) -> Self {
        let mut named = seed;
        target.name.bytes().for_each(|byte| named = named.rotate_left(8) ^ u64::from(byte));
        Engine {
            target,
            meter,
            random: SmallRng::seed_from_u64(named),
            pool: (target.seeds)(),
            seen: BTreeSet::new(),
            executions: 0,
            most_bytes: (0, 0),
            before: Box::new(before),
        }
    }

    /// Adds an input to the pool.
    pub fn add(&mut self, input: Vec<u8>) {
        self.pool.push(input);
    }

    /// Runs one input.
    ///
    /// # Errors
    /// What the target does not survive.
    pub fn run_one(&mut self, input: &[u8]) -> Result<u64, Finding> {
        (self.before)(input);
        let held = self.meter.map_or(0, |meter| (meter.reset)());
        let run = AssertUnwindSafe(|| taken(|| (self.target.run)(input)));
        let outcome = catch_unwind(run);
        let bytes = self.meter.map_or(0, |meter| (meter.peak)().saturating_sub(held));
        let finding = |what| Err(Finding { input: input.to_vec(), what, executions: self.executions });
        let mark = match outcome {
            Ok(mark) => mark,
            Err(panic) => return finding(format!("it panicked: {}", text_of(&*panic))),
        };
        let allowed = self.target.base_bytes + BYTES_PER_BYTE * input.len();
        if bytes > allowed {
            return finding(format!("it held {bytes} bytes for an input of {}, {allowed} are allowed", input.len()));
        }
        self.executions += 1;
        self.most_bytes = self.most_bytes.max((bytes, input.len()));
        Ok(mark)
    }

    /// Runs the pool, then changed inputs.
    ///
    /// # Errors
    /// The first input that the target does not survive.
    pub fn run(&mut self, until: Until) -> Result<Report, Finding> {
        let begun = Instant::now();
        // What is made once and kept is not the first input's.
        let meter = self.meter.take();
        if let Some(first) = self.pool.first().cloned() {
            self.run_one(&first)?;
        }
        self.meter = meter;
        for input in self.pool.clone() {
            let mark = self.run_one(&input)?;
            self.seen.insert(mark);
        }
        let (most, time) = match until {
            Until::Time(time) => (u64::MAX, time),
            Until::Executions(most, time) => (most, time),
        };
        while self.executions < most && (!self.executions.is_multiple_of(LOOK_EVERY) || begun.elapsed() < time) {
            let input = self.next();
            let mark = self.run_one(&input)?;
            if self.seen.insert(mark) && self.pool.len() < POOL_MAX {
                self.pool.push(input);
            }
        }
        Ok(Report {
            executions: self.executions,
            seconds: begun.elapsed().as_secs_f64(),
            reached: self.seen.len(),
            most_bytes: self.most_bytes,
        })
    }

    fn next(&mut self) -> Vec<u8> {
        if self.pool.is_empty() {
            self.pool.push(Vec::new());
        }
        let mut pick = || self.random.random_range(0..self.pool.len());
        let (one, other) = (pick(), pick());
        let mut input = self.pool[one].clone();
        mutate(&mut self.random, &mut input, &self.pool[other], INPUT_BYTES_MAX);
        input
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without words")
}
