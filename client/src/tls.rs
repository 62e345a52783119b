//! Encrypted connections to nodes, and the token that goes with each call.

use crate::error::{Error, Result};
use hyper_util::rt::TokioIo;
use moso_proto::Secret;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// How often files are looked at for a new token or certificate.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a file with a token.
const TOKEN_FILE_BYTES_MAX: u64 = 64 * 1024;

/// How nodes are known, and how this side shows who it is. Files are PEM; they are read again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Certificates of those whose signatures on nodes' certificates are trusted. Required.
    pub ca: PathBuf,
    /// A user's certificate and its private key, to show who calls; a token goes before it.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that nodes' certificates must have; `None`: the host of the address that is called.
    pub server_name: Option<String>,
}

/// A token that shows who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// This one.
    Text(Secret),
    /// The one in this file, which is read again when it changes.
    File(PathBuf),
}

/// When a file was written, and its length.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

/// Something made from files, made anew when they change; what cannot be used leaves it as it is.
struct Following<T> {
    files: Vec<PathBuf>,
    state: Mutex<(Instant, Vec<Stamp>, T)>,
}

impl<T: Clone> Following<T> {
    fn new(files: Vec<PathBuf>, value: T) -> Self {
        let stamps = files.iter().map(|path| stamp(path)).collect();
        Following { files, state: Mutex::new((Instant::now(), stamps, value)) }
    }

    fn get(&self, make: impl FnOnce() -> Result<T>) -> T {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        if state.0.elapsed() >= LOOK_EVERY {
            let now = self.files.iter().map(|path| stamp(path)).collect();
            state.0 = Instant::now();
            if state.1 != now {
                state.1 = now;
                match make() {
                    Ok(value) => state.2 = value,
                    Err(error) => tracing::warn!(%error, "the old one stays in use"),
                }
            }
        }
        state.2.clone()
    }
}

/// Makes encrypted connections.
#[derive(Clone)]
pub(crate) struct Tls {
    options: Arc<TlsOptions>,
    config: Arc<Following<Arc<ClientConfig>>>,
}

impl Tls {
    pub fn new(options: TlsOptions) -> Result<Self> {
        let mut files = vec![options.ca.clone()];
        files.extend(options.identity.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]));
        let config = Following::new(files, config(&options)?);
        Ok(Tls { options: Arc::new(options), config: Arc::new(config) })
    }

    /// A connection to a node, `host:port`.
    pub async fn connect(
        self,
        address: Arc<str>,
    ) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
        let config = self.config.get(|| config(&self.options));
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host).trim_matches(['[', ']']);
        let name = self.options.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|error| std::io::Error::other(error.to_string()))?;
        let stream = TcpStream::connect(&*address).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

fn config(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let wrong = |path: &Path, error: &dyn Display| Error::invalid(format!("{}: {error}", path.display()));
    let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(path, &error));
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let bytes = read(path)?;
        let list: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let list = list.map_err(|error| wrong(path, &error))?;
        if list.is_empty() { Err(wrong(path, &"there is no certificate in it")) } else { Ok(list) }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.ca)? {
        roots.add(certificate).map_err(|error| wrong(&options.ca, &error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has what its own versions need")
        .with_root_certificates(roots);
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, &error))?;
            builder.with_client_auth_cert(certificates(cert)?, private).map_err(|error| wrong(cert, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Adds the token to each call.
#[derive(Clone, Default)]
pub(crate) struct Bearer {
    source: Option<Arc<Source>>,
}

enum Source {
    Text(MetadataValue<Ascii>),
    File(PathBuf, Following<MetadataValue<Ascii>>),
}

impl Bearer {
    pub fn new(token: Option<&Token>) -> Result<Self> {
        let source = match token {
            None => return Ok(Bearer::default()),
            Some(Token::Text(secret)) => Source::Text(header(secret.reveal())?),
            Some(Token::File(path)) => {
                Source::File(path.clone(), Following::new(vec![path.clone()], read_token(path)?))
            }
        };
        Ok(Bearer { source: Some(Arc::new(source)) })
    }
}

fn header(token: &str) -> Result<MetadataValue<Ascii>> {
    let value = MetadataValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| Error::invalid("the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_token(path: &Path) -> Result<MetadataValue<Ascii>> {
    let wrong = |error: &dyn Display| Error::invalid(format!("token file {}: {error}", path.display()));
    let meta = std::fs::metadata(path).map_err(|error| wrong(&error))?;
    if meta.len() > TOKEN_FILE_BYTES_MAX {
        return Err(wrong(&format!("it has more than {TOKEN_FILE_BYTES_MAX} bytes")));
    }
    header(&std::fs::read_to_string(path).map_err(|error| wrong(&error))?)
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        let value = match self.source.as_deref() {
            None => return Ok(request),
            Some(Source::Text(value)) => value.clone(),
            Some(Source::File(path, following)) => following.get(|| read_token(path)),
        };
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}
