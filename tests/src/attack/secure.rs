//! Connections over TLS that show any certificate, to a cluster with certificates.

use super::victim::Prey;
use anyhow::{Context, Result};
use moso::ca::Pair;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An encrypted connection.
pub(super) type Line = TlsStream<TcpStream>;

/// Greets at `address`, showing `pair`, for this protocol. `None`: the node did not let it come to a greeting.
pub(super) async fn line(prey: &Prey, address: &str, pair: Option<&Pair>, protocol: &[u8]) -> Result<Option<Line>> {
    let config = config(prey, pair, protocol)?;
    let Some(stream) = super::probe::connect(address).await else { return Ok(None) };
    let name = ServerName::try_from("127.0.0.1").context("an address")?;
    let greeting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    Ok(tokio::time::timeout(super::probe::ANSWER, greeting).await.ok().and_then(Result::ok))
}

fn config(prey: &Prey, pair: Option<&Pair>, protocol: &[u8]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(prey.ca())? {
        roots.add(certificate?)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_file_iter(&pair.cert)?.collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key)?)?
        }
    };
    // Nodes among themselves name no protocol.
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.to_vec()];
    }
    Ok(config)
}
