//! Signatures of tokens (RFC 7515, compact form), by `ring`: three algorithms, and nothing of the header is believed but
//! its key's id.

use super::TokenError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519.
    EdDSA,
    /// RSA with PKCS #1 v1.5 padding and SHA-256, keys from 2,048 bits.
    RS256,
    /// ECDSA with P-256 and SHA-256.
    ES256,
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum PublicKey {
    Ed(Vec<u8>),
    Ec(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl PublicKey {
    pub fn algorithm(&self) -> Algorithm {
        match self {
            PublicKey::Ed(_) => Algorithm::EdDSA,
            PublicKey::Ec(_) => Algorithm::ES256,
            PublicKey::Rsa { .. } => Algorithm::RS256,
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        let good = match self {
            PublicKey::Ed(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            PublicKey::Ec(key) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature),
            PublicKey::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        };
        good.map_err(|_| TokenError::Signature)
    }
}

/// The first part of a token.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    /// Text, not [`Algorithm`]: what is not allowed must not look like what cannot be read.
    pub alg: String,
    #[serde(default)]
    pub kid: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub typ: String,
    /// Extensions that whoever does not know them must refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crit: Option<serde_json::Value>,
}

impl Header {
    pub fn new(algorithm: Algorithm, kid: &str) -> Self {
        Header { alg: name(algorithm).to_owned(), kid: kid.to_owned(), typ: "JWT".to_owned(), crit: None }
    }
}

pub(super) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::EdDSA => "EdDSA",
        Algorithm::RS256 => "RS256",
        Algorithm::ES256 => "ES256",
    }
}

/// A token in its parts, nothing of it checked.
pub(super) struct Parts<'a> {
    pub header: Header,
    pub claims: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    pub fn of(token: &'a str) -> Result<Self, TokenError> {
        let bad = |text: &str| TokenError::Malformed(text.to_owned());
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| bad("it has not three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or_else(|| bad("it has not three parts"))?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| bad("a part is not base64url"));
        let header = serde_json::from_slice(&decode(header)?).map_err(|_| bad("its header is not that of a token"))?;
        Ok(Parts { header, claims: decode(claims)?, signed, signature: decode(signature)? })
    }

    /// Whether the key has signed header and claims.
    pub fn verify(&self, key: &PublicKey) -> Result<(), TokenError> {
        key.verify(self.signed.as_bytes(), &self.signature)
    }
}

/// A private key.
pub(super) enum PrivateKey {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
}

impl PrivateKey {
    pub fn ed25519(pkcs8: &[u8]) -> Result<Self, TokenError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map(PrivateKey::Ed).map_err(rejected)
    }

    pub fn p256(pkcs8: &[u8]) -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &SystemRandom::new());
        pair.map(PrivateKey::Ec).map_err(rejected)
    }

    pub fn algorithm(&self) -> Algorithm {
        match self {
            PrivateKey::Ed(_) => Algorithm::EdDSA,
            PrivateKey::Ec(_) => Algorithm::ES256,
        }
    }

    /// The token of this header and these claims.
    pub fn sign(&self, header: &[u8], claims: &[u8]) -> Result<String, TokenError> {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = match self {
            PrivateKey::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            PrivateKey::Ec(pair) => {
                let signature = pair.sign(&SystemRandom::new(), signed.as_bytes());
                let failed = |_| TokenError::KeyFile("the system gives no random numbers".to_owned());
                signature.map_err(failed)?.as_ref().to_vec()
            }
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn rejected(error: ring::error::KeyRejected) -> TokenError {
    TokenError::KeyFile(format!("the key cannot be used: {error}"))
}
