//! Tokens: JSON Web Tokens signed by the cluster's own key or by an issuer that it trusts.
//!
//! Only signatures by private keys are taken (EdDSA, RS256, ES256): a node that checks tokens can make none. The key is
//! chosen by its id among those of the issuer that the token names, and each key is for one algorithm.

mod keys;
mod signature;

pub use keys::{KEY_SET_BYTES_MAX, KeySet, SigningKey, ed25519_jwk};
pub use signature::Algorithm;

use crate::grant::{Grants, Role, audience};
use serde::{Deserialize, Serialize};
use signature::Parts;
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a token: a person in hundreds of groups.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// How far the clocks of issuer and node may differ, s.
pub const LEEWAY_S: u64 = 30;

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("the token cannot be read: {0}")]
    Malformed(String),
    /// Its algorithm is not one that is allowed.
    #[error("the token is signed in a way that is not allowed here")]
    Algorithm,
    /// Who it says has signed it is not trusted.
    #[error("the token's issuer {0:?} is not trusted here")]
    Issuer(String),
    /// Its key is not known (yet).
    #[error("the token's key {0:?} is not known here")]
    Key(String),
    /// Its issuer's keys are being fetched: the token may be good.
    #[error("the keys of the token's issuer are being fetched: try again")]
    Fetching,
    /// The signature is not of that key.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is for somebody else.
    #[error("the token is for another service or cluster")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    Early,
    /// A claim is missing or not of its type.
    #[error("the token's claims are wrong: {0}")]
    Claims(String),
    /// A file of keys cannot be used.
    #[error("{0}")]
    KeyFile(String),
}

impl TokenError {
    /// A word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            TokenError::Malformed(_) => "malformed token",
            TokenError::Algorithm => "algorithm",
            TokenError::Issuer(_) => "issuer",
            TokenError::Key(_) => "unknown key",
            TokenError::Fetching => "keys are fetched",
            TokenError::Signature => "signature",
            TokenError::Audience => "audience",
            TokenError::Expired => "expired",
            TokenError::Early => "not yet valid",
            TokenError::Claims(_) | TokenError::KeyFile(_) => "claims",
        }
    }
}

/// What the cluster's own tokens say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Issuer: [`audience`] of the cluster.
    pub iss: String,
    /// User.
    pub sub: String,
    /// For whom: [`audience`] of the cluster.
    pub aud: String,
    /// Made, Unix s.
    pub iat: u64,
    /// Not valid before, Unix s.
    pub nbf: u64,
    /// Not valid from, Unix s.
    pub exp: u64,
    /// Names this token.
    pub jti: String,
    /// Groups for which the user may submit.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Roles.
    #[serde(default)]
    pub roles: Vec<Role>,
}

impl Claims {
    /// Claims of a token of this cluster that is valid for `lifetime_s` from `now_s`.
    pub fn new(cluster: &str, grants: Grants, now_s: u64, lifetime_s: u64, id: String) -> Self {
        let Grants { user, groups, roles } = grants;
        let of = audience(cluster);
        let exp = now_s.saturating_add(lifetime_s);
        Claims { iss: of.clone(), sub: user, aud: of, iat: now_s, nbf: now_s, exp, jti: id, groups, roles }
    }
}

/// Whose tokens are taken.
pub struct Expected<'a> {
    /// The issuer, exactly.
    pub issuer: &'a str,
    /// One of these must be among the token's audiences.
    pub audience: &'a [String],
    /// Algorithms allowed.
    pub algorithms: &'a [Algorithm],
    /// Its keys.
    pub keys: &'a KeySet,
}

/// The algorithms that may be allowed at all, with their names.
pub const ALGORITHMS: [(&str, Algorithm); 3] =
    [("EdDSA", Algorithm::EdDSA), ("RS256", Algorithm::RS256), ("ES256", Algorithm::ES256)];

/// Who a token says has issued it. Nothing was checked: this only says with whose keys to check it.
///
/// # Errors
/// [`TokenError::Malformed`].
pub fn claimed_issuer(token: &str) -> Result<String, TokenError> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let parts = Parts::of(short(token)?)?;
    let claims: Issuer = serde_json::from_slice(&parts.claims)
        .map_err(|_| TokenError::Malformed("it does not say who has issued it".to_owned()))?;
    Ok(claims.iss)
}

/// With which key a token says it is signed. Nothing was checked, as by [`claimed_issuer`].
///
/// # Errors
/// [`TokenError::Malformed`].
pub fn claimed_key(token: &str) -> Result<String, TokenError> {
    Ok(Parts::of(short(token)?)?.header.kid)
}

fn short(token: &str) -> Result<&str, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        let text = format!("it has {} bytes, at most {TOKEN_BYTES_MAX} are allowed", token.len());
        return Err(TokenError::Malformed(text));
    }
    Ok(token)
}

/// One audience, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// The claims that every token must have, each of its type.
#[derive(Deserialize)]
struct Registered {
    iss: String,
    #[serde(rename = "sub")]
    _sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: u64,
}

/// Checks a token, and reads its claims.
///
/// # Errors
/// Whatever is wrong with it: see [`TokenError`].
pub fn verify<C: serde::de::DeserializeOwned>(token: &str, expected: &Expected<'_>) -> Result<C, TokenError> {
    let parts = Parts::of(short(token)?)?;
    let header = &parts.header;
    let named = ALGORITHMS.iter().find(|known| known.0 == header.alg).map(|known| known.1);
    let algorithm = named.filter(|algorithm| expected.algorithms.contains(algorithm)).ok_or(TokenError::Algorithm)?;
    if header.crit.is_some() {
        return Err(TokenError::Malformed("it has extensions that are not known here".to_owned()));
    }
    let unknown = || TokenError::Key(header.kid.chars().take(64).collect());
    let key = expected.keys.find(&header.kid).ok_or_else(unknown)?;
    if key.algorithm() != algorithm {
        return Err(TokenError::Algorithm);
    }
    parts.verify(key)?;
    // Only now is anything of it believed.
    let wrong = |error: serde_json::Error| TokenError::Claims(error.to_string());
    let claims: Registered = serde_json::from_slice(&parts.claims).map_err(wrong)?;
    if claims.iss != expected.issuer {
        return Err(TokenError::Issuer(claims.iss.chars().take(100).collect()));
    }
    let is_for = |audience: &String| expected.audience.contains(audience);
    let here = match &claims.aud {
        Audience::One(audience) => is_for(audience),
        Audience::Several(audiences) => audiences.iter().any(is_for),
    };
    if !here {
        return Err(TokenError::Audience);
    }
    let now_s = now_s();
    if claims.exp.saturating_add(LEEWAY_S) <= now_s {
        return Err(TokenError::Expired);
    }
    if claims.nbf > now_s + LEEWAY_S {
        return Err(TokenError::Early);
    }
    serde_json::from_slice(&parts.claims).map_err(wrong)
}

/// Unix time, s.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests;
