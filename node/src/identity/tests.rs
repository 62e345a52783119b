//! What tokens of other issuers grant.

use super::tokens::Checked;
use super::*;
use moso_proto::token::{SigningKey, TokenError};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const ISSUER: &str = "https://atlas.example/";

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An issuer with its key, whose settings are in the folder.
fn issuer(folder: &Path, settings: Value) -> SigningKey {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "x": x, "y": y }] });
    std::fs::write(folder.join("jwks.json"), keys.to_string()).unwrap();
    let mut issuer =
        json!({ "issuer": ISSUER, "audience": ["moso.example"], "algorithms": ["ES256"], "keys": "jwks.json" });
    issuer.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    std::fs::write(folder.join("issuers.json"), json!([issuer]).to_string()).unwrap();
    SigningKey::p256(document.as_ref(), "k1").unwrap()
}

fn read(folder: &Path) -> Result<Tokens, String> {
    Tokens::read("prod", None, Some(&folder.join("issuers.json")))
}

fn claims(more: Value) -> Value {
    let mut claims =
        json!({ "iss": ISSUER, "sub": "b1946ac9", "aud": "moso.example", "exp": now_s() + 600, "iat": now_s() });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

#[test]
fn groups_of_another_issuer_become_groups_and_roles() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({
        "user_claim": "preferred_username",
        "groups": { "/atlas/higgs": "higgs" },
        "operator_groups": ["/atlas/moso"],
        "worker_groups": { "/atlas/pilots": ["CERN", "BNL"] },
    });
    let key = issuer(folder.path(), settings);
    let tokens = read(folder.path()).unwrap();
    let groups = json!(["/atlas", "/atlas/higgs", "/atlas/higgs/production", "/atlas/pilots"]);
    let token = key.sign_any(&claims(json!({ "preferred_username": "anna", "wlcg.groups": groups }))).unwrap();
    let anna = Principal::granted(&tokens.check(&token).unwrap().grants);
    assert_eq!(&*anna.user, "anna");
    assert!(anna.may_submit("anna", "higgs") && anna.may_submit("anna", "/atlas") && !anna.may_submit("anna", "top"));
    assert!(anna.may_steer("bob", "higgs") && !anna.may_steer("bob", "/atlas") && !anna.operator);
    assert!(anna.may_work("CERN") && !anna.may_work("RAL"));
    let token = json!({ "preferred_username": "olga", "wlcg.groups": ["/atlas/moso"] });
    assert!(Principal::granted(&tokens.check(&key.sign_any(&claims(token)).unwrap()).unwrap().grants).operator);
}

#[test]
fn tokens_of_another_issuer_are_checked_as_the_own_ones() {
    let folder = tempfile::tempdir().unwrap();
    let key = issuer(folder.path(), json!({ "user_prefix": "atlas:" }));
    let tokens = read(folder.path()).unwrap();
    let check = |more: Value| tokens.check(&key.sign_any(&claims(more)).unwrap());
    assert_eq!(check(json!({})).unwrap().grants.user, "atlas:b1946ac9");
    assert_eq!(check(json!({ "aud": ["else", "moso.example"] })).unwrap().grants.user, "atlas:b1946ac9");
    assert_eq!(check(json!({ "aud": "else" })).unwrap_err(), TokenError::Audience);
    assert!(matches!(check(json!({ "iss": "https://evil.example/" })).unwrap_err(), TokenError::Issuer(_)));
    // It cannot speak for the cluster itself.
    assert!(matches!(check(json!({ "iss": "moso://prod", "aud": "moso://prod" })).unwrap_err(), TokenError::Issuer(_)));
    assert_eq!(check(json!({ "exp": now_s() - 100 })).unwrap_err(), TokenError::Expired);
    assert_eq!(check(json!({ "nbf": now_s() + 100 })).unwrap_err(), TokenError::Early);
    for bad in [
        json!({ "sub": "a b" }),
        json!({ "sub": "a\nb" }),
        json!({ "wlcg.groups": [7] }),
        json!({ "wlcg.groups": "g" }),
    ] {
        assert!(matches!(check(bad.clone()).unwrap_err(), TokenError::Claims(_)), "{bad}");
    }
    let too_many: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    assert!(check(json!({ "wlcg.groups": too_many })).is_err());
    assert!(check(json!({ "operator": true, "roles": ["operator"] })).unwrap().grants.roles.len() == 1);
}

#[test]
fn a_file_of_issuers_with_a_mistake_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (settings, word) in [
        (json!({ "algorithms": ["HS256"] }), "algorithms"),
        (json!({ "algorithms": ["none"] }), "algorithms"),
        (json!({ "algorithms": [] }), "algorithms"),
        (json!({ "audience": [] }), "audience"),
        (json!({ "issuer": "moso://prod" }), "named twice"),
        (json!({ "keys": "nowhere.json" }), "nowhere.json"),
        (json!({ "colour": "red" }), "colour"),
        (json!({ "keys": "http://atlas.example/jwks" }), "https://"),
        (json!({ "keys": "https://user:secret@atlas.example/jwks" }), "password"),
        (json!({ "keys": null, "issuer": "atlas" }), "no URL"),
        (json!({ "keys_ca": "ca.pem" }), "fetched"),
    ] {
        issuer(folder.path(), settings.clone());
        let error = read(folder.path()).unwrap_err();
        assert!(error.contains(word), "{settings}: {error}");
    }
}

#[test]
fn a_token_whose_keys_are_not_fetched_yet_is_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    for keys in [json!("https://atlas.example/jwks"), json!(null)] {
        let key = issuer(folder.path(), json!({ "keys": keys, "keys_ca": "ca.pem" }));
        let tokens = read(folder.path()).unwrap();
        assert_eq!(tokens.check(&key.sign_any(&claims(json!({}))).unwrap()).unwrap_err(), TokenError::Fetching);
        assert_eq!((tokens.key_files().count(), tokens.remote().count()), (0, 1));
        // Read again, they are the keys that are fetched already.
        let mut again = read(folder.path()).unwrap();
        again.adopt(&tokens);
        assert!(std::sync::Arc::ptr_eq(tokens.remote().next().unwrap(), again.remote().next().unwrap()));
        issuer(folder.path(), json!({ "keys": "https://atlas.example/other", "keys_ca": "ca.pem" }));
        let mut other = read(folder.path()).unwrap();
        other.adopt(&tokens);
        assert!(!std::sync::Arc::ptr_eq(tokens.remote().next().unwrap(), other.remote().next().unwrap()));
    }
}

#[test]
fn a_token_is_remembered_until_its_time_is_over() {
    let checked = Checked::new();
    checked.put([1; 32], 100, "anna", 50);
    assert_eq!(checked.get(&[1; 32], 99), Some("anna"));
    assert_eq!(checked.get(&[1; 32], 100), None);
    assert_eq!(checked.get(&[2; 32], 50), None);
    checked.clear();
    assert_eq!(checked.get(&[1; 32], 99), None);
}
