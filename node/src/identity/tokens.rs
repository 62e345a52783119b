//! Which tokens are taken, and what they grant.

use super::remote::{Found, Pace, RemoteKeys};
use crate::limits::{TOKEN_ISSUERS_MAX, TOKENS_CACHED_MAX};
use moso_proto::grant::{Grants, Role, audience, is_name};
use moso_proto::token::{
    ALGORITHMS, Algorithm, Claims, Expected, KeySet, TokenError, claimed_issuer, claimed_key, verify,
};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Groups that a token may name; more are an error of the issuer.
const GROUPS_MAX: usize = 1_000;

/// An issuer of tokens that the cluster trusts (OpenID Connect), as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its name, exactly as its tokens have it.
    pub issuer: String,
    /// Its tokens are for this cluster if they are for one of these.
    pub audience: Vec<String>,
    /// Names of algorithms that it signs with.
    #[serde(default = "rs256")]
    pub algorithms: Vec<String>,
    /// Its public keys (JWKS): a file, beside the file that names it if not absolute, which is looked at every few seconds; or
    /// an `https://` address from which they are fetched, each hour and when a token names a key that is not among them.
    /// Without it they are where the issuer, then an `https://` address itself, says (OpenID Connect Discovery).
    #[serde(default)]
    pub keys: Option<String>,
    /// File of the certificates (PEM) by which the server of fetched keys is known; without it those that the system trusts.
    #[serde(default)]
    pub keys_ca: Option<PathBuf>,
    /// Claim with the user's name: `sub`, or a readable one if the issuer gives each name once.
    #[serde(default = "sub")]
    pub user_claim: String,
    /// Stands before each user's name, so that issuers with equal names can be told apart.
    #[serde(default)]
    pub user_prefix: String,
    /// Claim with the groups.
    #[serde(default = "wlcg_groups")]
    pub groups_claim: String,
    /// Names of groups here, by their names at the issuer; others keep theirs.
    #[serde(default)]
    pub groups: BTreeMap<String, String>,
    /// A group with this ending gives the production role of the group before it.
    #[serde(default = "production")]
    pub production_suffix: String,
    /// Whose members are operators, by names at the issuer.
    #[serde(default)]
    pub operator_groups: Vec<String>,
    /// Whose members may take jobs of these queues (`*`: all), by names at the issuer.
    #[serde(default)]
    pub worker_groups: BTreeMap<String, Vec<String>>,
}

fn rs256() -> Vec<String> {
    vec!["RS256".to_owned()]
}

fn sub() -> String {
    "sub".to_owned()
}

fn wlcg_groups() -> String {
    "wlcg.groups".to_owned()
}

fn production() -> String {
    "/production".to_owned()
}

/// An issuer with its keys.
#[derive(Debug)]
struct Trusted {
    issuer: Issuer,
    algorithms: Vec<Algorithm>,
    keys: Keys,
}

/// Where its keys are.
#[derive(Debug)]
enum Keys {
    /// Read from this file.
    File(PathBuf, Arc<KeySet>),
    /// Fetched.
    Remote(Arc<RemoteKeys>),
}

impl Keys {
    fn read(issuer: &Issuer) -> Result<Keys, String> {
        let remote = |keys| {
            let remote = RemoteKeys::new(&issuer.issuer, keys, issuer.keys_ca.clone(), Pace::default());
            remote.map(|remote| Keys::Remote(Arc::new(remote)))
        };
        let keys = match issuer.keys.as_deref() {
            None => remote(None),
            Some(address) if address.contains("://") => remote(Some(address)),
            Some(_) if issuer.keys_ca.is_some() => Err("keys_ca is for keys that are fetched".to_owned()),
            Some(path) => key_file(Path::new(path)).map(|keys| Keys::File(path.into(), Arc::new(keys))),
        };
        keys.map_err(|error| format!("token_issuers: {}: {error}", issuer.issuer))
    }

    /// The keys for a token that names the key `id`.
    fn find(&self, id: &str) -> Result<Arc<KeySet>, TokenError> {
        match self {
            Keys::File(_, keys) => Ok(keys.clone()),
            Keys::Remote(remote) => match remote.find(id) {
                Found::Set(keys) => Ok(keys),
                Found::Soon => Err(TokenError::Fetching),
            },
        }
    }
}

/// A set of public keys in a file.
fn key_file(path: &Path) -> Result<KeySet, String> {
    let bytes = crate::tls::read_file("token keys", path)?;
    KeySet::from_json(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a token was found to grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// To whom, and what.
    pub grants: Grants,
    /// When it was made, Unix s; 0: it does not say.
    pub issued_s: u64,
    /// When it ends, Unix s.
    pub expires_s: u64,
}

/// The tokens that are taken: the cluster's own, and those of issuers.
#[derive(Debug, Default)]
pub struct Tokens {
    cluster: String,
    own: Option<KeySet>,
    issuers: BTreeMap<String, Trusted>,
}

/// Claims of tokens of other issuers that are read; the rest are by name.
#[derive(Deserialize)]
struct Foreign {
    exp: u64,
    #[serde(default)]
    iat: u64,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Tokens {
    /// Takes the cluster's own tokens by the keys of `own`, and those of the issuers listed in the file `issuers`.
    ///
    /// # Errors
    /// For people, with the file.
    pub fn read(cluster: &str, own: Option<&Path>, issuers: Option<&Path>) -> Result<Tokens, String> {
        let own = own.map(key_file).transpose()?;
        let mut trusted = BTreeMap::new();
        for issuer in issuers.map(read_issuers).transpose()?.unwrap_or_default() {
            let (name, keys) = (issuer.issuer.clone(), Keys::read(&issuer)?);
            let algorithms = algorithms(&issuer)?;
            if name == audience(cluster) || trusted.insert(name.clone(), Trusted { issuer, algorithms, keys }).is_some()
            {
                return Err(format!("token_issuers: the issuer {name:?} is named twice"));
            }
        }
        Ok(Tokens { cluster: cluster.to_owned(), own, issuers: trusted })
    }

    /// The files of issuers' keys.
    pub fn key_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.issuers.values().filter_map(|trusted| match &trusted.keys {
            Keys::File(path, _) => Some(path),
            Keys::Remote(_) => None,
        })
    }

    /// Issuers' keys that are to be fetched.
    pub(super) fn remote(&self) -> impl Iterator<Item = &Arc<RemoteKeys>> {
        self.issuers.values().filter_map(|trusted| match &trusted.keys {
            Keys::Remote(remote) => Some(remote),
            Keys::File(..) => None,
        })
    }

    /// Goes on with the keys that `old` has fetched, where they are from the same place.
    pub(super) fn adopt(&mut self, old: &Tokens) {
        for trusted in self.issuers.values_mut() {
            if let Keys::Remote(new) = &mut trusted.keys
                && let Some(same) = old.remote().find(|old| old.is_as(new))
            {
                *new = same.clone();
            }
        }
    }

    /// Checks a token, and says what it grants.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn check(&self, token: &str) -> Result<Granted, TokenError> {
        let issuer = claimed_issuer(token)?;
        let own = audience(&self.cluster);
        if issuer == own
            && let Some(keys) = &self.own
        {
            let audience = std::slice::from_ref(&own);
            let expected = Expected { issuer: &own, audience, algorithms: &[Algorithm::EdDSA], keys };
            let Claims { sub, groups, roles, iat, exp, .. } = verify(token, &expected)?;
            let grants = Grants { user: sub, groups, roles };
            return sound(Granted { grants, issued_s: iat, expires_s: exp });
        }
        let short = || TokenError::Issuer(issuer.chars().take(100).collect());
        let trusted = self.issuers.get(&issuer).ok_or_else(short)?;
        let Trusted { issuer, algorithms, keys } = trusted;
        let keys = &keys.find(&claimed_key(token)?)?;
        let expected = Expected { issuer: &issuer.issuer, audience: &issuer.audience, algorithms, keys };
        let claims: Foreign = verify(token, &expected)?;
        sound(issuer.granted(&claims)?)
    }
}

/// Names must be such that they stand in a log line and in a job as they are.
fn sound(granted: Granted) -> Result<Granted, TokenError> {
    let Grants { user, groups, .. } = &granted.grants;
    if !is_name(user) {
        return Err(TokenError::Claims("its user's name must be printable characters without spaces".to_owned()));
    }
    if groups.len() > GROUPS_MAX || !groups.iter().all(|group| is_name(group)) {
        let text = format!("its groups must be at most {GROUPS_MAX} names of printable characters without spaces");
        return Err(TokenError::Claims(text));
    }
    Ok(granted)
}

impl Issuer {
    fn granted(&self, claims: &Foreign) -> Result<Granted, TokenError> {
        let user = claims.rest.get(&self.user_claim).and_then(|value| value.as_str());
        let user = user.ok_or_else(|| TokenError::Claims(format!("{} is missing", self.user_claim)))?;
        let named: Vec<&str> = match claims.rest.get(&self.groups_claim) {
            None => Vec::new(),
            Some(value) => {
                let list = value.as_array().map(|list| list.iter().map(|group| group.as_str()).collect());
                let wrong = || TokenError::Claims(format!("{} is not a list of names", self.groups_claim));
                list.flatten().ok_or_else(wrong)?
            }
        };
        let here = |name: &str| self.groups.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let mut grants = Grants { user: format!("{}{user}", self.user_prefix), ..Grants::default() };
        grants.roles.push(Role::Submitter);
        for name in named.into_iter().take(GROUPS_MAX + 1) {
            let group =
                (!self.production_suffix.is_empty()).then(|| name.strip_suffix(&self.production_suffix)).flatten();
            if let Some(group) = group.filter(|group| !group.is_empty()) {
                grants.roles.push(Role::Production(here(group)));
            }
            if self.operator_groups.iter().any(|group| group == name) {
                grants.roles.push(Role::Operator);
            }
            if let Some(queues) = self.worker_groups.get(name) {
                grants.roles.push(Role::Worker(queues.clone()));
            }
            grants.groups.push(here(name));
        }
        Ok(Granted { grants, issued_s: claims.iat, expires_s: claims.exp })
    }
}

fn algorithms(issuer: &Issuer) -> Result<Vec<Algorithm>, String> {
    let find = |name: &String| ALGORITHMS.iter().find(|known| known.0 == name).map(|known| known.1);
    let found: Option<Vec<_>> = issuer.algorithms.iter().map(find).collect();
    found.filter(|list| !list.is_empty()).ok_or_else(|| {
        let known: Vec<_> = ALGORITHMS.iter().map(|known| known.0).collect();
        format!("token_issuers: {}: algorithms are some of {}", issuer.issuer, known.join(", "))
    })
}

fn read_issuers(path: &Path) -> Result<Vec<Issuer>, String> {
    let wrong = |text: String| format!("token_issuers = {}: {text}", path.display());
    let bytes = crate::tls::read_file("token_issuers", path)?;
    let mut issuers: Vec<Issuer> = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if issuers.len() > TOKEN_ISSUERS_MAX {
        return Err(wrong(format!("{} issuers, at most {TOKEN_ISSUERS_MAX} are allowed", issuers.len())));
    }
    for issuer in &mut issuers {
        if issuer.issuer.is_empty() || issuer.audience.is_empty() {
            return Err(wrong("each has an issuer and at least one audience".to_owned()));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Some(file) = issuer.keys.as_mut().filter(|keys| !keys.contains("://")) {
            *file = folder
                .join(&file)
                .to_str()
                .ok_or_else(|| wrong("its folder's name is not UTF-8".to_owned()))?
                .to_owned();
        }
        issuer.keys_ca = issuer.keys_ca.take().map(|file| folder.join(file));
    }
    Ok(issuers)
}

/// Tokens that were checked, by their digests: a call costs a look-up instead of a signature.
pub(super) struct Checked<T> {
    tokens: Mutex<HashMap<[u8; 32], (u64, T)>>,
}

impl<T: Clone> Checked<T> {
    pub fn new() -> Self {
        Checked { tokens: Mutex::new(HashMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], (u64, T)>> {
        self.tokens.lock().expect("no thread panics while it holds this lock")
    }

    /// What was found for the token, if its time is not over.
    pub fn get(&self, digest: &[u8; 32], now_s: u64) -> Option<T> {
        let tokens = self.lock();
        tokens.get(digest).filter(|(expires_s, _)| now_s < *expires_s).map(|(_, value)| value.clone())
    }

    /// Keeps what was found.
    pub fn put(&self, digest: [u8; 32], expires_s: u64, value: T, now_s: u64) {
        let mut tokens = self.lock();
        if tokens.len() >= TOKENS_CACHED_MAX {
            tokens.retain(|_, (expires_s, _)| now_s < *expires_s);
        }
        if tokens.len() >= TOKENS_CACHED_MAX {
            // Those in use come back at the price of a signature each.
            tokens.clear();
        }
        tokens.insert(digest, (expires_s, value));
    }

    /// Forgets all: the keys have changed.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

/// By what a token is known once it was checked.
pub(super) fn digest(token: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("it has 32 bytes")
}
