//! Certificates and tokens of a local cluster, made on the fly in its folder.

use super::LocalError;
use crate::ca::{Authority, CaError, all_roles};
use moso_client::{ClientOptions, TlsOptions, Token};
use moso_proto::grant::Grants;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long certificates are good: made anew with each start.
const DAYS: u32 = 365;
/// How long the operator's token is good; the same.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Hosts at which the nodes are reached.
const HOSTS: [&str; 2] = ["127.0.0.1", "localhost"];

impl From<CaError> for LocalError {
    fn from(error: CaError) -> Self {
        LocalError::Options(error.to_string())
    }
}

/// What a local cluster's nodes and clients show each other.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Folder of the authority: see [`crate::ca`].
    pub folder: PathBuf,
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// A file with a token for everything.
    pub token: PathBuf,
    /// Asks nodes over HTTP.
    pub(super) http: Arc<ClientConfig>,
}

/// The files that a node's configuration names.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub token_keys: PathBuf,
    pub session_keys: PathBuf,
}

impl Credentials {
    /// Makes or renews all that nodes with these numbers and their operator need.
    pub(super) fn make(folder: &Path, cluster: &str, nodes: impl Iterator<Item = u32>) -> Result<Self, LocalError> {
        let folder = folder.join("ca");
        let authority = Authority::open_or_init(&folder, cluster)?;
        for node in nodes {
            authority.node(node, &HOSTS.map(str::to_owned), DAYS)?;
        }
        let user = std::env::var("USER").ok().filter(|user| moso_proto::grant::is_name(user));
        let grants = Grants { user: user.unwrap_or("operator".into()), groups: Vec::new(), roles: all_roles() };
        let token = folder.join("operator.token");
        let text = authority.token(grants.clone(), TOKEN_LIFETIME)?;
        write_private(&token, &text)?;
        let pair = authority.user(grants, DAYS)?;
        let http = http(&authority.ca(), &pair.cert, &pair.key)?;
        Ok(Credentials { ca: authority.ca(), folder, token, http })
    }

    /// The options of a client that shows the operator's token.
    pub fn options(&self, options: ClientOptions) -> ClientOptions {
        let tls = TlsOptions { ca: self.ca.clone(), ..TlsOptions::default() };
        ClientOptions { tls: Some(tls), token: Some(Token::File(self.token.clone())), ..options }
    }

    /// The authority, to make more.
    ///
    /// # Errors
    /// When its folder cannot be read.
    pub fn authority(&self) -> Result<Authority, CaError> {
        Authority::open(&self.folder)
    }

    pub(super) fn node(&self, node: u32) -> Result<NodeFiles, LocalError> {
        let authority = self.authority()?;
        let pair = authority.node_pair(node);
        Ok(NodeFiles {
            ca: self.ca.clone(),
            cert: pair.cert,
            key: pair.key,
            token_keys: authority.token_keys(),
            session_keys: authority.session_keys(),
        })
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), LocalError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let io = || LocalError::io(path.display().to_string());
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).map_err(io())?;
    file.write_all(text.as_bytes()).map_err(io())
}

fn http(ca: &Path, cert: &Path, key: &Path) -> Result<Arc<ClientConfig>, LocalError> {
    let wrong = |path: &Path, error: String| LocalError::Options(format!("{}: {error}", path.display()));
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, LocalError> {
        let list = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        list.map_err(|error| wrong(path, error.to_string()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| wrong(ca, error.to_string()))?;
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what its own versions need")
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(cert)?, private)
        .map_err(|error| wrong(cert, error.to_string()))?;
    Ok(Arc::new(config))
}
