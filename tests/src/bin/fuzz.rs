//! Feeds every decoder with bytes that nobody wrote, and says which input it does not survive.

use anyhow::{Context, Result, bail};
use clap::Parser;
use moso_tests::fuzz::engine::{Engine, Finding, Meter, Report, Until};
use moso_tests::fuzz::{self, Target};
use peak_alloc::PeakAlloc;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A target that runs longer with one input hangs, or takes more than its input is worth.
const HANGS: Duration = Duration::from_secs(30);

/// Feeds every decoder with bytes that nobody wrote.
#[derive(Parser)]
struct Options {
    /// This target only; may be given several times.
    #[arg(long)]
    target: Vec<String>,
    /// Time for each target, s.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Stop each target after so many executions; runs with the same seed, corpus and number do the same.
    #[arg(long)]
    executions: Option<u64>,
    /// Folder with inputs to begin with, beside the built-in ones: those of a target in a folder of its name.
    #[arg(long, value_name = "DIR")]
    corpus: Option<PathBuf>,
    /// Where the changes of inputs begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run one input, of the one target that is given, and end.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where inputs are written that a target does not survive, and the one under way.
    #[arg(long, value_name = "DIR")]
    findings: Option<PathBuf>,
    /// Write the built-in inputs, in a folder for each target, and end.
    #[arg(long, value_name = "DIR")]
    write_corpus: Option<PathBuf>,
    /// Print the names of the targets, and end.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let targets = chosen(&options.target)?;
    if options.list {
        targets.iter().for_each(|target| println!("{}", target.name));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(dir) = &options.write_corpus {
        return write_corpus(dir, &targets).map(|()| ExitCode::SUCCESS);
    }
    if let Some(file) = &options.input {
        return run_input(file, &targets);
    }
    let findings = options.findings.clone().unwrap_or_else(|| std::env::temp_dir().join("moso-fuzz"));
    fs::create_dir_all(&findings).with_context(|| format!("{} cannot be made", findings.display()))?;
    println!("{:<14} {:>12} {:>10} {:>8} {:>12}", "target", "executions", "per s", "reached", "most bytes");
    let mut failed = false;
    for target in targets {
        match run(target, &options, &findings)? {
            Ok(report) => print_report(target, &report),
            Err(finding) => {
                failed = true;
                tell(target, &finding, &findings)?;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(fuzz::ALL.iter().collect());
    }
    let find = |name: &String| {
        let known = || fuzz::ALL.map(|target| target.name).join(", ");
        fuzz::find(name).with_context(|| format!("there is no target {name:?}; there are {}", known()))
    };
    names.iter().map(find).collect()
}

fn write_corpus(dir: &Path, targets: &[&Target]) -> Result<()> {
    for target in targets {
        let folder = dir.join(target.name);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let path = folder.join(format!("seed-{number:03}"));
            fs::write(&path, seed).with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    Ok(())
}

fn run_input(file: &Path, targets: &[&Target]) -> Result<ExitCode> {
    let [target] = targets else { bail!("--input needs --target with the one target that it is for") };
    let input = fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut engine = Engine::new(target, 0, Some(meter()), |_| {});
    match engine.run_one(&input) {
        Ok(_) => {
            println!("{}: survived {} bytes", target.name, input.len());
            Ok(ExitCode::SUCCESS)
        }
        Err(finding) => {
            println!("{}: {}", target.name, finding.what);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn meter() -> Meter {
    Meter {
        reset: || {
            MEMORY.reset_peak_usage();
            MEMORY.current_usage()
        },
        peak: || MEMORY.peak_usage(),
    }
}

fn run(target: &'static Target, options: &Options, findings: &Path) -> Result<Result<Report, Finding>> {
    let path = findings.join(format!("{}-under-way", target.name));
    let under_way = UnderWay::new(&path)?;
    let mut engine = Engine::new(target, options.seed, Some(meter()), |input| under_way.begin(input));
    if let Some(corpus) = &options.corpus {
        for input in inputs_in(&corpus.join(target.name))? {
            engine.add(input);
        }
    }
    let time = Duration::from_secs(options.seconds);
    let until = match options.executions {
        // Enough time that only the number counts.
        Some(executions) => Until::Executions(executions, Duration::from_secs(86_400)),
        None => Until::Time(time),
    };
    let outcome = std::thread::scope(|scope| {
        let watch = scope.spawn(|| under_way.watch(target));
        let outcome = engine.run(until);
        under_way.end();
        watch.thread().unpark();
        outcome
    });
    drop(engine);
    fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
    Ok(outcome)
}

fn inputs_in(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let read = || -> std::io::Result<Vec<Vec<u8>>> {
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        // The order is part of what makes a run repeatable.
        paths.sort();
        paths.into_iter().map(fs::read).collect()
    };
    read().with_context(|| format!("the inputs in {} cannot be read", folder.display()))
}

fn print_report(target: &Target, report: &Report) {
    let per_s = report.executions as f64 / report.seconds.max(1e-9);
    let (bytes, of) = report.most_bytes;
    println!("{:<14} {:>12} {per_s:>10.0} {:>8} {bytes:>12} for {of}", target.name, report.executions, report.reached);
}

/// Writes the input aside, and says how to run it again.
fn tell(target: &Target, finding: &Finding, findings: &Path) -> Result<()> {
    let path = findings.join(format!("{}-{:08x}", target.name, crc32c::crc32c(&finding.input)));
    fs::write(&path, &finding.input).with_context(|| format!("{} cannot be written", path.display()))?;
    println!("{:<14} found something after {} executions: {}", target.name, finding.executions, finding.what);
    println!(
        "  again: cargo run --release -p moso-tests --bin fuzz -- --target {} --input {}",
        target.name,
        path.display()
    );
    Ok(())
}

/// The input that is being run, kept in a file: what ends the process, as memory that cannot be had, or hangs, leaves it
/// there.
struct UnderWay {
    file: File,
    path: PathBuf,
    since: Mutex<Option<Instant>>,
}

impl UnderWay {
    fn new(path: &Path) -> Result<UnderWay> {
        let file = File::create(path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(UnderWay { file, path: path.to_owned(), since: Mutex::new(Some(Instant::now())) })
    }

    fn begin(&self, input: &[u8]) {
        let written = self.file.set_len(input.len() as u64).and_then(|()| self.file.write_all_at(input, 0));
        written.expect("the folder of findings can be written");
        *self.since.lock().expect("no thread panics while it holds this lock") = Some(Instant::now());
    }

    fn end(&self) {
        *self.since.lock().expect("no thread panics while it holds this lock") = None;
    }

    /// Ends the process if one input takes too long.
    fn watch(&self, target: &Target) {
        loop {
            std::thread::park_timeout(Duration::from_secs(1));
            let Some(since) = *self.since.lock().expect("no thread panics while it holds this lock") else { return };
            if since.elapsed() > HANGS {
                println!("{:<14} runs longer than {} s with {}", target.name, HANGS.as_secs(), self.path.display());
                std::process::exit(1);
            }
        }
    }
}
