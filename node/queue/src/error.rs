//! Errors of the state machine.

use moso_proto::Code;

/// What the machine cannot go on with. Both mean that the replica's data is damaged or of a newer program: the node
/// stops, the operator replaces the replica or upgrades.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A committed command or stored record does not decode.
    #[error("damaged {what} at byte {at}: replace this replica (its other copies are not affected)")]
    Damaged {
        /// What was being read.
        what: &'static str,
        /// Where in it.
        at: usize,
    },
    /// Written by a newer program.
    #[error("{what} has format {found}, this program reads up to {known}: upgrade this node")]
    NewerFormat {
        /// What was being read.
        what: &'static str,
        /// Format found.
        found: u8,
        /// Newest format known.
        known: u8,
    },
}

/// A command that was understood and refused; nothing changed. The caller must act on it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// For people: what was wrong, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal with this text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal { code, message: message.into() }
    }
}
