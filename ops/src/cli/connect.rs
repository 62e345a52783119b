//! Which cluster is meant, and the file in which `moso up` says where its cluster is.

use super::exit::{NoCluster, Usage};
use anyhow::{Context, Result};
use clap::Args;
use moso_client::{Client, ClientOptions, Code, Secret, TlsOptions, Token};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Holds a token.
const TOKEN_ENV: &str = "MOSO_TOKEN";
/// A person waits no longer than this for an answer.
const RETRY_BUDGET: Duration = Duration::from_secs(10);

/// Where a local cluster is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalAddress {
    /// Process id of `moso up`.
    pub pid: u32,
    /// API addresses of its nodes.
    pub addresses: Vec<String>,
    /// Certificate of its authority, if it asks who calls.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// A token for it.
    #[serde(default)]
    pub token: Option<PathBuf>,
}

/// How nodes are known, and who calls them.
#[derive(Debug, Default, Args)]
pub struct Identity {
    /// Certificate of the cluster's authority (PEM): connections are encrypted, and nodes must show that they are its.
    #[arg(long, global = true, env = "MOSO_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A file with the token that shows who calls; MOSO_TOKEN has the token itself.
    #[arg(long, global = true, env = "MOSO_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A user's certificate (PEM), instead of a token.
    #[arg(long, global = true, env = "MOSO_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, env = "MOSO_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Identity {
    /// An empty variable is as none.
    fn tls(&self) -> Option<TlsOptions> {
        let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let identity = given(&self.cert).zip(given(&self.key));
        given(&self.ca).map(|ca| TlsOptions { ca, identity, server_name: None })
    }

    fn token(&self) -> Option<Token> {
        let file = self.token_file.clone().filter(|path| !path.as_os_str().is_empty());
        let text = std::env::var(TOKEN_ENV).ok().filter(|text| !text.is_empty());
        file.map(Token::File).or(text.map(|text| Token::Text(Secret::new(text))))
    }
}

/// A client of the cluster named on the command line, or else of the local one.
pub async fn client(connect: &[String], identity: &Identity) -> Result<Client> {
    // An empty MOSO_CONNECT is as none.
    let named = connect.iter().filter(|address| !address.is_empty());
    let mut addresses: Vec<String> = named.cloned().collect();
    let (mut tls, mut token) = (identity.tls(), identity.token());
    if addresses.is_empty() {
        let local = LocalAddress::read(&LocalAddress::path()?)?;
        addresses = local.addresses;
        let by_certificate = tls.as_ref().is_some_and(|tls| tls.identity.is_some());
        tls = tls.or(local.ca.map(|ca| TlsOptions { ca, ..TlsOptions::default() }));
        token = token.or(local.token.filter(|_| !by_certificate).map(Token::File));
    } else if tls.is_none()
        && let Some(far) = addresses.iter().find(|address| !is_here(address))
    {
        let text = format!("{far} is not on this machine: name the certificate of the cluster's authority with --ca");
        return Err(Usage(text).into());
    }
    let author = author();
    let options = ClientOptions { retry_budget: RETRY_BUDGET, author, tls, token, ..ClientOptions::default() };
    match Client::connect_with(addresses, options).await {
        Err(error @ moso_client::Error::Refused { code: Code::Invalid, .. }) => Err(Usage(error.to_string()).into()),
        result => Ok(result?),
    }
}

/// Whether an address is this machine's own: only there anything is said in plain text.
fn is_here(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The user's name, as the environment has it.
pub fn author() -> String {
    std::env::var("USER").unwrap_or_default()
}

fn uid() -> Result<u32> {
    Ok(std::fs::metadata("/proc/self").context("/proc is needed")?.uid())
}

impl LocalAddress {
    /// The file of this user's local cluster.
    pub fn path() -> Result<PathBuf> {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_else(|| "/tmp".into());
        Ok(Path::new(&folder).join(format!("moso-{}.json", uid()?)))
    }

    /// Reads the file, if the cluster it names still runs.
    pub fn read(path: &Path) -> Result<Self> {
        let help = "start one with `moso up`, or name a node with --connect host:port";
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(_) => return Err(NoCluster(format!("no local cluster runs; {help}")).into()),
        };
        // In /tmp anybody may make such a file, and would then see our submissions.
        if meta.uid() != uid()? || !meta.is_file() {
            return Err(NoCluster(format!("{} is not ours; {help}", path.display())).into());
        }
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        let local: LocalAddress =
            serde_json::from_slice(&text).map_err(|_| NoCluster(format!("{} is damaged; {help}", path.display())))?;
        if !Path::new("/proc").join(local.pid.to_string()).exists() {
            return Err(NoCluster(format!("the local cluster has ended; {help}")).into());
        }
        Ok(local)
    }

    /// Writes the file, readable by this user alone.
    pub fn write(&self, path: &Path) -> Result<()> {
        let _ = std::fs::remove_file(path);
        let file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| path.display().to_string())?;
        serde_json::to_writer(file, self).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_on_this_machine() {
        for here in ["127.0.0.1:1", "localhost:7", "[::1]:7", "127.8.0.1:1"] {
            assert!(is_here(here), "{here}");
        }
        for far in ["10.0.0.1:1", "moso.example:7", "127.0.0.1.evil.example:1", "[::]:1"] {
            assert!(!is_here(far), "{far}");
        }
    }

    #[test]
    fn the_address_of_a_living_cluster_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("moso.json");
        assert!(LocalAddress::read(&path).unwrap_err().is::<NoCluster>());
        let local = LocalAddress {
            pid: std::process::id(),
            addresses: vec!["127.0.0.1:1".into()],
            ca: Some("/somewhere/ca.pem".into()),
            token: None,
        };
        local.write(&path).unwrap();
        local.write(&path).unwrap();
        assert_eq!(LocalAddress::read(&path).unwrap(), local);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);

        // No process has this number: it is above the kernel's limit.
        let ended = LocalAddress { pid: u32::MAX, ..local };
        ended.write(&path).unwrap();
        let error = LocalAddress::read(&path).unwrap_err();
        assert!(error.is::<NoCluster>() && error.to_string().contains("moso up"));
        std::fs::write(&path, "{").unwrap();
        assert!(LocalAddress::read(&path).unwrap_err().is::<NoCluster>());
    }
}
