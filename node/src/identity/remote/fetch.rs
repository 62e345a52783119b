//! One fetch: GET over https, of bounded size, to the address that is named and no other.

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use moso_proto::token::{KEY_SET_BYTES_MAX, KeySet};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0, section 4).
const WELL_KNOWN: &str = ".well-known/openid-configuration";
/// Bytes of a head: some KiB everywhere.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of an address.
const ADDRESS_BYTES_MAX: usize = 2_048;

/// Where keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    issuer: String,
    /// Of the keys, or of the document that names them.
    address: Address,
    discovers: bool,
    ca: Option<PathBuf>,
}

/// An address of https.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    path: String,
}

impl Address {
    fn new(text: &str) -> Result<Address, String> {
        let wrong = |why: &str| format!("{text:.200?} is no address that keys are fetched from: {why}");
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("it must begin with https://"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a name or password in it is not used"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Address { host, port: authority.port_u16().unwrap_or(443), path })
    }
}

/// What a discovery document must say; it says more.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

/// The address of the keys, from an issuer's discovery document.
///
/// # Errors
/// For people: it is none, or it is another issuer's.
pub fn jwks_uri(document: &[u8], issuer: &str) -> Result<String, String> {
    let wrong = |why: String| format!("not the OpenID Connect configuration of {issuer}: {why}");
    let Document { issuer: named, jwks_uri } = serde_json::from_slice(document).map_err(|e| wrong(e.to_string()))?;
    if named != issuer {
        return Err(wrong(format!("it is of {named:.200?}")));
    }
    Address::new(&jwks_uri)?;
    Ok(jwks_uri)
}

impl Source {
    pub fn new(issuer: &str, keys: Option<&str>, ca: Option<PathBuf>) -> Result<Self, String> {
        let address = match keys {
            Some(address) => Address::new(address)?,
            None => Address::new(&format!("{}/{WELL_KNOWN}", issuer.trim_end_matches('/')))?,
        };
        Ok(Source { issuer: issuer.to_owned(), address, discovers: keys.is_none(), ca })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The keys as they are there now.
    pub async fn fetch(&self) -> Result<KeySet, String> {
        let ca = self.ca.clone();
        // Reads files.
        let config = tokio::task::spawn_blocking(move || config(ca)).await.map_err(|error| error.to_string())??;
        let config = Arc::new(config);
        let bytes = match self.discovers {
            false => get(&self.address, config).await?,
            true => {
                let document = get(&self.address, config.clone()).await?;
                get(&Address::new(&jwks_uri(&document, &self.issuer)?)?, config).await?
            }
        };
        KeySet::from_json(&bytes).map_err(|error| error.to_string())
    }
}

/// Trusts what is in the file, or else what the system trusts.
fn config(ca: Option<PathBuf>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let bytes = crate::tls::read_file("keys_ca", &path)?;
            for certificate in CertificateDer::pem_slice_iter(&bytes) {
                let added =
                    certificate.map_err(|e| e.to_string()).and_then(|c| roots.add(c).map_err(|e| e.to_string()));
                added.map_err(|error| format!("keys_ca = {}: {error}", path.display()))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err("there is no certificate to check the issuer's server by: name a file as keys_ca".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has what its own versions need");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn get(address: &Address, config: Arc<ClientConfig>) -> Result<Bytes, String> {
    let Address { host, port, path } = address;
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("https://{host}:{port}{path}: {what}: {error}");
    let name = ServerName::try_from(host.clone()).map_err(|error| failed("its host", &error))?;
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| failed("not reached", &error))?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| failed("it does not show that it is this host", &error))?;
    let mut http = http1::Builder::new();
    let handshake = http.max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed("no HTTP", &error))?;
    let request = Request::get(path)
        .header(header::HOST, if *port == 443 { host.clone() } else { format!("{host}:{port}") })
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed("its path", &error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| failed("no answer", &error))?;
        // A redirect is not followed: it would lead to where nobody said that keys are.
        if answer.status() != StatusCode::OK {
            return Err(failed("the answer is not 200 OK", &answer.status()));
        }
        let body = Limited::new(answer.into_body(), KEY_SET_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| failed("its body", &error))
    };
    tokio::pin!(answer, connection);
    // The connection is driven until the answer is here, and dropped with it.
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended.map_err(|error| failed("the connection broke", &error))?;
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_https_and_of_nothing_else() {
        let address = Address::new("https://idp.example/jwks?x=1").unwrap();
        assert_eq!((&*address.host, address.port, &*address.path), ("idp.example", 443, "/jwks?x=1"));
        assert_eq!(Address::new("https://[::1]:8443").unwrap().host, "::1");
        let long = format!("https://x/{}", "y".repeat(3_000));
        for bad in ["http://x/", "x", "", "https://", "file:///etc/passwd", "https://a:b@x/", "https:///x", &long] {
            assert!(Address::new(bad).is_err(), "{bad:.40}");
        }
    }

    #[test]
    fn a_discovery_document_is_its_issuers_own() {
        let issuer = "https://idp.example/";
        let document = br#"{"issuer": "https://idp.example/", "jwks_uri": "https://idp.example/jwk", "more": [1]}"#;
        assert_eq!(jwks_uri(document, issuer).unwrap(), "https://idp.example/jwk");
        assert!(jwks_uri(document, "https://idp.example").unwrap_err().contains("it is of"));
        for bad in [
            &b"{}"[..],
            b"",
            b"[1]",
            br#"{"issuer": "https://idp.example/", "jwks_uri": "http://idp.example/jwk"}"#,
            br#"{"issuer": "https://idp.example/", "jwks_uri": 7}"#,
        ] {
            assert!(jwks_uri(bad, issuer).is_err());
        }
        // Where no address is given, the issuer's own document is asked, with or without a slash at its end.
        for issuer in ["https://idp.example/realm", "https://idp.example/realm/"] {
            let source = Source::new(issuer, None, None).unwrap();
            assert_eq!(source.address.path, "/realm/.well-known/openid-configuration");
        }
    }
}
