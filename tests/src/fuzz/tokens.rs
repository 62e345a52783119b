//! Tokens, and what issuers of tokens give: key sets, and the documents that say where they are.

use super::reached::{reached, result};
use moso_node::identity::jwks_uri;
use moso_proto::token::{ALGORITHMS, Claims, Expected, KeySet, claimed_issuer, claimed_key, ed25519_jwk, verify};

const ISSUER: &str = "https://issuer.example";

/// A key set, a document or a token of any bytes, by the first one. It is refused, and a token always.
pub(super) fn token(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let Some(keys) = result(KeySet::from_json(bytes)) else { return };
            reached("keys");
            // Nobody has signed it, whatever the keys are.
            verify_all(&String::from_utf8_lossy(bytes), &keys);
        }
        1 => {
            let Some(address) = result(jwks_uri(bytes, ISSUER)) else { return };
            assert!(address.to_ascii_lowercase().starts_with("https://"), "{address}");
            reached("document");
        }
        _ => {
            let text = String::from_utf8_lossy(bytes);
            let named = (result(claimed_issuer(&text)).is_some(), result(claimed_key(&text)).is_some());
            reached(usize::from(named.0) + 2 * usize::from(named.1));
            verify_all(&text, &keys());
        }
    }
}

fn keys() -> KeySet {
    let set = serde_json::json!({ "keys": [ed25519_jwk(&[7; 32])] }).to_string();
    KeySet::from_json(set.as_bytes()).expect("a set with a key")
}

fn verify_all(token: &str, keys: &KeySet) {
    let algorithms = ALGORITHMS.map(|known| known.1);
    let audience = [ISSUER.to_owned()];
    let expected = Expected { issuer: ISSUER, audience: &audience, algorithms: &algorithms, keys };
    assert!(result(verify::<Claims>(token, &expected)).is_none(), "a token that nobody has signed was taken");
}

pub(super) fn token_seeds() -> Vec<Vec<u8>> {
    let of = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
    let jwk = ed25519_jwk(&[7; 32]);
    let kid = jwk["kid"].as_str().unwrap_or_default();
    let header = format!(r#"{{"alg":"EdDSA","typ":"JWT","kid":"{kid}"}}"#);
    let claims = format!(r#"{{"iss":"{ISSUER}","sub":"anna","aud":["{ISSUER}"],"exp":99999999999,"iat":1}}"#);
    let encode = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
    };
    vec![
        of(0, &serde_json::json!({ "keys": [jwk] }).to_string()),
        of(0, r#"{"keys":[{"kty":"RSA","kid":"r","use":"sig","alg":"RS256","n":"sXch","e":"AQAB"}]}"#),
        of(0, r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"e","x":"","y":""},{"kty":"oct","k":"AA"}]}"#),
        of(1, &format!(r#"{{"issuer":"{ISSUER}","jwks_uri":"{ISSUER}/jwk?a=b"}}"#)),
        of(1, r#"{"issuer":"https://else.example","jwks_uri":"https://[::1]:8/x"}"#),
        of(2, &format!("{}.{}.{}", encode(&header), encode(&claims), encode(&"s".repeat(64)))),
        of(2, "e30.e30.e30"),
    ]
}
