//! RabbitMQ: a quorum queue per queue, publisher confirms, a prefetch of one batch, manual acknowledgements. An
//! acknowledgement of a consumer is not answered: it is over when it is written, and what the server has afterwards
//! is counted at the end.

use super::{Leased, Peer, Submitter, Worker};
use crate::args::Peer as Asked;
use crate::report::PeerServer;
use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ErrorKind};
use std::time::{Duration, Instant};

/// Persistent.
const DELIVERY_MODE: u8 = 2;
/// A batch that is not full waits so long for more: messages are pushed one by one.
const LINGER: Duration = Duration::from_millis(2);
/// The queues' counters follow within this time.
const SETTLE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The server.
pub struct Rabbitmq {
    url: String,
    connection: Connection,
    queues: u32,
    prefetch: u16,
    about: PeerServer,
}

fn name(queue: u32) -> lapin::types::ShortString {
    format!("moso_bench.{queue}").into()
}

impl Rabbitmq {
    /// Reaches the server and makes the queues.
    ///
    /// # Errors
    /// When the server is not reached or refuses, or the queues exist.
    pub async fn open(asked: &Asked) -> Result<Rabbitmq> {
        let connection = connect(&asked.url).await?;
        let mut about = PeerServer { kind: "rabbitmq".to_owned(), ..PeerServer::default() };
        about.settings.insert("queue type".to_owned(), "quorum".to_owned());
        about.settings.insert("replicas".to_owned(), asked.replicas.to_string());
        let prefetch = asked.load.batch as u16;
        let rabbitmq = Rabbitmq { url: asked.url.clone(), connection, queues: asked.load.queues, prefetch, about };
        if asked.replace {
            rabbitmq.remove().await?;
        }
        for queue in 0..rabbitmq.queues {
            rabbitmq.make(queue, asked.replicas).await?;
        }
        Ok(rabbitmq)
    }

    async fn make(&self, queue: u32, replicas: u8) -> Result<()> {
        let name = name(queue);
        if self.count(queue).await.is_ok() {
            bail!("queue {name} exists: another run is going on, or one was killed; --replace deletes the queues");
        }
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
        arguments.insert("x-quorum-initial-group-size".into(), i32::from(replicas).into());
        let channel = self.channel().await?;
        let made = channel.queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments).await;
        made.with_context(|| format!("queue {name}"))?;
        Ok(())
    }

    /// Messages that are ready in a queue. A channel of its own: a question for a queue that is not there closes it.
    async fn count(&self, queue: u32) -> Result<u64> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions::durable().passive();
        let queue = channel.queue_declare(name(queue), passive, FieldTable::default()).await?;
        Ok(queue.message_count().into())
    }

    async fn channel(&self) -> Result<Channel> {
        self.connection.create_channel().await.context("channel")
    }
}

async fn connect(url: &str) -> Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name("moso-bench".into());
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, Connection::connect(url, properties)).await;
    let connection = connection.context("the server does not answer at the host and port of --url")?;
    connection.map_err(|error| {
        let advice = advice(error.kind());
        anyhow!(error).context(advice)
    })
}

fn advice(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            "the server refuses the user or password of --url (the user guest may only come over loopback)"
        }
        ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
            "the virtual host of --url is not there, or not for this user"
        }
        ErrorKind::IOError(_) => "the server was not reached: is it running at the host and port of --url?",
        _ => "the server refuses the connection; --url: amqp://USER:PASSWORD@HOST:PORT[/VHOST]",
    }
}

impl Peer for Rabbitmq {
    type Submitter = Submissions;
    type Worker = Jobs;

    fn about(&self) -> PeerServer {
        self.about.clone()
    }

    async fn submitter(&self) -> Result<Submissions> {
        let connection = connect(&self.url).await?;
        let channel = connection.create_channel().await.context("channel")?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.context("publisher confirms")?;
        Ok(Submissions { _connection: connection, channel })
    }

    async fn worker(&self, index: u32, queue: u32) -> Result<Jobs> {
        let connection = connect(&self.url).await?;
        let channel = connection.create_channel().await.context("channel")?;
        channel.basic_qos(self.prefetch, BasicQosOptions::default()).await.context("prefetch")?;
        let tag = format!("bench-{index}").into();
        let consumer =
            channel.basic_consume(name(queue), tag, BasicConsumeOptions::default(), FieldTable::default()).await;
        Ok(Jobs { connection, channel, consumer: consumer.context("consumer")? })
    }

    async fn left(&self) -> Result<u64> {
        let since = Instant::now();
        loop {
            let mut left = 0;
            for queue in 0..self.queues {
                left += self.count(queue).await?;
            }
            if left == 0 || since.elapsed() > SETTLE {
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn remove(&self) -> Result<()> {
        let channel = self.channel().await?;
        for queue in 0..self.queues {
            // A queue that is not there is no error.
            channel.queue_delete(name(queue), QueueDeleteOptions::default()).await.context("delete queue")?;
        }
        Ok(())
    }
}

/// A submitter's connection.
pub struct Submissions {
    _connection: Connection,
    channel: Channel,
}

impl Submitter for Submissions {
    async fn submit(&mut self, queue: u32, bodies: &[Bytes]) -> Result<()> {
        let name = name(queue);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish = |body| {
            let properties = BasicProperties::default().with_delivery_mode(DELIVERY_MODE);
            self.channel.basic_publish("".into(), name.clone(), options, body, properties)
        };
        // All at once, so that they leave in few writes.
        let confirms = try_join_all(bodies.iter().map(|body| publish(body))).await.context("publish")?;
        for confirm in confirms {
            let confirmation = confirm.await.context("publisher confirm")?;
            ensure!(confirmation.is_ack(), "the server refuses a message");
            ensure!(confirmation.take_message().is_none(), "queue {name} is gone");
        }
        Ok(())
    }
}

/// A worker's connection.
pub struct Jobs {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

impl Worker for Jobs {
    type Receipt = u64;

    async fn lease(&mut self, max: u32) -> Result<Vec<Leased<u64>>> {
        let mut jobs = Vec::with_capacity(max as usize);
        let first = self.consumer.next().await.context("the server ended the consumer")?;
        let mut push = |delivery: lapin::message::Delivery| {
            jobs.push(Leased { body: delivery.data.into(), receipt: delivery.delivery_tag });
            jobs.len() >= max as usize
        };
        let mut full = push(first.context("delivery")?);
        let mut linger = std::pin::pin!(tokio::time::sleep(LINGER));
        while !full {
            let delivery = match self.consumer.next().now_or_never() {
                Some(delivery) => delivery,
                None => tokio::select! {
                    delivery = self.consumer.next() => delivery,
                    () = &mut linger => break,
                },
            };
            full = push(delivery.context("the server ended the consumer")?.context("delivery")?);
        }
        Ok(jobs)
    }

    async fn finish(&mut self, jobs: Vec<u64>) -> Result<Vec<bool>> {
        // All jobs of a lease, and tags rise: the last stands for all.
        let last = jobs.iter().copied().max().context("nothing to finish")?;
        let options = BasicAckOptions { multiple: jobs.len() > 1 };
        self.channel.basic_ack(last, options).await.context("acknowledgement")?;
        Ok(vec![true; jobs.len()])
    }

    async fn close(self) -> Result<()> {
        self.connection.close(200, "done".into()).await.context("close")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_refused_connection_says_what_to_do() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(advice(&ErrorKind::IOError(Arc::new(refused))).contains("is it running"));
        let protocol = |error| ErrorKind::ProtocolError(lapin::protocol::AMQPError::new(error, "no".into()));
        assert!(advice(&protocol(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))).contains("user or password"));
        assert!(advice(&protocol(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))).contains("virtual host"));
    }
}
