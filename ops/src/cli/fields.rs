//! `KEY=VALUE` on the fields of an object, typed by the object's default.

use super::exit::Usage;
use super::input::duration;
use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Sets fields. Lengths of time are taken for fields in ms or s; lists are separated by commas.
pub fn assign<T: Serialize + DeserializeOwned>(object: &T, assignments: &[(String, String)]) -> Result<T> {
    assign_also(object, &[], assignments)
}

/// As [`assign`], for objects with fields that are not written while they are unused: these, with what they then are.
pub fn assign_also<T: Serialize + DeserializeOwned>(
    object: &T,
    unused: &[(&str, Value)],
    assignments: &[(String, String)],
) -> Result<T> {
    let Value::Object(mut fields) = serde_json::to_value(object)? else {
        unreachable!("objects of the cluster are JSON objects");
    };
    for (key, value) in unused {
        fields.entry(*key).or_insert_with(|| value.clone());
    }
    for (key, text) in assignments {
        let value = parse(&fields, key, text).map_err(Usage)?;
        fields.insert(key.clone(), value);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| Usage(error.to_string()).into())
}

fn parse(fields: &Map<String, Value>, key: &str, text: &str) -> Result<Value, String> {
    let bad = |what: &str| format!("{key}={text}: {what}");
    match fields.get(key) {
        None => {
            let known: Vec<_> = fields.keys().map(String::as_str).collect();
            Err(format!("no field is named {key:?}; there are {}", known.join(", ")))
        }
        Some(Value::String(_)) => Ok(text.into()),
        Some(Value::Bool(_)) => text.parse::<bool>().map(Value::from).map_err(|_| bad("write true or false")),
        Some(Value::Array(_)) => {
            let items = text.split(',').filter(|item| !item.is_empty());
            Ok(items.map(Value::from).collect())
        }
        Some(Value::Number(number)) if number.is_f64() => {
            text.parse::<f64>().map(Value::from).map_err(|_| bad("write a number"))
        }
        Some(_) => {
            let number = match (text.parse::<u64>(), duration(text)) {
                (Ok(number), _) => Some(number),
                (_, Ok(time)) if key.ends_with("_ms") => u64::try_from(time.as_millis()).ok(),
                (_, Ok(time)) if key.ends_with("_s") => Some(time.as_secs()),
                _ => None,
            };
            number.map(Value::from).ok_or_else(|| bad("write a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::object::{Queue, QueueState, Share};

    fn set<T: Serialize + DeserializeOwned + Default>(words: &[&str]) -> Result<T> {
        let assignments: Vec<_> = words.iter().map(|word| crate::cli::input::assignment(word).unwrap()).collect();
        assign(&T::default(), &assignments)
    }

    #[test]
    fn fields_are_typed_by_the_object() {
        let queue: Queue =
            set(&["state=paused", "lease_ttl_ms=2m", "max_wall_time_s=1d", "max_running=7", "tags=gpu,big"]).unwrap();
        assert_eq!(queue.state, QueueState::Paused);
        assert_eq!((queue.lease_ttl_ms, queue.max_wall_time_s), (120_000, 86_400));
        assert_eq!((queue.max_running, queue.tags.len()), (7, 2));
        assert_eq!(set::<Share>(&["target=2.5"]).unwrap().target, 2.5);
    }

    #[test]
    fn errors_name_the_field() {
        for (word, part) in [
            ("colour=red", "max_running"),
            ("max_running=many", "max_running=many"),
            ("max_running=10m", "max_running=10m"),
            ("state=closed", "closed"),
        ] {
            let error = set::<Queue>(&[word]).unwrap_err();
            assert!(error.is::<Usage>());
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
