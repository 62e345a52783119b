//! What the front keeps: JSON objects of the meta group, read at its leader and changed by compare-and-swap.

use super::Front;
use crate::query::MetaQueryCall;
use crate::request::Fault;
use moso_proto::Code;
use moso_queue::meta::{MetaCommand, Object};
use serde_json::{Map, Value};

/// Times that a change is tried while others change the same object.
const TRIES: usize = 20;
/// Bytes of a name: what the meta group takes.
const NAME_BYTES_MAX: usize = moso_queue::meta::limits::NAME_BYTES_MAX;

/// An object and its version; 0: there is none.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Its fields.
    pub map: Map<String, Value>,
    /// Version.
    pub version: u64,
    /// When it was changed, Unix ms.
    pub time_ms: u64,
}

fn kept(object: Object) -> Result<Kept, Fault> {
    let damaged = |e| Fault::new(Code::Internal, format!("{} {:?} is not JSON: {e}", object.kind, object.name));
    let map = serde_json::from_str(&object.json).map_err(damaged)?;
    Ok(Kept { map, version: object.version, time_ms: object.time_ms })
}

impl Front {
    /// The object of this kind and name.
    pub async fn object(&self, kind: &str, name: &str) -> Result<Option<Kept>, Fault> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Ok(None);
        }
        let found = self.router.meta_query(&MetaQueryCall::Get { kind: kind.into(), name: name.into() }).await?;
        found.into_iter().find(|object| !object.json.is_empty()).map(kept).transpose()
    }

    /// All objects of a kind, by name.
    pub async fn objects(&self, kind: &str) -> Result<Vec<(String, Kept)>, Fault> {
        let found = self.router.meta_query(&MetaQueryCall::List { kind: kind.into() }).await?;
        found.into_iter().map(|object| Ok((object.name.clone(), kept(object)?))).collect()
    }

    /// Makes or replaces an object. `expected`: version that must be current, 0: it must not exist.
    pub async fn put(
        &self,
        kind: &str,
        name: &str,
        map: &Map<String, Value>,
        expected: Option<u64>,
        author: &str,
    ) -> Result<(), Fault> {
        let json = serde_json::to_string(map).expect("texts, numbers and lists are JSON");
        let author = moso_queue::codec::cut(author, moso_queue::meta::limits::AUTHOR_BYTES_MAX).to_owned();
        let command =
            MetaCommand::Put { kind: kind.into(), name: name.into(), json, expected_version: expected, author };
        self.router.meta_command(command.encode().into()).await.map(drop)
    }

    /// Changes an object, or makes it; `change` may be called again with what another one made of it meanwhile.
    pub async fn change<T>(
        &self,
        kind: &str,
        name: &str,
        author: &str,
        mut change: impl FnMut(&mut Map<String, Value>) -> T,
    ) -> Result<T, Fault> {
        let mut tries = 0;
        loop {
            let Kept { mut map, version, .. } = self.object(kind, name).await?.unwrap_or_default();
            let made = change(&mut map);
            match self.put(kind, name, &map, Some(version), author).await {
                Ok(()) => return Ok(made),
                Err(fault) if fault.code == Code::VersionMismatch && tries < TRIES => tries += 1,
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Deletes an object, if it is there.
    pub async fn forget(&self, kind: &str, name: &str) -> Result<(), Fault> {
        let (kind, name, author) = (kind.into(), name.into(), "moso".into());
        let command = MetaCommand::Delete { kind, name, expected_version: None, author };
        match self.router.meta_command(command.encode().into()).await {
            Err(fault) if fault.code != Code::NotFound => Err(fault),
            _ => Ok(()),
        }
    }
}
