//! Whose a worker's session is.
//!
//! A session has a number that its worker drew, and who knows the number holds the session's leases: results and
//! heartbeats are taken from it, on any node, without a word between nodes. So that nobody can use the number of somebody
//! else's session, the number with which the shards work is another one: a keyed digest of the user's name and the number
//! he gave. It costs one digest a stream and nothing a job, needs no place in lease, log or store, and what the views show of
//! it is of no use to anybody: to get at a session one would have to find a number whose digest under one's own name it is,
//! without the key. Two workers of one user are kept apart by their own random numbers.
//!
//! All nodes have the same keys, from a file. Each key has a number; the worker is told which one was used and says it when
//! it comes again, so sessions live on while a new key takes over. A key that is removed ends its sessions' leases.

use ring::hmac;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Keys in the file: the new one, the one before, and some to spare.
const KEYS_MAX: usize = 8;
/// Characters of a key: 32 bytes in hexadecimal.
const KEY_HEX: usize = 64;

/// A key's number; 0: none, on a port where nobody is asked who he is.
pub type SessionKey = u32;

/// The keys by number; the highest is the one in use.
#[derive(Debug)]
pub struct SessionKeys {
    keys: BTreeMap<SessionKey, hmac::Key>,
}

/// As the file has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: BTreeMap<SessionKey, String>,
}

/// The session's key is not here (yet).
#[derive(Debug, PartialEq, Eq)]
pub struct KeyMissing;

impl SessionKeys {
    /// Reads `{"keys": {"1": "64 hexadecimal digits"}}`.
    ///
    /// # Errors
    /// For people. Keys are not in it.
    pub fn from_json(json: &[u8]) -> Result<SessionKeys, String> {
        let file: File =
            serde_json::from_slice(json).map_err(|error| format!("line {}: not its JSON", error.line()))?;
        if file.keys.is_empty() || file.keys.len() > KEYS_MAX {
            return Err(format!("there must be 1 to {KEYS_MAX} keys, not {}", file.keys.len()));
        }
        let mut keys = BTreeMap::new();
        for (number, text) in file.keys {
            let bytes = unhex(&text).filter(|_| number > 0);
            let bytes =
                bytes.ok_or_else(|| format!("key {number}: must be {KEY_HEX} hexadecimal digits under 1, 2, …"))?;
            keys.insert(number, hmac::Key::new(hmac::HMAC_SHA256, &bytes));
        }
        Ok(SessionKeys { keys })
    }

    /// The shards' number of a user's session, and the key with which it was made. `used` is the key that the worker was
    /// told; 0: none yet.
    ///
    /// # Errors
    /// `KeyMissing` if this node has not got the key yet.
    pub fn number(&self, user: &str, session: u64, used: SessionKey) -> Result<(u64, SessionKey), KeyMissing> {
        let (newest, in_use) = self.keys.last_key_value().expect("there is a key");
        let (number, key) = match self.keys.get_key_value(&used) {
            Some((number, key)) => (number, key),
            None if used > *newest => return Err(KeyMissing),
            // A new session, or one whose key was removed.
            None => (newest, in_use),
        };
        let mut context = hmac::Context::with_key(key);
        context.update(b"moso session\0");
        context.update(&session.to_le_bytes());
        context.update(user.as_bytes());
        let tag = context.sign();
        let digest = u64::from_le_bytes(tag.as_ref()[..8].try_into().expect("a digest has 32 bytes"));
        Ok((digest.max(1), *number))
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let good = text.len() == KEY_HEX && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| (0..text.len()).step_by(2).filter_map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: &[u32]) -> SessionKeys {
        let keys: BTreeMap<_, _> = numbers.iter().map(|n| (n.to_string(), format!("{n:064x}"))).collect();
        SessionKeys::from_json(serde_json::json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_session_is_its_users_alone_and_the_same_on_every_node() {
        let (one, other) = (keys(&[1]), keys(&[1]));
        let anna = one.number("anna", 7, 0).unwrap();
        assert_eq!(other.number("anna", 7, 1).unwrap(), anna);
        assert_ne!(one.number("bob", 7, 0).unwrap().0, anna.0);
        assert_ne!(one.number("anna", 8, 0).unwrap().0, anna.0);
        // The number that views show opens nothing.
        assert_ne!(one.number("anna", anna.0, 0).unwrap().0, anna.0);
        assert_ne!(one.number("bob", anna.0, 0).unwrap().0, anna.0);
        assert_ne!(keys(&[2]).number("anna", 7, 0).unwrap().0, anna.0);
    }

    #[test]
    fn sessions_live_on_while_a_new_key_takes_over() {
        let (old, both, new) = (keys(&[1]), keys(&[1, 2]), keys(&[2]));
        let session = old.number("anna", 7, 0).unwrap();
        assert_eq!(session.1, 1);
        assert_eq!(both.number("anna", 7, 1).unwrap(), session);
        let fresh = both.number("anna", 7, 0).unwrap();
        assert_eq!(fresh.1, 2);
        assert_eq!(old.number("anna", 7, 2), Err(KeyMissing), "another node knows it");
        assert_eq!(new.number("anna", 7, 1).unwrap(), fresh, "its key is gone: a new session");
    }

    #[test]
    fn a_bad_file_is_refused_without_telling_the_key() {
        let secret = "f".repeat(63);
        for text in [
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":{"0":"00"}}"#,
            &format!(r#"{{"keys":{{"1":"{secret}"}}}}"#),
            &format!(r#"{{"keys":{{"0":"{secret}f"}}}}"#),
            &format!(r#"{{"keys":{{"1":"{secret}g"}}}}"#),
            &format!(r#"{{"keys":{{"1":"{secret}f","x":1}}}}"#),
        ] {
            let error = SessionKeys::from_json(text.as_bytes()).unwrap_err();
            assert!(!error.contains("ffff"), "{error}");
        }
    }
}
