//! What a token must be to be taken.

use super::now_s as now;
use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

const CLUSTER: &str = "prod";

struct Own {
    key: SigningKey,
    public: Vec<u8>,
    keys: KeySet,
}

fn own() -> Own {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let public = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap().public_key().as_ref().to_vec();
    let set = serde_json::json!({ "keys": [ed25519_jwk(&public)] }).to_string();
    let keys = KeySet::from_json(set.as_bytes()).unwrap();
    Own { key: SigningKey::ed25519(document.as_ref(), &public).unwrap(), public, keys }
}

fn claims() -> Claims {
    let grants = Grants { user: "anna".into(), groups: vec!["higgs".into()], roles: vec![Role::Submitter] };
    Claims::new(CLUSTER, grants, now(), 600, "1".into())
}

impl Own {
    fn check(&self, token: &str) -> Result<Claims, TokenError> {
        let of = audience(CLUSTER);
        let algorithms = [Algorithm::EdDSA];
        verify(
            token,
            &Expected { issuer: &of, audience: std::slice::from_ref(&of), algorithms: &algorithms, keys: &self.keys },
        )
    }

    fn refused(&self, change: impl FnOnce(&mut Claims)) -> TokenError {
        let mut claims = claims();
        change(&mut claims);
        self.check(&self.key.sign(&claims).unwrap()).unwrap_err()
    }
}

/// A token with this header and these claims; signed by nobody.
fn forged(header: &str, claims: &str, signature: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!("{}.{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()), encode(signature))
}

#[test]
fn a_token_says_who_somebody_is() {
    let own = own();
    let token = own.key.sign(&claims()).unwrap();
    assert_eq!(own.check(&token).unwrap(), claims());
    assert_eq!(claimed_issuer(&token).unwrap(), "moso://prod");
}

#[test]
fn time_issuer_and_audience_are_checked() {
    let own = own();
    assert_eq!(own.refused(|c| c.exp = now() - LEEWAY_S - 5), TokenError::Expired);
    assert_eq!(own.refused(|c| c.nbf = now() + LEEWAY_S + 60), TokenError::Early);
    assert_eq!(own.refused(|c| c.aud = "moso://test".into()), TokenError::Audience);
    assert!(matches!(own.refused(|c| c.iss = "moso://test".into()), TokenError::Issuer(_)));
}

#[test]
fn claims_of_another_type_are_refused() {
    let own = own();
    let good = serde_json::to_value(claims()).unwrap();
    let mut cases = vec![("exp", "\"99999999999\""), ("nbf", "\"0\""), ("exp", "null"), ("sub", "7"), ("aud", "null")];
    cases.extend([("roles", "[\"root\"]"), ("exp", "-1"), ("exp", "1e300")]);
    for (claim, value) in cases {
        let mut claims = good.clone();
        claims[claim] = serde_json::from_str(value).unwrap();
        let error = own.check(&own.key.sign_any(&claims).unwrap()).unwrap_err();
        assert!(matches!(error, TokenError::Claims(_) | TokenError::Audience), "{claim} {value}: {error:?}");
    }
}

#[test]
fn what_was_changed_has_no_signature() {
    let own = own();
    let token = own.key.sign(&claims()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let more = Claims { roles: vec![Role::Operator], ..claims() };
    let body = URL_SAFE_NO_PAD.encode(serde_json::to_string(&more).unwrap());
    assert_eq!(own.check(&format!("{}.{body}.{}", parts[0], parts[2])).unwrap_err(), TokenError::Signature);
    let cut = &token[..token.len() - 4];
    assert!(own.check(cut).is_err());
    let other = self::own();
    // Another key under the same name, and one of a name that is not known.
    let same_name = SigningKey { id: own.key.id().to_owned(), ..other.key };
    assert_eq!(own.check(&same_name.sign(&claims()).unwrap()).unwrap_err(), TokenError::Signature);
    let unknown = self::own().key;
    assert!(matches!(own.check(&unknown.sign(&claims()).unwrap()).unwrap_err(), TokenError::Key(_)));
}

#[test]
fn no_algorithm_and_shared_secrets_are_refused() {
    let own = own();
    let body = serde_json::to_string(&claims()).unwrap();
    let id = own.key.id();
    for algorithm in ["none", "None", "", "HS256", "RS256", "ES256", "PS512"] {
        let header = format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"{id}"}}"#);
        for signature in [&[][..], &[0; 64], &own.public] {
            assert!(own.check(&forged(&header, &body, signature)).is_err(), "{algorithm}");
        }
    }
    let header = format!(r#"{{"alg":"EdDSA","kid":"{id}","crit":["exp"]}}"#);
    assert!(matches!(own.check(&forged(&header, &body, &[0; 64])).unwrap_err(), TokenError::Malformed(_)));
    // The public key taken for a shared secret.
    let header = format!(r#"{{"alg":"HS256","kid":"{id}"}}"#);
    let head = forged(&header, &body, &[]);
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &own.public);
    let tag = ring::hmac::sign(&key, head.trim_end_matches('.').as_bytes());
    let token = format!("{head}{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(own.check(&token).unwrap_err(), TokenError::Algorithm);
}

#[test]
fn what_is_no_token_is_refused() {
    let own = own();
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    for text in ["", ".", "..", "...", "a.b.c", "\u{1F600}.\u{1F600}.x", "e30.e30.", &long] {
        assert!(own.check(text).is_err() && claimed_issuer(text).is_err(), "{text:.20}");
    }
}

#[test]
fn keys_of_other_issuers_are_read() {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let set = serde_json::json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "use": "sig", "kid": "one", "x": x, "y": y },
        { "kty": "EC", "crv": "P-256", "use": "enc", "kid": "not for signatures", "x": x, "y": y },
        { "kty": "EC", "crv": "P-256", "alg": "ES384", "kid": "not its algorithm", "x": x, "y": y },
        { "kty": "oct", "kid": "shared", "k": "c2VjcmV0" },
        { "kty": "new", "kid": "of the future" },
    ]});
    let keys = KeySet::from_json(set.to_string().as_bytes()).unwrap();
    assert_eq!(format!("{keys:?}"), r#"{"one"}"#);
    let token = SigningKey::p256(document.as_ref(), "one").unwrap().sign(&claims()).unwrap();
    let of = [audience(CLUSTER)];
    let check = |algorithms: &[Algorithm]| {
        verify::<Claims>(&token, &Expected { issuer: &of[0], audience: &of, algorithms, keys: &keys })
    };
    assert_eq!(check(&[Algorithm::ES256]).unwrap(), claims());
    assert_eq!(check(&[Algorithm::EdDSA, Algorithm::RS256]).unwrap_err(), TokenError::Algorithm);
    for bad in ["", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"s","k":"c2VjcmV0"}]}"#] {
        assert!(KeySet::from_json(bad.as_bytes()).is_err(), "{bad}");
    }
}
