//! Runs seeds of the simulator: many, to look for bugs, or one again, to see what happened.

use clap::Parser;
use moso_tests::sim::{self, Case, Coverage};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Simulates shards under faults in virtual time.
#[derive(Parser)]
struct Options {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This one only.
    #[arg(long)]
    seed: Option<u64>,
    /// With another course of chance under the same plan.
    #[arg(long, default_value_t = 0)]
    salt: u64,
    /// Without this of its plan; a failure that was minimised says what.
    #[arg(long, value_delimiter = ',')]
    trim: Vec<String>,
    /// Look for the least of the first failure that still fails.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    minimise: bool,
    /// Print every event.
    #[arg(long)]
    verbose: bool,
    /// Seeds at a time; 0: one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 10)]
    failures: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let (from, to) = match options.seed {
        Some(seed) => (seed, seed + 1),
        None => (options.from, options.from + options.seeds),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { cores } else { options.threads };
    let begin = Instant::now();
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(0));
    let sums: Vec<(Coverage, u64, u64, u64)> = std::thread::scope(|scope| {
        let runners: Vec<_> = (0..threads).map(|_| scope.spawn(|| run(&options, &next, to, &failed))).collect();
        runners.into_iter().map(|runner| runner.join().expect("a runner catches panics of seeds")).collect()
    });
    let mut coverage = Coverage::default();
    let (mut seeds, mut events, mut virtual_ms) = (0, 0, 0);
    for (part, s, e, v) in &sums {
        coverage.add(part);
        (seeds, events, virtual_ms) = (seeds + s, events + e, virtual_ms + v);
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{coverage}");
    println!(
        "{seeds} seeds in {seconds:.1} s: {:.1} seeds/s, {} events and {:.0} s of virtual time per seed",
        seeds as f64 / seconds,
        events / seeds.max(1),
        virtual_ms as f64 / 1e3 / seeds.max(1) as f64
    );
    let failed = failed.into_inner();
    println!("{failed} failures");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(options: &Options, next: &AtomicU64, to: u64, failed: &AtomicU64) -> (Coverage, u64, u64, u64) {
    let mut sum = (Coverage::default(), 0, 0, 0);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= to || failed.load(Ordering::Relaxed) >= options.failures {
            return sum;
        }
        let case = Case { seed, salt: options.salt, trims: options.trim.clone() };
        let outcome = sim::run_case(&case, options.verbose);
        sum.0.add(&outcome.coverage);
        sum.1 += 1;
        sum.2 += outcome.events;
        sum.3 += outcome.virtual_ms;
        if let Some(failure) = outcome.failure {
            let first = failed.fetch_add(1, Ordering::Relaxed) == 0;
            println!("{}", failure.summary());
            if first && options.minimise && !options.verbose {
                let (_, least) = sim::minimise(&case, failure);
                println!("the least of it that still fails:\n{least}");
            } else if options.seed.is_some() {
                println!("{failure}");
            }
        }
    }
}
