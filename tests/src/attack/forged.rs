//! What strangers show to a cluster with certificates: keys, certificates and tokens of its own authority for others than
//! those who use them, of other authorities, and changed ones.

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moso::ca::{Authority, Pair};
use moso_proto::grant::{Grants, Named, Role, Subject, audience};
use moso_proto::token::{Claims, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3_600);
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];
/// A node that the cluster has not.
pub(super) const NO_NODE: u32 = 99;

/// Certificates with their keys.
pub struct Pairs {
    /// Another node of the cluster.
    pub other_node: Pair,
    /// A node of the cluster's authority that is in no table.
    pub no_node: Pair,
    /// A user who may do everything.
    pub user: Pair,
    /// The same node, by an authority of its own under the same name.
    pub foreign_node: Pair,
    /// A user, by that authority.
    pub foreign_user: Pair,
    /// By the cluster's authority, the same number in a cluster of another name.
    pub node_of_another_cluster: Pair,
    /// A user of that other cluster.
    pub user_of_another_cluster: Pair,
}

/// Tokens that must not be taken, each with what is wrong with it; and one that is good.
pub struct Tokens {
    /// A worker of the bystander's queue, who is somebody else.
    pub thief: String,
    /// The others.
    pub bad: Vec<(&'static str, String)>,
}

/// All of it.
pub struct Forged {
    /// Certificates.
    pub pairs: Pairs,
    /// Tokens.
    pub tokens: Tokens,
    _folder: TempDir,
}

fn all(user: &str) -> Grants {
    let roles = vec![Role::Submitter, Role::Worker(vec!["*".to_owned()]), Role::Operator];
    Grants { user: user.to_owned(), groups: Vec::new(), roles }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Forged {
    /// Makes all of it for the cluster whose authority is in the folder. `other`: a node of it.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn new(authority: &Authority, folder: &Path, other: u32, queue: &str) -> Result<Forged> {
        let own = tempfile::tempdir()?;
        let hosts = HOSTS.map(str::to_owned);
        let foreign = Authority::init(&own.path().join("ca"), authority.cluster())?;
        let ca_key = KeyPair::from_pem(&std::fs::read_to_string(folder.join("ca.key"))?)?;
        let issuer = Issuer::new(ca_params(authority.cluster()), ca_key);
        let named = |subject| Named { cluster: format!("{}-two", authority.cluster()), subject };
        let pairs = Pairs {
            other_node: authority.node_pair(other),
            no_node: authority.node(NO_NODE, &hosts, 1)?,
            user: authority.user(all("anna"), 1)?,
            foreign_node: foreign.node(other, &hosts, 1)?,
            foreign_user: foreign.user(all("anna"), 1)?,
            node_of_another_cluster: signed(&issuer, &named(Subject::Node(other)), own.path(), "node")?,
            user_of_another_cluster: signed(&issuer, &named(Subject::User(all("anna"))), own.path(), "user")?,
        };
        let worker = Role::Worker(vec![queue.to_owned()]);
        let thief = Grants { user: "thief".to_owned(), groups: Vec::new(), roles: vec![worker] };
        let tokens = Tokens { thief: authority.token(thief, HOUR)?, bad: bad_tokens(authority, &foreign, folder)? };
        Ok(Forged { pairs, tokens, _folder: own })
    }
}

/// Name and uses of a cluster's authority, as `moso ca` has them.
fn ca_params(cluster: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, format!("moso cluster {cluster}"));
    params
}

fn signed(issuer: &Issuer<'_, KeyPair>, named: &Named, folder: &Path, file: &str) -> Result<Pair> {
    let mut params = CertificateParams::new(HOSTS.map(str::to_owned).to_vec())?;
    for uri in named.uris() {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    let pair = Pair { cert: folder.join(format!("{file}.pem")), key: folder.join(format!("{file}.key")) };
    std::fs::write(&pair.key, key.serialize_pem())?;
    std::fs::write(&pair.cert, certificate.pem())?;
    Ok(pair)
}

fn bad_tokens(authority: &Authority, foreign: &Authority, folder: &Path) -> Result<Vec<(&'static str, String)>> {
    let key = KeyPair::from_pem(&std::fs::read_to_string(folder.join("token.key"))?)?;
    let key = SigningKey::ed25519(key.serialized_der(), key.public_key_raw())?;
    let good = Claims::new(authority.cluster(), all("anna"), now_s(), HOUR.as_secs(), "1".to_owned());
    let sign = |change: &dyn Fn(&mut Claims)| -> Result<String> {
        let mut claims = good.clone();
        change(&mut claims);
        Ok(key.sign(&claims)?)
    };
    let whole = sign(&|_| {})?;
    let parts: Vec<&str> = whole.split('.').collect();
    let [header, claims, signature] = parts[..] else { anyhow::bail!("a token has three parts") };
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let decoded = String::from_utf8(URL_SAFE_NO_PAD.decode(claims)?).context("claims are text")?;
    let changed = encode(&decoded.replace("\"anna\"", "\"root\""));
    let id = key.id();
    let with_header = |algorithm: &str, signature: &str| {
        format!("{}.{claims}.{signature}", encode(&format!(r#"{{"alg":"{algorithm}","typ":"JWT","kid":"{id}"}}"#)))
    };
    Ok(vec![
        ("expired", sign(&|claims| (claims.iat, claims.nbf, claims.exp) = (1, 1, now_s() - 3_600))?),
        ("not yet valid", sign(&|claims| claims.nbf = now_s() + 3_600)?),
        ("of another audience", sign(&|claims| claims.aud = audience("another"))?),
        ("of another issuer", sign(&|claims| claims.iss = audience("another"))?),
        ("alg none", with_header("none", "")),
        ("alg none, with a signature", with_header("none", signature)),
        ("alg HS256", with_header("HS256", signature)),
        ("changed payload", format!("{header}.{changed}.{signature}")),
        ("without its signature", format!("{header}.{claims}.")),
        ("of another authority", foreign.token(all("anna"), HOUR)?),
        ("three dots", "...".to_owned()),
        ("of 15 KiB", format!("{header}.{}.{signature}", "A".repeat(15_000))),
    ])
}
