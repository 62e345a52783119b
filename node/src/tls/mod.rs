//! TLS on all ports: who listens shows the node's certificate, nodes show theirs to each other, and users may.
//!
//! The files are looked at every few seconds. What they make takes the place of what was, for connections that come
//! then; a file that cannot be used is logged, and what was stays.

mod incoming;
mod line;
mod load;
mod watch;

#[cfg(test)]
mod tests;

pub use incoming::{Counts, Incoming, Port};
pub use line::{Caller, Line, ReadSide, WriteSide};
pub(crate) use load::read as read_file;
pub use watch::{LOOK_EVERY, Watched};

use crate::error::{Error, Result};
use crate::identity::certificate;
use arc_swap::ArcSwap;
use load::Loaded;
use moso_proto::grant::{Named, Subject};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The files, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificates of those whose signatures are trusted.
    pub ca: PathBuf,
    /// The node's certificate, with what leads to the CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A node's side of TLS.
pub struct Tls {
    cluster: String,
    node: u32,
    loaded: ArcSwap<Loaded>,
    watched: Watched,
    files: Files,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`Error::Config`] if one cannot be used, or the certificate is not this node's.
    pub fn open(files: Files, cluster: &str, node: u32) -> Result<Tls> {
        let watched = Watched::new([&files.ca, &files.cert, &files.key]);
        let loaded = load::load(&files).and_then(|loaded| own(loaded, cluster, node));
        let loaded = loaded.map_err(|reason| Error::Config(vec![reason]))?;
        Ok(Tls { cluster: cluster.to_owned(), node, loaded: ArcSwap::from_pointee(loaded), watched, files })
    }

    /// Reads the files again if they have changed; what cannot be used leaves all as it is.
    pub fn refresh(&self) {
        if !self.watched.changed() {
            return;
        }
        match load::load(&self.files).and_then(|loaded| own(loaded, &self.cluster, self.node)) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                tracing::info!(cert = %self.files.cert.display(), "new certificates are in use");
            }
            Err(error) => tracing::error!(%error, "the new certificates cannot be used, the old ones stay in use"),
        }
    }

    pub(crate) fn acceptor(&self, port: Port) -> TlsAcceptor {
        let loaded = self.loaded.load();
        let config = match port {
            Port::Api => &loaded.api,
            Port::Http => &loaded.http,
            Port::Peer => &loaded.peer,
        };
        TlsAcceptor::from(config.clone())
    }

    /// Lets a node in. Gives its number, by its certificate.
    pub(crate) async fn accept_peer(&self, stream: TcpStream) -> std::result::Result<(u32, Line), String> {
        let stream = self.acceptor(Port::Peer).accept(stream).await;
        let stream = stream.map_err(|error| format!("a connection that is not of a node: {error}"))?;
        let node = self.node_of(stream.get_ref().1.peer_certificates())?;
        Ok((node, Line::tls(TlsStream::Server(stream))))
    }

    /// Makes a connection to a node of this cluster, whatever its number.
    pub(crate) async fn connect_peer(&self, stream: TcpStream) -> std::result::Result<(u32, Line), String> {
        let config = self.loaded.load().dial.clone();
        // Nodes are known by their numbers, not by their addresses: this name is not looked at.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
        let stream = TlsConnector::from(config).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("it does not show that it is a node: {error}"))?;
        let node = self.node_of(stream.get_ref().1.peer_certificates())?;
        Ok((node, Line::tls(TlsStream::Client(stream))))
    }

    /// The number of the node whose certificate this is; the chain was checked.
    fn node_of(&self, certificates: Option<&[CertificateDer<'_>]>) -> std::result::Result<u32, String> {
        let named = certificate::named(certificates.unwrap_or_default())?;
        match named {
            Named { cluster, subject: Subject::Node(node) } if cluster == self.cluster => Ok(node),
            Named { cluster, subject: Subject::Node(node) } => {
                Err(format!("the certificate is of node {node} of cluster {cluster:?}, this is {:?}", self.cluster))
            }
            Named { subject: Subject::User(grants), .. } => {
                Err(format!("the certificate is of the user {:?}, not of a node", grants.user))
            }
        }
    }

    /// Name of the cluster.
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }
}

/// Fails if the certificate is not this node's.
fn own(loaded: Loaded, cluster: &str, node: u32) -> std::result::Result<Loaded, String> {
    let named = certificate::named(&loaded.chain).map_err(|reason| format!("tls_cert: {reason}"))?;
    let wanted = Named { cluster: cluster.to_owned(), subject: Subject::Node(node) };
    match named == wanted {
        true => Ok(loaded),
        false => Err(format!(
            "tls_cert: the certificate must name {}, it names {}",
            wanted.uris().join(" "),
            named.uris().join(" ")
        )),
    }
}
