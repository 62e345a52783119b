//! Submits an array of commands and watches the task: `cargo run --example submit -- HOST:PORT QUEUE`.

use futures::StreamExt;
use moso_client::v1::TaskSpec;
use moso_client::{Client, Command, Submission};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(node), Some(queue)) = (args.next(), args.next()) else {
        return Err("usage: submit HOST:PORT QUEUE".into());
    };
    let client = Client::connect([node]).await?;
    let task = TaskSpec {
        name: "example".into(),
        queue,
        body_type: Command::BODY_TYPE.into(),
        body: Command::new(["echo", "hello"]).encode(),
        ..TaskSpec::default()
    };
    let reply = client.submit(Submission::new(task).array(10)).await?;
    println!("task {}, {} jobs", reply.task_id, reply.jobs);

    let mut views = client.watch_task(reply.task_id);
    while let Some(view) = views.next().await {
        let view = view?;
        let counts = view.counts.iter().map(|c| format!("{} {}", c.jobs, c.state));
        println!("{}: {}", view.state, counts.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
