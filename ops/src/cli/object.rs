//! Objects of the cluster as their Rust types: read, changed without losing another's change, listed.

use anyhow::{Context, Result};
use moso_client::{Client, Code, Error};
use moso_proto::v1::Object;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Times that a change is made again on what another has written meanwhile.
const CHANGES_MAX: u32 = 5;

/// The object, or `None` when there is none.
pub async fn find<T: DeserializeOwned>(client: &Client, kind: &str, name: &str) -> Result<Option<(T, u64)>> {
    match client.get_object(kind, name).await {
        // A deleted object's JSON is empty.
        Ok(object) if object.json.is_empty() => Ok(None),
        Ok(object) => Ok(Some((parse(&object)?, object.version))),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// All objects of a kind with their names.
pub async fn list<T: DeserializeOwned>(client: &Client, kind: &str) -> Result<Vec<(String, T)>> {
    let objects = client.list_objects(kind).await?;
    let live = objects.iter().filter(|object| !object.json.is_empty());
    live.map(|object| Ok((object.name.clone(), parse(object)?))).collect()
}

/// Changes an object, or makes it from its default if it may be made. A change by another in between is kept.
pub async fn change<T>(
    client: &Client,
    kind: &str,
    name: &str,
    may_make: bool,
    change: impl Fn(&mut T) -> Result<()>,
) -> Result<T>
where
    T: Serialize + DeserializeOwned + Default,
{
    for tries in 1.. {
        let (mut object, version) = match find(client, kind, name).await? {
            Some(found) => found,
            None if may_make => (T::default(), 0),
            None => return Err(missing(kind, name)),
        };
        change(&mut object)?;
        match client.put_object(kind, name, &object, Some(version)).await {
            Err(error) if error.code() == Some(Code::VersionMismatch) && tries < CHANGES_MAX => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(object),
        }
    }
    unreachable!("the last try returns")
}

/// The error for an object that does not exist.
pub fn missing(kind: &str, name: &str) -> anyhow::Error {
    Error::Refused { code: Code::NotFound, message: format!("no {kind} is named {name:?}") }.into()
}

fn parse<T: DeserializeOwned>(object: &Object) -> Result<T> {
    serde_json::from_str(&object.json)
        .with_context(|| format!("the {} {:?} was written by another version of moso", object.kind, object.name))
}
