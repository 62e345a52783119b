//! A cluster's own authority: a folder with the keys that make its certificates and tokens.
//!
//! ```text
//! ca.pem            certificate of the authority: for all nodes, users and programs
//! ca.key            its private key; stays here
//! cluster           name of the cluster
//! token.key         signs tokens; stays here
//! token-keys.json   checks them: for all nodes
//! session-keys.json makes workers' sessions their own: for all nodes, and nobody else
//! node-N.pem .key   of node N
//! user-U.pem .key   of a user
//! ```

mod files;

use files::{private, public, read};
use moso_proto::grant::{Grants, Named, Role, Subject, is_name};
use moso_proto::token::{Claims, SigningKey, ed25519_jwk};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority's own certificate is good.
const CA_DAYS: u32 = 3_650;
/// Certificates are good from so long ago, for clocks that are behind.
const BEFORE: Duration = Duration::from_secs(3600);
/// Session keys kept in the file: the new one, and the one before, under which sessions still run.
const SESSION_KEYS_MAX: usize = 2;
/// Bytes of a session key.
const SESSION_KEY_BYTES: usize = 32;

/// What went wrong with an authority, for the person who asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CaError(String);

impl CaError {
    fn new(text: impl Into<String>) -> Self {
        CaError(text.into())
    }
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, CaError>;

/// A certificate and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// The key, readable by its owner alone.
    pub key: PathBuf,
}

/// A cluster's authority.
pub struct Authority {
    folder: PathBuf,
    cluster: String,
}

impl Authority {
    /// Makes an authority in a folder that is new or empty.
    ///
    /// # Errors
    /// When the folder holds one already, or cannot be written.
    pub fn init(folder: &Path, cluster: &str) -> Result<Authority> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if cluster.is_empty() || cluster.len() > 64 || !cluster.bytes().all(good) {
            return Err(CaError::new(format!(
                "{cluster:?} is no name of a cluster: 1 to 64 letters, digits, '-', '_' and '.'"
            )));
        }
        files::folder(folder)?;
        if folder.join("ca.key").exists() {
            return Err(CaError::new(format!("{} holds an authority already", folder.display())));
        }
        let authority = Authority { folder: folder.to_owned(), cluster: cluster.to_owned() };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = authority.ca_params().self_signed(&key).map_err(failed)?;
        let token = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
        let keys = serde_json::json!({ "keys": [ed25519_jwk(token.public_key_raw())] });
        public(&folder.join("cluster"), &format!("{cluster}\n"))?;
        public(&folder.join("ca.pem"), &certificate.pem())?;
        public(&authority.token_keys(), &format!("{keys:#}\n"))?;
        private(&folder.join("token.key"), &token.serialize_pem())?;
        authority.write_session_keys(&BTreeMap::from([(1, random_key()?)]))?;
        // Last: with it the folder is complete.
        private(&folder.join("ca.key"), &key.serialize_pem())?;
        Ok(authority)
    }

    /// The authority in a folder.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(folder: &Path) -> Result<Authority> {
        if !folder.join("ca.key").exists() {
            let text = format!("{} holds no authority: `moso ca init DIR --cluster NAME` makes one", folder.display());
            return Err(CaError::new(text));
        }
        let cluster = read(&folder.join("cluster"))?.trim().to_owned();
        Ok(Authority { folder: folder.to_owned(), cluster })
    }

    /// The authority in a folder, made if there is none.
    ///
    /// # Errors
    /// As [`Authority::init`]; or it is another cluster's.
    pub fn open_or_init(folder: &Path, cluster: &str) -> Result<Authority> {
        match Authority::open(folder) {
            Ok(authority) if authority.cluster == cluster => Ok(authority),
            Ok(other) => Err(CaError::new(format!(
                "{} holds the authority of the cluster {:?}, not of {cluster:?}",
                folder.display(),
                other.cluster
            ))),
            Err(_) => Authority::init(folder, cluster),
        }
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Certificate of the authority.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Public keys of tokens.
    pub fn token_keys(&self) -> PathBuf {
        self.folder.join("token-keys.json")
    }

    /// Keys of workers' sessions.
    pub fn session_keys(&self) -> PathBuf {
        self.folder.join("session-keys.json")
    }

    /// Where a node's certificate is, made or not.
    pub fn node_pair(&self, node: u32) -> Pair {
        self.pair(&format!("node-{node}"))
    }

    /// Makes a node's certificate, under which clients reach it at `hosts` (names or IP addresses).
    ///
    /// # Errors
    /// When a host is none, or a file cannot be written.
    pub fn node(&self, node: u32, hosts: &[String], days: u32) -> Result<Pair> {
        if node == 0 || hosts.is_empty() {
            return Err(CaError::new(
                "a node has a number from 1 upward, and at least one host at which it is reached",
            ));
        }
        let mut params = CertificateParams::new(hosts.to_vec())
            .map_err(|_| CaError::new(format!("{} are no names of hosts or IP addresses", hosts.join(", "))))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.make(params, Subject::Node(node), &format!("node {node} of {}", self.cluster), days, self.node_pair(node))
    }

    /// Makes a user's certificate.
    ///
    /// # Errors
    /// When a name is none, or a file cannot be written.
    pub fn user(&self, grants: Grants, days: u32) -> Result<Pair> {
        check(&grants)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let file: String = grants.user.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let (name, pair) = (grants.user.clone(), self.pair(&format!("user-{file}")));
        self.make(params, Subject::User(grants), &name, days, pair)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When a name is none, or the key cannot be read.
    pub fn token(&self, grants: Grants, lifetime: Duration) -> Result<String> {
        check(&grants)?;
        let key = KeyPair::from_pem(&read(&self.folder.join("token.key"))?).map_err(failed)?;
        let signing = SigningKey::ed25519(key.serialized_der(), key.public_key_raw());
        let id = random_key()?[..16].to_owned();
        let claims = Claims::new(&self.cluster, grants, now().as_secs(), lifetime.as_secs(), id);
        signing.and_then(|key| key.sign(&claims)).map_err(|error| CaError::new(error.to_string()))
    }

    /// Adds a session key and drops all but the one before. Gives its number.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn new_session_key(&self) -> Result<u32> {
        let text = read(&self.session_keys())?;
        let mut file: BTreeMap<String, BTreeMap<u32, String>> = serde_json::from_str(&text)
            .map_err(|error| CaError::new(format!("{}: {error}", self.session_keys().display())))?;
        let mut keys = file.remove("keys").unwrap_or_default();
        let number = keys.keys().next_back().copied().unwrap_or(0) + 1;
        keys.insert(number, random_key()?);
        while keys.len() > SESSION_KEYS_MAX {
            keys.pop_first();
        }
        self.write_session_keys(&keys)?;
        Ok(number)
    }

    fn write_session_keys(&self, keys: &BTreeMap<u32, String>) -> Result<()> {
        private(&self.session_keys(), &format!("{:#}\n", serde_json::json!({ "keys": keys })))
    }

    fn pair(&self, name: &str) -> Pair {
        Pair { cert: self.folder.join(format!("{name}.pem")), key: self.folder.join(format!("{name}.key")) }
    }

    /// The authority's certificate again: only its name and key matter to those that it signs.
    fn ca_params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, format!("moso cluster {}", self.cluster));
        (params.not_before, params.not_after) = validity(CA_DAYS);
        params
    }

    fn make(&self, mut params: CertificateParams, subject: Subject, name: &str, days: u32, pair: Pair) -> Result<Pair> {
        let named = Named { cluster: self.cluster.clone(), subject };
        for uri in named.uris() {
            let uri = uri.as_str().try_into().map_err(failed)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = validity(days);
        let ca_key = KeyPair::from_pem(&read(&self.folder.join("ca.key"))?).map_err(failed)?;
        let issuer = Issuer::new(self.ca_params(), ca_key);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        // The key first: a node that looks at the files in between finds a pair that does not go together, and waits.
        private(&pair.key, &key.serialize_pem())?;
        public(&pair.cert, &certificate.pem())?;
        Ok(pair)
    }
}

/// Names must be such that they stand in a certificate as they are.
fn check(grants: &Grants) -> Result<()> {
    let groups = grants.groups.iter();
    match std::iter::once(&grants.user).chain(groups).find(|name| !is_name(name)) {
        None => Ok(()),
        Some(name) => Err(CaError::new(format!("{name:?} is no name: 1 to 256 printable characters without spaces"))),
    }
}

/// All roles: for whoever made the cluster.
pub fn all_roles() -> Vec<Role> {
    vec![Role::Submitter, Role::Worker(vec!["*".to_owned()]), Role::Operator]
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn validity(days: u32) -> (OffsetDateTime, OffsetDateTime) {
    let at = |time: Duration| {
        OffsetDateTime::from_unix_timestamp(time.as_secs() as i64).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    (at(now().saturating_sub(BEFORE)), at(now() + DAY * days))
}

/// A key in hexadecimal.
fn random_key() -> Result<String> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; SESSION_KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CaError::new("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn failed(error: rcgen::Error) -> CaError {
    CaError::new(format!("a key or certificate cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moso_proto::token::{Algorithm, Expected, KeySet, verify};
    use std::os::unix::fs::PermissionsExt;

    fn authority() -> (tempfile::TempDir, Authority) {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::init(&folder.path().join("ca"), "grid").unwrap();
        (folder, authority)
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let (_folder, authority) = authority();
        let node = authority.node(3, &["localhost".into(), "127.0.0.1".into()], 30).unwrap();
        let grants = Grants { user: "anna/cn=1".into(), groups: vec!["higgs".into()], roles: all_roles() };
        let user = authority.user(grants, 30).unwrap();
        assert!(user.cert.ends_with("user-anna_cn_1.pem"));
        let ca = authority.folder.clone();
        for path in [ca.join("ca.key"), ca.join("token.key"), authority.session_keys(), node.key, user.key] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
        assert_eq!(ca.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_token_is_checked_with_the_public_keys() {
        let (_folder, authority) = authority();
        let grants = Grants { user: "anna".into(), groups: Vec::new(), roles: vec![Role::Submitter] };
        let token = authority.token(grants, DAY).unwrap();
        let keys = KeySet::from_json(&std::fs::read(authority.token_keys()).unwrap()).unwrap();
        let of = ["moso://grid".to_owned()];
        let expected = Expected { issuer: &of[0], audience: &of, algorithms: &[Algorithm::EdDSA], keys: &keys };
        assert_eq!(verify::<Claims>(&token, &expected).unwrap().sub, "anna");
        assert!(authority.token(Grants { user: "a b".into(), ..Grants::default() }, DAY).is_err());
    }

    #[test]
    fn an_authority_is_made_once() {
        let (folder, authority) = authority();
        let path = folder.path().join("ca");
        assert!(Authority::init(&path, "grid").is_err() && Authority::init(&path.join("x"), "a b").is_err());
        assert_eq!(Authority::open_or_init(&path, "grid").unwrap().cluster(), "grid");
        assert!(Authority::open_or_init(&path, "other").is_err());
        assert!(Authority::open(folder.path()).is_err());
        assert_eq!((authority.new_session_key().unwrap(), authority.new_session_key().unwrap()), (2, 3));
        let text = std::fs::read_to_string(authority.session_keys()).unwrap();
        assert!(text.contains("\"2\"") && text.contains("\"3\"") && !text.contains("\"1\""), "{text}");
    }
}
