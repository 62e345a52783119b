//! Users' secrets. Proxies, tokens and key pairs are not kept.

use super::limits::SECRETS_BYTES_MAX;
use super::reply::{Answer, Done, Refusal};
use super::{Call, Front};
use moso_proto::object::kind;
use serde_json::{Map, Value};

/// What is said of what is not kept.
pub const NOT_KEPT: &str = "proxies, tokens and key pairs are not kept here: give workers their own";
/// Secrets of a user.
const SECRETS_MAX: usize = 100;

fn done() -> Done {
    Done { message: "OK".into(), data: "OK".into() }
}

/// `creds/set_user_secrets`: one secret; without a value it is removed, without a key all are.
pub async fn set_user_secrets(front: &Front, call: &Call) -> Answer {
    let user = call.user()?;
    let key = call.args.opt_text("key")?;
    let value = call.args.opt_text("value")?;
    let Some(key) = key else {
        front.forget(kind::PANDA_SECRETS, &user).await?;
        return Ok(done());
    };
    let set = |map: &mut Map<String, Value>| {
        match value {
            Some(value) => drop(map.insert(key.to_owned(), value.into())),
            None => drop(map.remove(key)),
        }
        let bytes: usize = map.iter().map(|(key, value)| key.len() + value.to_string().len() + 4).sum();
        map.len() <= SECRETS_MAX && bytes <= SECRETS_BYTES_MAX
    };
    // Looked at before it is written: what is too large is not kept.
    let mut kept = front.object(kind::PANDA_SECRETS, &user).await?.unwrap_or_default().map;
    if !set(&mut kept) {
        return Err(Refusal::new(format!(
            "a user has at most {SECRETS_MAX} secrets of {SECRETS_BYTES_MAX} bytes altogether"
        )));
    }
    front.change(kind::PANDA_SECRETS, &user, &user, set).await?;
    Ok(done())
}

/// `creds/get_user_secrets`: a JSON text; `keys`, separated by commas, says which.
pub async fn get_user_secrets(front: &Front, call: &Call) -> Answer {
    let user = call.user()?;
    let keys = call.args.loose_text("keys");
    let mut kept = front.object(kind::PANDA_SECRETS, &user).await?.unwrap_or_default().map;
    if !keys.is_empty() {
        let wanted: Vec<&str> = keys.split(',').map(str::trim).collect();
        kept.retain(|key, _| wanted.contains(&key.as_str()));
    }
    Ok(Done::with(Value::Object(kept).to_string()))
}
