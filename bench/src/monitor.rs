//! Watches a run: a progress bar, the jobs queued, running and ended over time, and what the nodes use.

use crate::args::Common;
use crate::meter::{Meter, Used};
use crate::picture::Sample;
use crate::run::Run;
use indicatif::{ProgressBar, ProgressStyle};
use moso_client::Client;
use moso_proto::view::Cluster;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Between two samples of the run.
const SAMPLE: Duration = Duration::from_millis(250);
/// Between two readings of the nodes' counters.
const OBSERVE: Duration = Duration::from_secs(1);
/// Samples kept; when there are more, every second one goes.
const SAMPLES_MAX: usize = 4_096;

/// Whose counters can be read.
pub trait Counted: Send + Sync + 'static {
    /// The counters now. `Ok(None)`: it has none.
    fn counters(&self) -> impl Future<Output = moso_client::Result<Option<Cluster>>> + Send;
}

impl Counted for Client {
    async fn counters(&self) -> moso_client::Result<Option<Cluster>> {
        self.cluster().await.map(Some)
    }
}

/// Watches a run until [`finish`](Self::finish).
pub struct Monitor<C = Client> {
    run: Arc<Run<C>>,
    meter: Arc<Mutex<Meter>>,
    samples: Arc<Mutex<Vec<Sample>>>,
    bar: ProgressBar,
    watchers: Vec<JoinHandle<()>>,
    cpu_us: u64,
    started: Instant,
    settle: Duration,
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// Length of the run, s.
    pub seconds: f64,
    /// What all nodes used; `None` if no counters could be read.
    pub used: Option<Used>,
    /// Most resident memory of all nodes, bytes.
    pub rss_peak_bytes: u64,
    /// CPU time of the generator, µs.
    pub generator_cpu_us: u64,
    /// Jobs over time.
    pub samples: Vec<Sample>,
}

impl<C: Counted> Monitor<C> {
    /// Begins. `jobs`: how many are to end, for the bar.
    pub async fn start(common: &Common, run: &Arc<Run<C>>, title: &str, jobs: u64) -> Self {
        let style =
            ProgressStyle::with_template("{prefix:>10} {wide_bar} {pos}/{len} ended, {msg} {per_sec} {elapsed}");
        let bar = ProgressBar::new(jobs).with_prefix(title.to_owned());
        bar.set_style(style.expect("the template is well formed"));
        let mut monitor = Self {
            run: run.clone(),
            meter: Arc::default(),
            samples: Arc::default(),
            bar,
            watchers: Vec::new(),
            cpu_us: 0,
            started: Instant::now(),
            settle: common.settle,
        };
        monitor.settle().await;
        monitor.cpu_us = own_cpu_us();
        monitor.started = Instant::now();
        let sampler = monitor.sampler();
        monitor.watchers.push(tokio::spawn(sampler));
        let observer = monitor.observer();
        monitor.watchers.push(tokio::spawn(observer));
        monitor
    }

    /// The counters as they stand after the nodes have told each other.
    pub async fn settle(&self) -> Used {
        tokio::time::sleep(self.settle).await;
        self.observe().await;
        lock(&self.meter).used()
    }

    /// Reads a figure of the nodes.
    pub fn read<T>(&self, figure: impl FnOnce(&Meter) -> T) -> T {
        figure(&lock(&self.meter))
    }

    /// A line above the bar.
    pub fn say(&self, line: impl AsRef<str>) {
        say(&self.bar, line.as_ref());
    }

    /// Something that can say lines while the monitor is away.
    pub fn voice(&self) -> impl Fn(String) + Send + 'static {
        let bar = self.bar.clone();
        move |line| say(&bar, &line)
    }

    /// Ends the watch.
    pub async fn finish(self) -> Seen {
        let seconds = self.started.elapsed().as_secs_f64();
        let generator_cpu_us = own_cpu_us().saturating_sub(self.cpu_us);
        self.watchers.iter().for_each(JoinHandle::abort);
        lock(&self.samples).push(sample(&self.run, self.started));
        let used = self.settle().await;
        self.bar.finish_and_clear();
        let meter = lock(&self.meter);
        Seen {
            seconds,
            used: (meter.nodes() > 0).then_some(used),
            rss_peak_bytes: meter.rss_peak_bytes(),
            generator_cpu_us,
            samples: std::mem::take(&mut lock(&self.samples)),
        }
    }

    async fn observe(&self) {
        match self.run.client.counters().await {
            Ok(Some(cluster)) => lock(&self.meter).observe(&cluster),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the nodes' counters cannot be read"),
        }
    }

    fn sampler(&self) -> impl Future<Output = ()> + Send + use<C> + 'static {
        let (run, samples) = (self.run.clone(), self.samples.clone());
        let (bar, started) = (self.bar.clone(), self.started);
        async move {
            let (mut ticks, mut stride) = (0u64, 1u64);
            loop {
                let now = sample(&run, started);
                bar.set_position(now.ended);
                bar.set_message(format!("{} queued, {} running,", now.queued, now.running));
                if ticks.is_multiple_of(stride) {
                    let mut samples = lock(&samples);
                    samples.push(now);
                    if samples.len() >= SAMPLES_MAX {
                        let mut position = 0;
                        samples.retain(|_| {
                            position += 1;
                            position % 2 == 1
                        });
                        stride *= 2;
                    }
                }
                ticks += 1;
                tokio::time::sleep(SAMPLE).await;
            }
        }
    }

    fn observer(&self) -> impl Future<Output = ()> + Send + use<C> + 'static {
        let (run, meter) = (self.run.clone(), self.meter.clone());
        async move {
            loop {
                tokio::time::sleep(OBSERVE).await;
                // While a node is away the next reading makes up for this one.
                if let Ok(Some(cluster)) = run.client.counters().await {
                    lock(&meter).observe(&cluster);
                }
            }
        }
    }
}

impl<C> Drop for Monitor<C> {
    fn drop(&mut self) {
        self.watchers.iter().for_each(JoinHandle::abort);
    }
}

fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

fn sample<C>(run: &Run<C>, started: Instant) -> Sample {
    let (submitted, ended, running) = (run.books.submitted_count(), run.books.ended_count(), run.running());
    Sample {
        seconds: started.elapsed().as_secs_f64(),
        // Reports on the way are neither running nor ended: they count as queued for a moment.
        queued: submitted.saturating_sub(ended + running),
        running,
        ended,
    }
}

/// CPU time of this process, µs.
fn own_cpu_us() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| {
        let used = usage.user_time() + usage.system_time();
        used.num_microseconds().unsigned_abs()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
