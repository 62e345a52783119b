//! Users' secrets. Proxies, tokens and key pairs are not kept: who asks for one is told what PanDA says where it has none.

use super::limits::SECRETS_BYTES_MAX;
use super::reply::{Answer, Done, Pairs, Refusal, status};
use super::{Call, Front, NOBODY};
use moso_proto::object::kind;
use moso_queue::codec::cut;
use serde_json::{Map, Value};

/// Bytes of a name that an answer repeats.
const NAMED_BYTES_MAX: usize = 200;
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

/// `creds/get_proxy`, `get_access_token`, `get_key_pair` and `get_token_key`: none is held here.
pub fn get(call: &Call, method: &str) -> Answer {
    let args = &call.args;
    let caller = Some(&*call.caller.user).filter(|user| !user.is_empty()).unwrap_or(NOBODY);
    let named = |name: &str| args.text(name).map(|text| cut(text, NAMED_BYTES_MAX));
    Err(Refusal::new(match method {
        "get_key_pair" => {
            let (public, _) = (named("public_key_name")?, named("private_key_name")?);
            let host = call.base.rsplit('/').next().unwrap_or_default();
            format!("Failed for '{caller}' since {public} is missing on {host}")
        }
        // PanDA's own words, its quote that is never closed too: programs look for them.
        "get_token_key" => format!("Token key is missing for '{}", named("client_name")?),
        "get_access_token" => format!("'token' not found for {}", named("client_name")?),
        _ => {
            let whose = args.opt_text("dn")?.filter(|dn| !dn.is_empty()).unwrap_or(caller);
            format!("'proxy' not found for {}", cut(whose, NAMED_BYTES_MAX))
        }
    }))
}

/// The old calls of the same.
pub fn get_old(call: &Call, method: &str) -> Pairs {
    let (method, code) = match method {
        "getKeyPair" => ("get_key_pair", status::NO_KEY),
        "getTokenKey" => ("get_token_key", status::NO_KEY),
        "get_access_token" => ("get_access_token", status::NO_PROXY),
        _ => ("get_proxy", status::NO_PROXY),
    };
    let said = get(call, method).err().map(|refusal| refusal.message).unwrap_or_default();
    let mut pairs = Pairs::status(code);
    pairs.push("errorDialog", said);
    pairs
}
