//! What an object may hold: JSON to typed object, names and ranges.

use super::{SHARDS_NAME, TIMEOUTS_NAME, limits};
use moso_proto::object::{Node, ObjectError, Queue, Setting, ShardTable, Share, Timeouts, User, kind};
use moso_proto::{id::SHARD_MAX, setting};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeSet;

type Result<T> = std::result::Result<T, ObjectError>;

/// Checks name and JSON of an object and returns the canonical JSON: all fields, in the order of the type.
///
/// # Errors
/// [`ObjectError`] with a message for the person who asked.
pub(super) fn canonical(object_kind: &str, name: &str, json: &str) -> Result<String> {
    check_name(object_kind, name)?;
    match object_kind {
        kind::QUEUE => typed(object_kind, json, check_queue),
        kind::SHARE => typed(object_kind, json, check_share),
        kind::USER => typed(object_kind, json, |_: &User| Ok(())),
        kind::TIMEOUTS => typed(object_kind, json, check_timeouts),
        kind::SETTING => typed(object_kind, json, |value| check_setting(name, value)),
        kind::NODE => typed(object_kind, json, check_node),
        kind::SHARDS => typed(object_kind, json, check_shards),
        _ if object_kind == kind::PANDA_QUEUE || kind::PANDA.contains(&object_kind) => {
            typed(object_kind, json, |_: &serde_json::Map<String, serde_json::Value>| Ok(()))
        }
        _ => Err(ObjectError::Kind(object_kind.to_owned())),
    }
}

/// The typed object of a JSON text.
pub(super) fn parse<T: DeserializeOwned>(object_kind: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| ObjectError::Json { kind: object_kind.to_owned(), error: e.to_string() })
}

/// The JSON of a typed object.
pub(super) fn to_json(object: &impl Serialize) -> String {
    serde_json::to_string(object).expect("objects are strings, numbers and lists of them")
}

fn typed<T: DeserializeOwned + Serialize>(
    object_kind: &str,
    json: &str,
    check: impl FnOnce(&T) -> Result<()>,
) -> Result<String> {
    let object: T = parse(object_kind, json)?;
    check(&object)?;
    Ok(to_json(&object))
}

fn range(message: impl Into<String>) -> ObjectError {
    ObjectError::Range(message.into())
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(range(message())) }
}

/// The number a node object is named by: decimal, from 1, without leading zeros.
pub(super) fn node_number(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok()?;
    (number > 0 && number.to_string() == name).then_some(number)
}

fn check_name(object_kind: &str, name: &str) -> Result<()> {
    let max = limits::NAME_BYTES_MAX;
    require((1..=max).contains(&name.len()), || format!("a name has 1 to {max} bytes, not {}", name.len()))?;
    // The records' keys rely on names without zero bytes.
    require(!name.chars().any(char::is_control), || "a name has no control characters".to_owned())?;
    match object_kind {
        kind::QUEUE => {
            let good = |c: u8| c.is_ascii_alphanumeric() || b"._:-".contains(&c);
            require(name.bytes().all(good), || {
                format!("queue name {name:?}: only letters, digits and . _ : - are allowed")
            })
        }
        kind::TIMEOUTS => require(name == TIMEOUTS_NAME, || format!("the time-outs are named {TIMEOUTS_NAME:?}")),
        kind::SHARDS => require(name == SHARDS_NAME, || format!("the shard table is named {SHARDS_NAME:?}")),
        kind::SETTING => require(setting::find(name).is_some(), || {
            let names: Vec<_> = setting::ALL.iter().map(|s| s.name).collect();
            format!("no setting is named {name:?}; there are {}", names.join(", "))
        }),
        kind::NODE => require(node_number(name).is_some(), || {
            format!("a node is named by its number from 1 upward, not {name:?}")
        }),
        _ => Ok(()),
    }
}

fn check_queue(queue: &Queue) -> Result<()> {
    use limits::*;
    let ttl = queue.lease_ttl_ms;
    require((LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(&ttl), || {
        format!("lease_ttl_ms is {LEASE_TTL_MS_MIN} to {LEASE_TTL_MS_MAX}, not {ttl}")
    })?;
    let heartbeat = queue.heartbeat_ms;
    require((HEARTBEAT_MS_MIN..=ttl / 2).contains(&heartbeat), || {
        let most = ttl / 2;
        format!("heartbeat_ms is {HEARTBEAT_MS_MIN} to half of lease_ttl_ms ({most}), not {heartbeat}")
    })?;
    require(queue.reason.len() <= REASON_BYTES_MAX, || format!("reason has at most {REASON_BYTES_MAX} bytes"))?;
    require(queue.tags.len() <= TAGS_MAX, || format!("a queue has at most {TAGS_MAX} tags"))?;
    let good = |tag: &String| (1..=TAG_BYTES_MAX).contains(&tag.len());
    require(queue.tags.iter().all(good), || format!("a tag has 1 to {TAG_BYTES_MAX} bytes"))
}

fn check_share(share: &Share) -> Result<()> {
    let max = limits::SHARE_TARGET_MAX;
    // The range test also refuses what is not a number.
    require((0.0..=max).contains(&share.target), || {
        format!("target of a share is a number from 0 to {max}, not {}", share.target)
    })
}

fn check_timeouts(timeouts: &Timeouts) -> Result<()> {
    use limits::*;
    require(timeouts.rows.len() <= TIMEOUT_ROWS_MAX, || {
        format!("at most {TIMEOUT_ROWS_MAX} rows, not {}", timeouts.rows.len())
    })?;
    for (position, row) in timeouts.rows.iter().enumerate() {
        require(row.limit_s <= TIMEOUT_LIMIT_S_MAX, || {
            format!("row {position}: limit_s is at most {TIMEOUT_LIMIT_S_MAX}")
        })?;
        let short = row.label.len() <= NAME_BYTES_MAX && row.queue.len() <= NAME_BYTES_MAX;
        require(short, || format!("row {position}: label and queue have at most {NAME_BYTES_MAX} bytes"))?;
        require(!row.state.is_final(), || format!("row {position}: {} jobs have ended", row.state))?;
    }
    Ok(())
}

fn check_setting(name: &str, value: &Setting) -> Result<()> {
    let Some(schema) = setting::find(name) else {
        return Err(range(format!("no setting is named {name:?}")));
    };
    require((schema.min..=schema.max).contains(&value.value), || {
        format!("{name} is {} to {} {}, not {}", schema.min, schema.max, schema.unit, value.value)
    })
}

/// Checks addresses and zone of a node.
pub(super) fn check_node(node: &Node) -> Result<()> {
    let max = limits::ADDRESS_BYTES_MAX;
    for (field, address) in [("api", &node.api), ("peer", &node.peer), ("http", &node.http)] {
        let port = address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| port.parse::<u16>().ok());
        require(address.len() <= max && port.is_some_and(|p| p > 0), || {
            format!("{field} is host:port of at most {max} bytes")
        })?;
    }
    require(node.zone.len() <= max, || format!("zone has at most {max} bytes"))
}

/// Checks the shape of a shard table; that its nodes exist is the machine's to check.
pub(super) fn check_shards(table: &ShardTable) -> Result<()> {
    let shards = table.replicas.len();
    require((1..=usize::from(SHARD_MAX)).contains(&shards), || {
        format!("a cluster has 1 to {SHARD_MAX} shards, not {shards}")
    })?;
    for (position, replicas) in table.replicas.iter().enumerate() {
        let shard = position + 1;
        let max = limits::REPLICAS_MAX;
        require((1..=max).contains(&replicas.len()), || {
            format!("shard {shard} has {} replicas; 1 to {max} are allowed", replicas.len())
        })?;
        let distinct: BTreeSet<_> = replicas.iter().collect();
        require(distinct.len() == replicas.len(), || format!("shard {shard} names a node twice"))?;
    }
    let shape = |rows: &[Vec<u32>]| rows.iter().map(Vec::len).collect::<Vec<_>>();
    require(table.incarnations.is_empty() || shape(&table.incarnations) == shape(&table.replicas), || {
        "incarnations: one for each replica".to_owned()
    })?;
    let known = |shard: &u16| (1..=shards).contains(&usize::from(*shard));
    require(table.leaving.keys().all(known), || "leaving: there is no such shard".to_owned())?;
    let few = table.leaving.values().all(|replicas| replicas.len() <= limits::REPLICAS_MAX);
    require(few, || format!("leaving: at most {} replicas of a shard", limits::REPLICAS_MAX))?;
    Ok(())
}
