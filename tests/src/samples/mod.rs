//! One of everything that is stored or sent, in the present version of its format, and how it is read. The seeds of the
//! fuzz targets are made of it, and `tests/formats.rs` keeps what each released version wrote.

mod api;
mod calls;
pub(crate) mod files;
pub(crate) mod meta;
pub(crate) mod peers;
mod raft;
mod records;
mod segments;

pub use api::{MESSAGES, Message};
pub use records::{class, commands, submit};
pub use segments::write_folder;

/// The bytes of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `KIND/NAME`; the kind and what stands before the name's first `-` say how it is read.
    pub name: String,
    /// What is stored or sent.
    pub bytes: Vec<u8>,
}

impl Sample {
    /// A sample of this kind and name.
    pub(crate) fn new(kind: &str, name: &str, bytes: impl Into<Vec<u8>>) -> Sample {
        Sample { name: format!("{kind}/{name}"), bytes: bytes.into() }
    }

    /// What stands before the slash.
    pub fn kind(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(kind, _)| kind)
    }
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// For people: every field by name.
    pub text: String,
    /// Encoded anew by this program; absent where nothing is encoded in whole.
    pub bytes: Option<Vec<u8>>,
}

impl Value {
    fn new(value: &impl std::fmt::Debug, bytes: impl Into<Vec<u8>>) -> Value {
        Value { text: format!("{value:#?}\n"), bytes: Some(bytes.into()) }
    }

    fn read_only(value: &impl std::fmt::Debug) -> Value {
        Value { text: format!("{value:#?}\n"), bytes: None }
    }
}

/// All samples, the same each time.
pub fn all() -> Vec<Sample> {
    let parts = [
        records::all(),
        raft::all(),
        segments::all(),
        files::all(),
        peers::all(),
        calls::all(),
        meta::all(),
        api::all(),
    ];
    parts.into_iter().flatten().collect()
}

/// Reads what a sample of this name holds.
///
/// # Errors
/// The reader's own words.
pub fn read(name: &str, bytes: &[u8]) -> Result<Value, String> {
    let (kind, name) = name.split_once('/').ok_or_else(|| format!("{name}: no kind"))?;
    let what = name.split_once('-').map_or(name, |(what, _)| what);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    match kind {
        "command" => records::read_command(bytes).map_err(|e| text(&e)),
        "entry" => records::read_entry(bytes).map_err(|e| text(&e)),
        "record" => records::read_record(what, bytes).map_err(|e| text(&e)),
        "raft" => raft::read(what, bytes).map_err(|e| text(&e)),
        "store" => segments::read_value(what, bytes),
        "log" => segments::read_segment(bytes),
        "file" => files::read(what, bytes),
        "peer" => peers::read(bytes),
        "call" => calls::read(what, bytes),
        "meta" => meta::read(what, bytes),
        "api" => api::read(what, bytes),
        _ => Err(format!("nothing of kind {kind:?} is known")),
    }
}

fn unknown(what: &str) -> String {
    format!("nothing named {what:?} is known")
}
