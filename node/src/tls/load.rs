//! From files to what `rustls` works with.

use super::Files;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme, client::Resumption,
};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a file of certificates: hundreds of them.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the files make.
pub(super) struct Loaded {
    /// gRPC for clients and workers, who may show a certificate.
    pub api: Arc<ServerConfig>,
    /// HTTP, the same.
    pub http: Arc<ServerConfig>,
    /// Other nodes, who must show one.
    pub peer: Arc<ServerConfig>,
    /// To other nodes.
    pub dial: Arc<ClientConfig>,
    /// This node's certificate, and what leads to the CA.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Reads the files; `Err` names the key of the configuration, the file, and what is wrong.
pub(super) fn load(files: &Files) -> Result<Loaded, String> {
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(roots(&files.ca)?);
    let chain = certificates("tls_cert", &files.cert)?;
    let bytes = read("tls_key", &files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| wrong("tls_key", &files.key, error))?;
    let server = |must: bool| -> Result<ServerConfig, String> {
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let clients = if must { clients } else { clients.allow_unauthenticated() };
        let clients = clients.build().map_err(|error| wrong("tls_ca", &files.ca, error))?;
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider has what its own versions need").with_client_cert_verifier(clients);
        builder
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| wrong("tls_cert", &files.cert, format!("it does not go with tls_key: {error}")))
    };
    let with_protocol = |protocol: &[u8]| -> Result<Arc<ServerConfig>, String> {
        let mut config = server(false)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    };
    // Nodes stay connected: a shorter second greeting is worth nothing, and each one is to be checked anew.
    let mut peer = server(true)?;
    peer.send_tls13_tickets = 0;
    let dial = dial(provider.clone(), roots.clone(), &chain, &key).map_err(|e| wrong("tls_cert", &files.cert, e))?;
    Ok(Loaded {
        api: with_protocol(b"h2")?,
        http: with_protocol(b"http/1.1")?,
        peer: Arc::new(peer),
        dial: Arc::new(dial),
        chain,
    })
}

fn dial(
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<ClientConfig, Error> {
    let verifier = AnyNode {
        inner: WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?,
        roots,
        provider: provider.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain.to_vec(), key.clone_key())?;
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Takes whoever shows a server's certificate signed by the CA. Which node it is, the caller looks up in it: a number is
/// worth more than an address, which may have been another node's.
#[derive(Debug)]
struct AnyNode {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", path)? {
        roots.add(certificate).map_err(|error| wrong("tls_ca", path, error))?;
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(key, path)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read.map_err(|error| wrong(key, path, error))? {
        none if none.is_empty() => Err(wrong(key, path, "there is no certificate in it")),
        certificates => Ok(certificates),
    }
}

/// Reads a file of a bounded size.
pub(crate) fn read(key: &str, path: &Path) -> Result<Vec<u8>, String> {
    let length = std::fs::metadata(path).map_err(|error| wrong(key, path, error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(key, path, format!("it has {length} bytes, at most {FILE_BYTES_MAX} are read")));
    }
    std::fs::read(path).map_err(|error| wrong(key, path, error))
}

fn wrong(key: &str, path: &Path, error: impl Display) -> String {
    format!("{key} = {}: {error}", path.display())
}
