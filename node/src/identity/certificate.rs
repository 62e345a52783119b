//! Whom a certificate names.

use moso_proto::grant::Named;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Reads the names of the first certificate of a chain. That the chain leads to the CA must have been checked.
///
/// # Errors
/// For people: there is none, or it names nobody.
pub fn named(chain: &[CertificateDer<'_>]) -> Result<Named, String> {
    let first = chain.first().ok_or("no certificate was shown")?;
    let certificate = EndEntityCert::try_from(first).map_err(|error| format!("the certificate is damaged: {error}"))?;
    Named::from_uris(certificate.valid_uri_names()).map_err(|error| error.to_string())
}
