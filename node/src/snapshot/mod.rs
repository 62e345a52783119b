//! Copies of a shard's state from its leader to a replica that lacks what was cut off the log.
//!
//! ```text
//! leader                                                    follower
//! Raft wants a snapshot for a replica    sender.rs
//! checkpoint (hard links)
//! OFFER  position, members, files                      ->   folder S-P.I.part; answers how much of each file it has
//! CHUNK  file, offset, up to 1 MiB, at a limited rate  ->   appended                                     receiver.rs
//! DONE   checksum of each file                         ->   verified, synced, renamed to S-P.I, opened, every record read,
//!                                                           the machine loaded, given to the shard's reactor
//! the reactor stages it: Raft's own small message      ->   taken: the log begins anew behind I, the reactor swaps
//! ```
//!
//! A lost connection costs what was under way: the sender offers again and goes on where the files end. The copy takes
//! effect with the log's record that begins it anew, in one write (`open.rs` says how a start finds the folder that
//! counts); a crash before leaves the old state, and the copy is removed.

pub mod receiver;
pub mod sender;
pub mod standby;

#[cfg(test)]
mod tests;

use moso_shard::ConfState;
use serde::{Deserialize, Serialize};

/// Bytes of a chunk: a few of them keep a line full, and none holds up Raft's messages on it for long.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Copies that a node sends, and takes, at a time.
pub const COPIES_MAX: usize = 2;
/// Files of a copy: RocksDB's of some 64 MiB each.
pub const FILES_MAX: usize = 100_000;

/// What a leader offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Of this copy; repeated offers of it have the same.
    pub id: u128,
    /// The replica that it is for.
    pub to: u64,
    /// Up to where the log is applied in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Voters, learners, outgoing voters and next learners there.
    pub members: [Vec<u64>; 4],
    /// Whether the joint state ends by itself.
    pub auto_leave: bool,
    /// Names and bytes.
    pub files: Vec<(String, u64)>,
}

impl Offer {
    /// Its members.
    pub fn conf_state(&self) -> ConfState {
        let [voters, learners, voters_outgoing, learners_next] = self.members.clone();
        let auto_leave = self.auto_leave;
        ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() }
    }

    /// Members for an offer.
    pub fn members(conf: &ConfState) -> [Vec<u64>; 4] {
        [conf.voters.clone(), conf.learners.clone(), conf.voters_outgoing.clone(), conf.learners_next.clone()]
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Whether the files may be made in a folder: names that stay in it, each once, and not too many.
    pub fn is_sound(&self) -> bool {
        let good = |name: &str| {
            (1..=64).contains(&name.len())
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        self.files.len() <= FILES_MAX
            && self.files.iter().all(|(name, _)| good(name))
            && self.files.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && self.files.iter().try_fold(0_u64, |sum, (_, bytes)| sum.checked_add(*bytes)).is_some()
            && self.index > 0
            && self.term > 0
    }
}

/// Head of a chunk; its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHead {
    /// The copy.
    pub id: u128,
    /// The file, by its place in the offer.
    pub file: u32,
    /// Where in it.
    pub at: u64,
}

/// All is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The copy.
    pub id: u128,
    /// crc32c of each file.
    pub checksums: Vec<u32>,
}

#[cfg(test)]
mod offer_tests {
    use super::*;

    #[test]
    fn files_stay_in_their_folder() {
        let offer = |names: &[&str]| Offer {
            id: 1,
            to: 2,
            index: 3,
            term: 1,
            members: Default::default(),
            auto_leave: false,
            files: names.iter().map(|name| ((*name).to_owned(), 1)).collect(),
        };
        assert!(offer(&["000009.sst", "CURRENT", "MANIFEST-000005", "OPTIONS-000007"]).is_sound());
        for bad in ["../x", "a/b", "", ".", "..", ".hidden", "a\0b", "ä"] {
            assert!(!offer(&[bad]).is_sound(), "{bad:?}");
        }
        assert!(!offer(&["a", "a"]).is_sound(), "twice");
        let mut endless = offer(&["a", "b"]);
        endless.files[1].1 = u64::MAX;
        assert!(!endless.is_sound());
    }
}
