//! The body of jobs that are a command line.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A command line, the body of jobs whose body type is [`Command::BODY_TYPE`]. Encoded as JSON, so that any language
/// can write and read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; not empty. No shell is involved.
    pub argv: Vec<String>,
    /// Environment variables set in addition to the worker's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Folder to run in; `None`: the worker's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// A body that is not a command. Its submitter must correct it.
#[derive(Debug, thiserror::Error)]
#[error("the body is not a command: {0}")]
pub struct BadCommand(String);

impl Command {
    /// The body type that says "this body is a command".
    pub const BODY_TYPE: &'static str = "command";

    /// A command with the worker's environment and folder.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Command { argv: argv.into_iter().map(Into::into).collect(), ..Command::default() }
    }

    /// The body.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings and maps of strings are always JSON").into()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`BadCommand`] when it is not the JSON of a command or names no program.
    pub fn decode(body: &[u8]) -> Result<Self, BadCommand> {
        let command: Command = serde_json::from_slice(body).map_err(|error| BadCommand(error.to_string()))?;
        if command.argv.first().is_none_or(String::is_empty) {
            return Err(BadCommand("argv names no program".into()));
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let mut command = Command::new(["sh", "-c", "echo \"ü\""]);
        command.env.insert("SEED".into(), "7".into());
        command.cwd = Some("/tmp".into());
        assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        let plain = Command::decode(br#"{"argv":["true"]}"#).unwrap();
        assert_eq!(plain, Command::new(["true"]));
    }

    #[test]
    fn refuses_what_is_no_command() {
        for bad in [&b"\xff"[..], b"{}", br#"{"argv":[]}"#, br#"{"argv":[""]}"#] {
            assert!(Command::decode(bad).is_err(), "{bad:?}");
        }
    }
}
