//! The keys of the file, with the range and the unit of each number.

use crate::limits::NODE_MAX;
use toml::{Table, Value};

/// A number's range and unit.
struct Number {
    key: &'static str,
    min: i64,
    max: i64,
    unit: &'static str,
}

const fn number(key: &'static str, min: i64, max: i64, unit: &'static str) -> Number {
    Number { key, min, max, unit }
}

const NUMBERS: &[Number] = &[
    number("node", 1, NODE_MAX as i64, "node number"),
    number("shards", 1, moso_proto::id::SHARD_MAX as i64, "shards"),
    number("replicas", 1, 5, "replicas"),
    number("reactors", 1, 8, "threads"),
    number("api_threads", 1, 256, "threads"),
    number("api_connections", 16, 1_000_000, "connections"),
    number("address_connections", 1, 1_000_000, "connections"),
    number("http_connections", 4, 100_000, "connections"),
    number("api_memory_mib", 32, 1 << 20, "MiB"),
    number("panda_body_s", 1, 90, "s"),
    number("panda_upload_s", 1, 31_536_000, "s"),
    number("raft_tick_ms", 10, 10_000, "ms"),
    number("election_ticks", 2, 1_000, "ticks"),
    number("heartbeat_ticks", 1, 500, "ticks"),
    number("log_segment_mib", 1, 1_024, "MiB"),
    number("state_write_buffer_mib", 1, 256, "MiB"),
    number("state_memory_mib", 8, 1 << 20, "MiB"),
    number("block_cache_mib", 1, 1 << 20, "MiB"),
    number("log_keep_mib", 1, 1 << 20, "MiB"),
    number("snapshot_mib_per_s", 1, 100_000, "MiB/s"),
    number("reserve_mib", 1, 1 << 16, "MiB"),
    number("disk_low_mib", 1, 1 << 20, "MiB"),
    number("disk_stuck_ms", 100, 50_000, "ms"),
    number("feature_level_max", 1, moso_proto::level::LEVEL as i64, "level"),
];

const TEXTS: [&str; 12] = [
    "cluster",
    "data",
    "api",
    "peer",
    "http",
    "panda",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "token_keys",
    "token_issuers",
    "session_keys",
];
const SWITCHES: [&str; 3] = ["listen_anywhere", "insecure", "join"];
const MEMBERS: &str = "members";

pub(super) fn is_text(key: &str) -> bool {
    TEXTS.contains(&key)
}

pub(super) fn is_known(key: &str) -> bool {
    key == MEMBERS || SWITCHES.contains(&key) || is_text(key) || NUMBERS.iter().any(|number| number.key == key)
}

/// Adds to `errors` every key that is unknown or whose value is of the wrong type or out of range.
pub(super) fn check(table: &Table, errors: &mut Vec<String>) {
    for (key, value) in table {
        if let Some(number) = NUMBERS.iter().find(|number| number.key == key) {
            let Number { min, max, unit, .. } = number;
            if !value.as_integer().is_some_and(|value| (*min..=*max).contains(&value)) {
                errors.push(format!("{key} = {value}: must be a whole number from {min} to {max} ({unit})"));
            }
        } else if is_text(key) {
            if !value.is_str() {
                errors.push(format!("{key} = {value}: must be a text in quotes"));
            }
        } else if SWITCHES.contains(&key.as_str()) {
            if !value.is_bool() {
                errors.push(format!("{key} = {value}: must be true or false"));
            }
        } else if key != MEMBERS {
            errors.push(unknown(key));
        } else if let Value::Array(members) = value {
            members.iter().enumerate().for_each(|(place, member)| check_member(place + 1, member, errors));
        } else {
            errors.push("members: must be given as [[members]] tables".to_owned());
        }
    }
}

fn check_member(place: usize, member: &Value, errors: &mut Vec<String>) {
    let Value::Table(member) = member else {
        errors.push("members: must be given as [[members]] tables".to_owned());
        return;
    };
    for key in ["node", "api", "peer", "http"] {
        if !member.contains_key(key) {
            errors.push(format!("members, number {place}: {key} is missing"));
        }
    }
    for (key, value) in member {
        match key.as_str() {
            "node" if value.as_integer().is_some_and(|node| (1..=i64::from(NODE_MAX)).contains(&node)) => {}
            "node" => errors.push(format!(
                "members, number {place}: node = {value}: must be a whole number from 1 to {NODE_MAX} (node number)"
            )),
            "api" | "peer" | "http" | "zone" if value.is_str() => {}
            "api" | "peer" | "http" | "zone" => {
                errors.push(format!("members, number {place}: {key} = {value}: must be a text in quotes"));
            }
            _ => errors
                .push(format!("members, number {place}: {key}: unknown key; known are node, api, peer, http, zone")),
        }
    }
}

/// What to say about an unknown key: perhaps only its unit is wrong.
pub(super) fn unknown(key: &str) -> String {
    let stem = |key: &str| key.rsplit_once('_').map_or_else(|| key.to_owned(), |(stem, _)| stem.to_owned());
    let same = |number: &&Number| stem(number.key) == stem(key) || stem(number.key) == key;
    match NUMBERS.iter().find(same) {
        Some(number) => format!("{key}: unknown key; {} is given in {}", number.key, number.unit),
        None => {
            let numbers = NUMBERS.iter().map(|number| number.key);
            let known: Vec<_> = TEXTS.into_iter().chain(SWITCHES).chain([MEMBERS]).chain(numbers).collect();
            format!("{key}: unknown key; known are {}", known.join(", "))
        }
    }
}
