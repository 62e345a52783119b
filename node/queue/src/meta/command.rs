//! Commands of the meta group's log: one version byte, then postcard. Fields are only ever added with a new version.

use super::{AuditWord, MetaError};
use moso_proto::object::{Node, ShardTable};
use serde::{Deserialize, Serialize};

/// Format written by this program.
const VERSION: u8 = 1;

/// One change, as it stands in the log. Everything is checked by `apply`, not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// Creates or replaces an object.
    Put {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// JSON of the typed object; unknown fields are refused.
        json: String,
        /// Version that must be current; 0: the object must not exist; `None`: any.
        expected_version: Option<u64>,
        /// Who asks.
        author: String,
    },
    /// Deletes an object; its history stays.
    Delete {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Version that must be current; `None`: any.
        expected_version: Option<u64>,
        /// Who asks.
        author: String,
    },
    /// Makes the cluster. Proposed by the first leader; nothing happens if it was done before.
    Bootstrap {
        /// Name of the cluster.
        cluster: String,
        /// Nodes by number, numbers rising.
        nodes: Vec<(u32, Node)>,
        /// Where the shards are.
        shards: ShardTable,
    },
    /// Changes an object as its operator asks, and writes down that he did, or tried.
    Change {
        /// Who, what, on what.
        word: AuditWord,
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// JSON of the typed object; `None`: it is deleted.
        json: Option<String>,
        /// As of `Put` and `Delete`.
        expected_version: Option<u64>,
    },
    /// Writes down what was done, or tried, elsewhere.
    Audit {
        /// In this order.
        words: Vec<AuditWord>,
    },
}

impl MetaCommand {
    /// Bytes for the log.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION])
            .expect("a command of strings and numbers always encodes into a growing buffer")
    }

    /// Reads a command from the log.
    ///
    /// # Errors
    /// [`MetaError::Command`] if a newer program wrote it or the bytes are damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let error = |text: String| MetaError::Command(text);
        let (&version, rest) = bytes.split_first().ok_or_else(|| error("it is empty".to_owned()))?;
        if version != VERSION {
            return Err(error(format!("version {version}, this program knows {VERSION}")));
        }
        let (command, rest) = postcard::take_from_bytes(rest).map_err(|e| error(e.to_string()))?;
        if !rest.is_empty() {
            return Err(error(format!("{} bytes follow it", rest.len())));
        }
        Ok(command)
    }
}
