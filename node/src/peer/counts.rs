//! What happened on the connections, for metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What happened on all connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// Connections made to other nodes.
    pub connected: u64,
    /// Connections of others let in.
    pub accepted: u64,
    /// Connections closed because the other side is not who it should be, or said nothing in time.
    pub refused: u64,
    /// Connections closed because of bytes that no node sends.
    pub malformed: u64,
    /// Connections closed at once because too many had not said who they are.
    pub turned_away: u64,
    /// Raft messages dropped before they were sent.
    pub messages_dropped: u64,
    /// Calls of others answered with "busy".
    pub calls_refused: u64,
}

macro_rules! counters {
    ($($name:ident),*) => {
        #[derive(Default)]
        pub(super) struct Counters { $($name: AtomicU64),* }

        impl Counters {
            $(pub(super) fn $name(&self) { self.$name.fetch_add(1, Relaxed); })*

            pub(super) fn read(&self) -> PeerCounts {
                PeerCounts { $($name: self.$name.load(Relaxed)),* }
            }
        }
    };
}

counters!(connected, accepted, refused, malformed, turned_away, messages_dropped, calls_refused);
