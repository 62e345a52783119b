//! Runs jobs that are text: prints each body. Ends with Ctrl-C, after the jobs it holds.
//! `cargo run --example worker -- HOST:PORT QUEUE`

use moso_client::{Client, Job, JobOutcome, Worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(node), Some(queue)) = (args.next(), args.next()) else {
        return Err("usage: worker HOST:PORT QUEUE".into());
    };
    let client = Client::connect([node]).await?;
    let worker = Worker::new(&client).queue(queue).slots(4).name("example");
    let handle = worker.handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.drain();
        }
    });
    let report = worker.run(run).await?;
    println!("{report:?}");
    Ok(())
}

async fn run(job: Job) -> JobOutcome {
    match std::str::from_utf8(&job.body) {
        Ok(text) => {
            println!("job {} (attempt {}): {text}", job.id, job.attempt);
            JobOutcome::finished().output(job.body.clone())
        }
        Err(error) => JobOutcome::failed("example", 1, error.to_string()).no_retry(),
    }
}
