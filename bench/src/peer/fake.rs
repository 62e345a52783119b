//! A server in memory, and tests of the loops against it.

use super::{Leased, Peer, Submitter, Worker, drive};
use crate::args::{Cli, Command, Common, Peer as Asked};
use crate::report::{PeerServer, Report};
use anyhow::{Result, bail};
use bytes::Bytes;
use clap::Parser;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the server does wrong, once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// Acknowledges a job and forgets it.
    Drop,
    /// Hands a job out twice and takes both results.
    Double,
    /// Hands a job out twice and refuses the second result.
    Stale,
    /// Takes a result and keeps the job.
    Keep,
    /// Refuses a submission.
    Refuse,
}

#[derive(Default)]
struct State {
    queues: Vec<VecDeque<Bytes>>,
    fault: Fault,
    kept: u64,
    leases: u64,
    removed: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn new(queues: usize, fault: Fault) -> Fake {
        let queues = vec![VecDeque::new(); queues];
        Fake(Arc::new(Mutex::new(State { queues, fault, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }
}

impl State {
    /// Whether this fault is due now. It comes once.
    fn strikes(&mut self, fault: Fault) -> bool {
        let due = self.fault == fault;
        if due {
            self.fault = Fault::None;
        }
        due
    }
}

struct Line {
    fake: Fake,
    queue: usize,
}

impl Peer for Fake {
    type Submitter = Line;
    type Worker = Line;

    fn about(&self) -> PeerServer {
        PeerServer { kind: "fake".to_owned(), version: "1".to_owned(), ..PeerServer::default() }
    }

    async fn submitter(&self) -> Result<Line> {
        Ok(Line { fake: self.clone(), queue: 0 })
    }

    async fn worker(&self, _: u32, queue: u32) -> Result<Line> {
        Ok(Line { fake: self.clone(), queue: queue as usize })
    }

    async fn left(&self) -> Result<u64> {
        let state = self.lock();
        Ok(state.kept + state.queues.iter().map(|queue| queue.len() as u64).sum::<u64>())
    }

    async fn remove(&self) -> Result<()> {
        self.lock().removed = true;
        Ok(())
    }
}

impl Submitter for Line {
    async fn submit(&mut self, queue: u32, bodies: &[Bytes]) -> Result<()> {
        let mut state = self.fake.lock();
        if state.strikes(Fault::Refuse) {
            bail!("no more today");
        }
        let dropped = usize::from(state.strikes(Fault::Drop));
        state.queues[queue as usize].extend(bodies.iter().skip(dropped).cloned());
        Ok(())
    }
}

impl Worker for Line {
    type Receipt = bool;

    async fn lease(&mut self, max: u32) -> Result<Vec<Leased<bool>>> {
        let leased = {
            let mut state = self.fake.lock();
            let queue = &mut state.queues[self.queue];
            let taken = queue.len().min(max as usize);
            let bodies: Vec<Bytes> = queue.drain(..taken).collect();
            let mut leased: Vec<_> = bodies.into_iter().map(|body| Leased { body, receipt: true }).collect();
            if let Some(first) = leased.first() {
                let body = first.body.clone();
                if state.strikes(Fault::Double) {
                    leased.push(Leased { body, receipt: true });
                } else if state.strikes(Fault::Stale) {
                    leased.push(Leased { body, receipt: false });
                } else if state.strikes(Fault::Keep) {
                    state.kept += 1;
                }
            }
            state.leases += leased.len() as u64;
            leased
        };
        if leased.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(leased)
    }

    async fn finish(&mut self, jobs: Vec<bool>) -> Result<Vec<bool>> {
        Ok(jobs)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn parse(args: &str) -> (Common, Asked) {
    let words = ["moso-bench", "peer", "--kind", "postgres", "--url", "none"].into_iter();
    let words = words.chain(args.split_whitespace());
    match Cli::try_parse_from(words).expect("a valid command line") {
        Cli { common, command: Command::Peer(peer) } => (common, peer),
        other => panic!("{other:?}"),
    }
}

const SMALL: &str = "--jobs 3001 --batch 20 --body 100 --queues 3 --submitters 4 --workers 5 --patience 1s";

async fn run(args: &str, fault: Fault) -> (Result<Report>, Fake) {
    let (common, asked) = parse(args);
    let fake = Fake::new(3, fault);
    let outcome = drive::lifecycle(&common, &asked.load, &fake).await;
    (outcome.map(|outcome| outcome.report), fake)
}

/// The report of a run without warm-up.
async fn report(fault: Fault) -> Report {
    run(&format!("{SMALL} --warmup 0"), fault).await.0.expect("the fake answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_ends_once() {
    for (args, leases) in [("", 3_301), ("--phases --warmup 0", 3_001)] {
        let (report, fake) = run(&format!("{SMALL} {args}"), Fault::None).await;
        let report = report.expect("the fake answers");
        assert!(report.ok, "{}", report.text());
        assert_eq!((report.jobs, report.ended, report.latency_ms.len()), (3_001, 3_001, 4));
        assert_eq!(report.phases.drain_per_s.is_some(), args.contains("phases"));
        assert!(report.jobs_per_s.is_some_and(|rate| rate > 0.0));
        assert_eq!(fake.lock().leases, leases);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_a_call_too() {
    let report = run(&SMALL.replace("--batch 20", "--batch 1"), Fault::None).await.0.expect("the fake answers");
    assert!(report.ok, "{}", report.text());
    assert_eq!(report.latency_ms.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_job_is_lost() {
    let report = report(Fault::Drop).await;
    assert_eq!((report.lost, report.doubled, report.ended, report.ok), (1, 0, 3_000, false), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_with_two_accepted_ends_is_doubled() {
    let report = report(Fault::Double).await;
    assert_eq!((report.lost, report.doubled, report.ended, report.ok), (0, 1, 3_001, false), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_second_end_is_as_it_should_be() {
    let report = report(Fault::Stale).await;
    assert_eq!((report.doubled, report.stale_refused, report.ok), (0, 1, true), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ended_and_is_still_there_is_a_problem() {
    let report = report(Fault::Keep).await;
    assert_eq!((report.lost, report.doubled, report.ok), (0, 0, false), "{}", report.text());
    assert_eq!(report.problems, ["1 jobs are still on the server"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_the_warm_up_and_a_refusal_end_the_run() {
    for (fault, text) in [(Fault::Double, "1 jobs ended twice"), (Fault::Refuse, "submission: no more today")] {
        let error = run(SMALL, fault).await.0.err().map(|error| format!("{error:#}"));
        assert!(error.as_ref().is_some_and(|error| error.contains(text)), "{error:?}");
    }
}

#[tokio::test]
async fn every_queue_needs_a_worker() {
    let error =
        run(&SMALL.replace("--workers 5", "--workers 2"), Fault::None).await.0.expect_err("three queues").to_string();
    assert!(error.contains("--workers 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_writes_the_report_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("report.json");
    for (fault, ok) in [(Fault::None, true), (Fault::Drop, false), (Fault::Double, false)] {
        let (common, asked) = parse(&format!("{SMALL} --warmup 0 --json {}", json.display()));
        let fake = Fake::new(3, fault);
        let done = drive::command(&common, &asked, fake.clone()).await;
        assert_eq!(done.expect("the fake answers"), ok, "{fault:?}");
        assert!(fake.lock().removed);
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
        assert_eq!((&report["command"], &report["ok"]), (&"peer".into(), &ok.into()));
        assert_eq!((&report["batch"], &report["body_bytes"]), (&20.into(), &100.into()));
        assert_eq!(report["peer"]["kind"], "fake");
        for absent in ["nodes", "server", "states", "sites", "kills"] {
            assert!(report.get(absent).is_none(), "{absent}");
        }
    }
}

#[cfg(not(feature = "peers"))]
#[tokio::test]
async fn without_the_clients_it_says_how_to_build_them() {
    let words = ["moso-bench", "peer", "--kind", "redis", "--url", "redis://127.0.0.1"];
    let cli = Cli::try_parse_from(words).expect("the command exists");
    let Command::Peer(asked) = &cli.command else { panic!("{cli:?}") };
    let error = super::command(&cli.common, asked).await.expect_err("not built in").to_string();
    assert!(error.contains("cargo build --release -p moso-bench --features peers"), "{error}");
}
