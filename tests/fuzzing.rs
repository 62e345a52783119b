//! Each fuzz target for a moment, and the inputs of past findings. For longer: `cargo run --release -p moso-tests --bin
//! fuzz`.

#![allow(clippy::unwrap_used)]

use moso_tests::fuzz::engine::{Engine, Meter, Until};
use moso_tests::fuzz::{self, Target};
use peak_alloc::PeakAlloc;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A test is one process, in which nothing else takes memory meanwhile.
fn meter() -> Meter {
    Meter {
        reset: || {
            MEMORY.reset_peak_usage();
            MEMORY.current_usage()
        },
        peak: || MEMORY.peak_usage(),
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// Inputs that were found once, by the file's name.
fn findings(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target.name);
    if !folder.exists() {
        return Vec::new();
    }
    let mut found: Vec<(PathBuf, Vec<u8>)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    found.sort();
    found
}

/// Runs a target with new changes of its inputs.
fn run(name: &str) {
    let target = fuzz::find(name).unwrap();
    let seed = rand::random::<u64>() >> 1;
    let mut engine = Engine::new(target, seed, Some(meter()), |_| {});
    findings(target).into_iter().for_each(|(_, input)| engine.add(input));
    let report = engine.run(Until::Executions(30_000, Duration::from_millis(1_500)));
    let report = report.unwrap_or_else(|finding| {
        let path = std::env::temp_dir().join(format!("moso-fuzz-{name}-{seed:x}"));
        std::fs::write(&path, &finding.input).unwrap();
        panic!("{name}: {}; the input is in {}: {:02x?}", finding.what, path.display(), finding.input)
    });
    println!("{report:?}");
    // Were all inputs refused at once, nothing would be tested.
    assert!(report.executions >= 64 && report.reached >= 3, "{report:?}");
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn each_target_has_a_test() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(fuzz::ALL.map(|target| target.name).as_slice(), tested);
        }
    };
}

targets! {
    peer_stranger peer_stream peer_frame peer_call peer_hints raft_wire raft_step command entry machine_apply record
    machine_load store_value store_key log_segments identity config trace meta_command meta_record api_submit api_worker
    api_select api_message api_call token
}

#[test]
fn past_findings_do_no_harm() {
    let mut inputs = 0;
    for folder in std::fs::read_dir(corpus()).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let target = fuzz::find(&name).unwrap_or_else(|| panic!("{name} is the name of no target"));
        for (path, input) in findings(target) {
            println!("{}", path.display());
            (target.run)(&input);
            inputs += 1;
        }
    }
    assert!(inputs > 0);
}

/// Runs with the same seed and number do the same.
#[test]
fn a_seed_run_twice_does_the_same() {
    let reached = |seed| {
        let target = fuzz::find("command").unwrap();
        let mut inputs = 0u64;
        let mut hash = 0u64;
        let mut engine = Engine::new(target, seed, None, |input| {
            inputs += 1;
            hash = hash.wrapping_mul(31).wrapping_add(u64::from(crc32c::crc32c(input)));
        });
        engine.run(Until::Executions(2_000, Duration::from_secs(60))).unwrap();
        drop(engine);
        (inputs, hash)
    };
    assert_eq!(reached(7), reached(7));
    assert_ne!(reached(7), reached(8));
}

/// The runner sees what it is there for.
#[test]
fn panics_and_memory_are_found() {
    let seeds = || vec![vec![1, 2, 3, 4]];
    let panics = |data: &[u8]| assert!(data.len() < 12, "too long");
    let target = Target { name: "panics", run: panics, seeds, base_bytes: 1 << 20 };
    let found = Engine::new(&target, 1, None, |_| {}).run(Until::Time(Duration::from_secs(60))).unwrap_err();
    assert!(found.what.contains("too long") && found.input.len() >= 12, "{found:?}");
    let takes = |data: &[u8]| drop(std::hint::black_box(vec![1u8; usize::from(data[0]) << 20]));
    let target = Target { name: "takes", run: takes, seeds, base_bytes: 8 << 20 };
    let found = Engine::new(&target, 1, Some(meter()), |_| {}).run(Until::Time(Duration::from_secs(60))).unwrap_err();
    assert!(found.what.contains("held") && found.input[0] > 8, "{found:?}");
}
