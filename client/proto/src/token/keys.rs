//! Keys of tokens: the private one that signs, and the sets of public ones that check (JWKS, RFC 7517).

use super::signature::{Header, PrivateKey, PublicKey, name};
use super::{Claims, TokenError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// Keys in one set: issuers have a handful.
const KEYS_MAX: usize = 100;
/// Bytes of a set.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a key's id.
const KEY_ID_BYTES_MAX: usize = 256;

/// Public keys by their ids.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: BTreeMap<String, PublicKey>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys for anything but EdDSA, RS256 and ES256 signatures are passed over.
    ///
    /// # Errors
    /// [`TokenError::KeyFile`] if it is none, or has no key of use.
    pub fn from_json(json: &[u8]) -> Result<KeySet, TokenError> {
        let bad = |text: String| TokenError::KeyFile(format!("not a set of public keys (JWKS): {text}"));
        if json.len() > KEY_SET_BYTES_MAX {
            return Err(bad(format!("it has {} bytes, at most {KEY_SET_BYTES_MAX} are allowed", json.len())));
        }
        let set: File = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        if set.keys.len() > KEYS_MAX {
            return Err(bad(format!("it has {} keys, at most {KEYS_MAX} are allowed", set.keys.len())));
        }
        let keys: BTreeMap<_, _> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(bad("no key in it has an id and signs with EdDSA, RS256 or ES256".to_owned()));
        }
        Ok(KeySet { keys })
    }

    pub(super) fn find(&self, id: &str) -> Option<&PublicKey> {
        self.keys.get(id)
    }

    /// Whether it has a key of this id.
    pub fn has(&self, id: &str) -> bool {
        self.keys.contains_key(id)
    }
}

/// A set as it is written. Each key is read for itself: one of a kind not known here must not hide the others.
#[derive(Deserialize)]
struct File {
    keys: Vec<serde_json::Value>,
}

/// A key as it is written.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Jwk {
    kty: String,
    crv: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    kid: String,
    x: String,
    y: String,
    n: String,
    e: String,
}

fn usable(value: serde_json::Value) -> Option<(String, PublicKey)> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
    let exactly = |text: &str| decode(text).filter(|bytes| bytes.len() == 32);
    let key = match (jwk.kty.as_str(), jwk.crv.as_str()) {
        ("OKP", "Ed25519") => PublicKey::Ed(exactly(&jwk.x)?),
        ("EC", "P-256") => PublicKey::Ec([vec![4], exactly(&jwk.x)?, exactly(&jwk.y)?].concat()),
        ("RSA", _) => PublicKey::Rsa { n: decode(&jwk.n)?, e: decode(&jwk.e)? },
        _ => return None,
    };
    let signs = jwk.purpose.is_none_or(|purpose| purpose == "sig");
    let as_said = jwk.alg.is_none_or(|algorithm| algorithm == name(key.algorithm()));
    let named = (1..=KEY_ID_BYTES_MAX).contains(&jwk.kid.len());
    (signs && as_said && named).then_some((jwk.kid, key))
}

/// The private key that signs a cluster's own tokens.
pub struct SigningKey {
    pub(super) id: String,
    pub(super) key: PrivateKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

impl SigningKey {
    /// An Ed25519 key (PKCS#8) with its public half, which names it.
    ///
    /// # Errors
    /// [`TokenError::KeyFile`] if it is none.
    pub fn ed25519(pkcs8: &[u8], public: &[u8]) -> Result<SigningKey, TokenError> {
        Ok(SigningKey { id: key_id(public), key: PrivateKey::ed25519(pkcs8)? })
    }

    /// A P-256 key (PKCS#8), as issuers of other services have them.
    ///
    /// # Errors
    /// As [`SigningKey::ed25519`].
    pub fn p256(pkcs8: &[u8], id: &str) -> Result<SigningKey, TokenError> {
        Ok(SigningKey { id: id.to_owned(), key: PrivateKey::p256(pkcs8)? })
    }

    /// Signs.
    ///
    /// # Errors
    /// [`TokenError::KeyFile`] if the system does not let it.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        self.sign_any(claims)
    }

    /// Signs any claims, as another issuer would.
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn sign_any(&self, claims: &impl serde::Serialize) -> Result<String, TokenError> {
        let header = Header::new(self.key.algorithm(), &self.id);
        let json = |error: serde_json::Error| TokenError::Claims(error.to_string());
        let header = serde_json::to_vec(&header).map_err(json)?;
        self.key.sign(&header, &serde_json::to_vec(claims).map_err(json)?)
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// The entry of an Ed25519 public key in a key set.
pub fn ed25519_jwk(public: &[u8]) -> serde_json::Value {
    let x = URL_SAFE_NO_PAD.encode(public);
    serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key_id(public), "x": x })
}

/// A key is named by its own digest: two keys never share a name.
fn key_id(public: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&ring::digest::digest(&ring::digest::SHA256, public).as_ref()[..12])
}
