//! What can happen at a point of virtual time, and what clients and nodes say to each other.

use super::group::{Copy, Held};
use super::log::Key;
use super::meta::View;
use bytes::Bytes;
use moso_queue::command::Reply;
use moso_queue::ready::Popped;
use moso_shard::core::Beaten;

/// What happens at a point of time.
#[derive(Debug)]
pub enum Event {
    /// A node's reactor runs.
    Reactor {
        /// Node.
        node: usize,
        /// Of the node's process: a restarted one has another.
        incarnation: u32,
        /// When this run was planned: an earlier plan replaced by another is void.
        planned_ms: u64,
    },
    /// A message of Raft arrives.
    Message {
        /// Node.
        to: usize,
        /// Shard.
        shard: u16,
        /// As on the wire.
        bytes: Bytes,
    },
    /// A write of the log with its sync has ended.
    Synced {
        /// Node.
        node: usize,
        /// Of the node's process.
        incarnation: u32,
    },
    /// A flush of a shard's state has ended.
    Flushed {
        /// Node.
        node: usize,
        /// Of the node's process.
        incarnation: u32,
        /// Shard and replica.
        key: Key,
        /// Its folder.
        folder: u64,
        /// Applied index of the newest batch that was flushed.
        upto: u64,
    },
    /// A leader's word how far all replicas are.
    Matched {
        /// Node.
        to: usize,
        /// Shard.
        shard: u16,
        /// Index that every replica has on disk.
        matched: u64,
    },
    /// A copy of a leader's state arrives, as far as it does.
    Copy {
        /// Node.
        to: usize,
        /// Shard.
        shard: u16,
        /// Copy.
        copy: Copy,
    },
    /// A follower's word that it holds a copy.
    Held {
        /// Node.
        to: usize,
        /// Shard.
        shard: u16,
        /// Which.
        held: Held,
    },
    /// A client's request arrives.
    Request {
        /// Node.
        to: usize,
        /// Request.
        request: Request,
    },
    /// A request that was prepared by a thread of the node reaches its reactor.
    Work {
        /// Node.
        node: usize,
        /// Of the node's process.
        incarnation: u32,
        /// Request and what was popped for it.
        work: Work,
    },
    /// An answer arrives at a client.
    Answer {
        /// Client.
        client: usize,
        /// Request.
        request: u64,
        /// Answer.
        answer: Answer,
    },
    /// A client takes its next step.
    Client(usize),
    /// The next fault.
    Fault,
    /// A node crashes.
    Kill(usize),
    /// Perhaps the members of a shard should change.
    Wish,
    /// A replica's data is lost: another should take its place.
    Replace {
        /// Shard.
        shard: u16,
        /// Replica.
        peer: u64,
    },
    /// A leader's word that the members are as they should be.
    Settled {
        /// Shard.
        shard: u16,
        /// Of the wish.
        version: u64,
    },
    /// A node learns what members a shard should have.
    Learn {
        /// Node.
        node: usize,
        /// Shard.
        shard: u16,
        /// What was true when it was sent.
        view: View,
    },
    /// A leader's node reads what members a shard should have.
    Read {
        /// Node.
        node: usize,
        /// Shard.
        shard: u16,
        /// In which it leads.
        term: u64,
    },
    /// A fault ends.
    Mend(Mend),
    /// Faults end for good.
    Calm,
    /// Looks whether all work is done.
    Settle,
}

/// The end of a fault.
#[derive(Debug)]
pub enum Mend {
    /// A crashed node starts.
    Start(usize),
    /// A paused node goes on.
    Resume(usize),
    /// Links of this fault are whole again.
    Links(u64),
    /// A disk is fast again.
    Disk(usize),
    /// A wall clock is right again.
    Wall(usize),
    /// The network loses no more than usual.
    Loss,
}

/// A client's request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Never used twice.
    pub id: u64,
    /// Who asks.
    pub client: usize,
    /// Shard.
    pub shard: u16,
    /// What.
    pub ask: Ask,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// An encoded command.
    Command(Bytes),
    /// Jobs.
    Lease {
        /// Session.
        session: u64,
        /// Worker's name.
        worker: Box<str>,
        /// Lease time.
        ttl_ms: u32,
        /// Queue.
        queue: u32,
        /// Most jobs.
        max: usize,
        /// Most cores of a job; 0: any.
        cores: u32,
        /// The session's request, counted round.
        request: u32,
    },
    /// Heartbeat: job, attempt, phase.
    Beat {
        /// Session.
        session: u64,
        /// Leases held.
        beats: Vec<(u64, u32, u8)>,
        /// Of its requests up to this one the session holds nothing else.
        settled: Option<u32>,
    },
    /// A read that must see all that was acknowledged before.
    Read,
}

/// A request on its way to a reactor.
#[derive(Debug)]
pub struct Work {
    /// Request.
    pub request: Request,
    /// Jobs taken from the ready index for it.
    pub popped: Vec<Popped>,
}

/// A node's answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To a command or lease.
    Reply(Reply),
    /// To a heartbeat.
    Beaten(Beaten),
    /// To a read.
    Read,
    /// Not here; perhaps there. Nothing was done.
    NotLeader(Option<usize>),
    /// Full. Nothing was done.
    Busy,
    /// The leadership was lost: whether it was done is not known.
    Unknown,
    /// The node does not run. Nothing was done.
    Down,
}
