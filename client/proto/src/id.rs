//! Identifiers. A job or task id is 52 bits: the shard in the top 12, a sequence number in the low 40, so that an id
//! routes without a look-up and survives JSON numbers (below 2^53).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bits of the sequence number in an id.
pub const SEQ_BITS: u32 = 40;
/// Largest sequence number of a shard.
pub const SEQ_MAX: u64 = (1 << SEQ_BITS) - 1;
/// Largest shard number.
pub const SHARD_MAX: u16 = (1 << 12) - 1;

/// Number of a shard: 1..=4095. Zero is the meta group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The meta group: nodes, shard table, queues, shares, settings.
    pub const META: ShardId = ShardId(0);

    /// Joins the shard and a sequence number into an id.
    pub fn id(self, seq: u64) -> u64 {
        debug_assert!(self.0 <= SHARD_MAX && seq <= SEQ_MAX);
        (u64::from(self.0) << SEQ_BITS) | seq
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Joins shard and sequence number.
            pub fn new(shard: ShardId, seq: u64) -> Self {
                Self(shard.id(seq))
            }
            /// The shard that holds it, or `None` if no shard can.
            pub fn shard(self) -> Option<ShardId> {
                let shard = self.0 >> SEQ_BITS;
                (shard >= 1 && shard <= u64::from(SHARD_MAX)).then_some(ShardId(shard as u16))
            }
            /// The sequence number within the shard.
            pub fn seq(self) -> u64 {
                self.0 & SEQ_MAX
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id_type!(
    /// A job.
    JobId
);
id_type!(
    /// A task: jobs that belong together. Task and job ids come from the same sequence of a shard.
    TaskId
);

/// The shard (1..=`shards`) of a submission: FNV-1a of its 16 bytes, so every client and node agrees.
pub fn shard_of_submission(submission: &[u8; 16], shards: u16) -> ShardId {
    debug_assert!(shards > 0);
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in submission {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The low bits of FNV of similar inputs are close: fold the high half in.
    ShardId(((hash ^ (hash >> 32)) % u64::from(shards)) as u16 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_keeps_shard_and_sequence_below_2_53() {
        let id = JobId::new(ShardId(SHARD_MAX), SEQ_MAX);
        assert_eq!((id.shard(), id.seq()), (Some(ShardId(SHARD_MAX)), SEQ_MAX));
        assert!(id.0 < 1 << 53);
        assert_eq!(JobId(17).shard(), None);
        assert_eq!(JobId(u64::MAX).shard(), None);
    }

    #[test]
    fn submissions_spread_over_shards() {
        let mut count = [0u32; 7];
        for i in 0..6_000u128 {
            count[shard_of_submission(&(i << 3).to_be_bytes(), 6).0 as usize] += 1;
        }
        assert_eq!(count[0], 0);
        assert!(count[1..].iter().all(|&n| (800..1200).contains(&n)), "{count:?}");
    }
}
