//! `moso ca`: certificates of a cluster; `moso token`: its tokens.

use super::input;
use super::output::Output;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use moso::ca::Authority;
use moso_client::proto::grant::{Grants, Role};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Make the authority of a cluster in a new folder: it signs certificates and tokens. Keep the folder safe.
    Init {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Name of the cluster, as the nodes' configurations have it.
        #[arg(long)]
        cluster: String,
    },
    /// Make a node's certificate; made again, it takes the place of the old one without a restart.
    Node {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// Number of the node.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        /// Name or IP address at which clients reach it; may be given several times.
        #[arg(long = "host", required = true)]
        hosts: Vec<String>,
        /// How long it is good, days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
        days: u32,
    },
    /// Make a certificate for a user, or for a worker.
    User {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The user's name: the owner of what is submitted with it.
        name: String,
        #[command(flatten)]
        grants: GrantArgs,
        /// How long it is good, days.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
        days: u32,
    },
    /// Add a key for workers' sessions and drop the one before the last. Copy the file to all nodes.
    SessionKey {
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// What is granted to a user.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Group for which the user may submit; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// submitter, worker:QUEUE,… (or worker:*), production:GROUP or operator; may be given several times. Default:
    /// submitter.
    #[arg(long = "role", value_name = "ROLE", value_parser = str::parse::<Role>)]
    roles: Vec<Role>,
}

impl GrantArgs {
    fn to(&self, user: &str) -> Grants {
        let roles = if self.roles.is_empty() { vec![Role::Submitter] } else { self.roles.clone() };
        Grants { user: user.to_owned(), groups: self.groups.clone(), roles }
    }
}

impl Ca {
    pub fn run(&self, out: &Output) -> Result<()> {
        match self {
            Ca::Init { folder, cluster } => {
                let authority = Authority::init(folder, cluster)?;
                out.show(&json!({ "folder": folder, "cluster": authority.cluster(), "ca": authority.ca() }), |_| {
                    format!(
                        "the authority of {cluster} is in {dir}\nnext: `moso ca node {dir} 1 --host HOST`, and in the node's configuration\n\
                         tls_ca = \"ca.pem\"  tls_cert = \"node-1.pem\"  tls_key = \"node-1.key\"\n\
                         token_keys = \"token-keys.json\"  session_keys = \"session-keys.json\"",
                        dir = folder.display()
                    )
                })
            }
            Ca::Node { folder, node, hosts, days } => {
                let pair = Authority::open(folder)?.node(*node, hosts, *days)?;
                shown(out, &pair.cert, &pair.key)
            }
            Ca::User { folder, name, grants, days } => {
                let pair = Authority::open(folder)?.user(grants.to(name), *days)?;
                shown(out, &pair.cert, &pair.key)
            }
            Ca::SessionKey { folder } => {
                let authority = Authority::open(folder)?;
                let number = authority.new_session_key()?;
                out.show(&json!({ "key": number, "file": authority.session_keys() }), |_| {
                    format!("key {number} is in {}: copy it to all nodes", authority.session_keys().display())
                })
            }
        }
    }
}

fn shown(out: &Output, cert: &Path, key: &Path) -> Result<()> {
    out.show(&json!({ "cert": cert, "key": key }), |_| format!("{}\n{}", cert.display(), key.display()))
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print it, or write it to a file. Whoever has it may do what it says until its time is over.
    Create {
        /// Folder of the cluster's authority, as `moso ca init` made it.
        #[arg(long = "ca-dir", value_name = "DIR")]
        folder: PathBuf,
        /// The user's name: the owner of what is submitted with it.
        #[arg(long)]
        user: String,
        #[command(flatten)]
        grants: GrantArgs,
        /// How long it is good, days.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_650), conflicts_with = "lifetime")]
        days: u32,
        /// How long it is good, as 12h.
        #[arg(long = "for", value_parser = input::duration, value_name = "TIME")]
        lifetime: Option<Duration>,
        /// Write it to this file, readable by its owner alone.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

impl Token {
    pub fn run(&self, out: &Output) -> Result<()> {
        let Token::Create { folder, user, grants, days, lifetime, file } = self;
        let lifetime = lifetime.unwrap_or(Duration::from_secs(24 * 3600) * *days);
        let token = Authority::open(folder)?.token(grants.to(user), lifetime)?;
        match file {
            None => out.show(&json!({ "token": token }), |_| token.clone()),
            Some(path) => {
                write(path, &token).with_context(|| path.display().to_string())?;
                out.show(&json!({ "file": path }), |_| path.display().to_string())
            }
        }
    }
}

/// Writes a token, at once and for its owner alone.
fn write(path: &Path, token: &str) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{token}")?;
    std::fs::rename(&new, path)
}
