//! Who calls.

use crate::identity::{Guard, Principal};
use crate::request::Fault;
use crate::tls;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Bytes of a token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = moso_queue::limits::NAME_BYTES_MAX;

/// Who calls, by the bearer token and by the certificate of the connection.
///
/// # Errors
/// As [`Guard::identify`].
pub fn caller(guard: &Guard, headers: &HeaderMap, line: Option<&tls::Caller>) -> Result<Principal, Fault> {
    if !guard.asks() {
        return Ok(at_his_word(headers));
    }
    // What is no text is a token that cannot be read.
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    guard.identify(authorization, line).map(|principal| Principal::clone(&principal))
}

/// On a port where nobody is asked he may do everything: his name is what the claims of a bearer token say, or empty.
fn at_his_word(headers: &HeaderMap) -> Principal {
    let user = token(headers).and_then(claimed_name).unwrap_or_default();
    Principal { user: user.as_str().into(), ..Principal::anyone() }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_BYTES_MAX).then_some(token.trim())
}

/// The name in a token's claims, as PanDA's clients read it: `name`, else `sub`.
fn claimed_name(token: &str) -> Option<String> {
    let claims = token.split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let named = ["name", "sub"].iter().find_map(|key| claims.get(key)?.as_str());
    named.and_then(clean_name)
}

/// A name that may own jobs: of bounded length, without control characters.
pub fn clean_name(name: &str) -> Option<String> {
    let name = name.trim();
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control);
    good.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(authorization: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        at_his_word(&headers).user.to_string()
    }

    #[test]
    fn the_name_is_what_the_token_says() {
        let token = |claims: &str| format!("Bearer e30.{}.x", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(of(&token(r#"{"name": "Ann Bell", "sub": "7"}"#)), "Ann Bell");
        assert_eq!(of(&token(r#"{"sub": "7"}"#)), "7");
        for bad in ["Bearer", "Bearer x", "Bearer a.%.c", "Basic a.b.c", &token("[1]"), &token(r#"{"name": "a\nb"}"#)] {
            assert_eq!(of(bad), "", "{bad}");
        }
        assert!(at_his_word(&HeaderMap::new()).operator);
    }
}
