//! An issuer of tokens (OpenID Connect) whose keys the node fetches.

use super::common::eventually;
use super::{Cluster, options, secure};
use moso_client::{Client, ClientOptions, Code};
use moso_proto::token::{SigningKey, ed25519_jwk};
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const AUDIENCE: &str = "https://moso.example";

/// A server of https that says where its keys are, and what they are.
struct Issuer {
    name: String,
    keys: Arc<Mutex<Vec<Value>>>,
}

impl Issuer {
    /// Shows a certificate that the cluster's authority has made for this machine.
    async fn start(cluster: &Cluster) -> Issuer {
        let pair = super::authority(cluster).node_pair(1);
        let chain = CertificateDer::pem_file_iter(&pair.cert).unwrap().map(Result::unwrap).collect();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Issuer { name: format!("https://{}", listener.local_addr().unwrap()), keys: Arc::default() };
        let (name, keys, acceptor) = (issuer.name.clone(), issuer.keys.clone(), TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (name, keys, acceptor) = (name.clone(), keys.clone(), acceptor.clone());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(stream).await?;
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let body = match head.starts_with(b"GET /.well-known/openid-configuration ") {
                        true => json!({ "issuer": name, "jwks_uri": format!("{name}/keys") }),
                        false => json!({ "keys": *keys.lock().unwrap() }),
                    };
                    let body = body.to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        issuer
    }

    /// Has one key from now on, a new one.
    fn new_key(&self) -> SigningKey {
        let (key, entry) = key();
        *self.keys.lock().unwrap() = vec![entry];
        key
    }

    fn token(&self, key: &SigningKey) -> String {
        let now_s = super::common::now_ms() / 1_000;
        let claims = json!({
            "iss": self.name, "sub": "anna", "aud": [AUDIENCE], "iat": now_s, "exp": now_s + 3_600,
        });
        key.sign_any(&claims).unwrap()
    }
}

/// A key, and its entry in a set.
fn key() -> (SigningKey, Value) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let public = key.public_key_raw();
    (SigningKey::ed25519(key.serialized_der(), public).unwrap(), ed25519_jwk(public))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_issuer_are_fetched_and_change() {
    let mut cluster = secure().await;
    let issuer = Issuer::start(&cluster).await;
    let old = issuer.new_key();
    let ca = cluster.nodes.credentials().unwrap().ca.clone();
    let issuers = cluster.nodes.folder().join("issuers.json");
    let entry = json!({ "issuer": issuer.name, "audience": [AUDIENCE], "algorithms": ["EdDSA"], "keys_ca": ca });
    std::fs::write(&issuers, json!([entry]).to_string()).unwrap();
    let config = std::fs::read_to_string(cluster.nodes.config(1)).unwrap();
    cluster.nodes.kill(1).unwrap();
    std::fs::write(cluster.nodes.config(1), format!("token_issuers = {issuers:?}\n{config}")).unwrap();
    cluster.nodes.restart(1).await.unwrap();
    let address = cluster.nodes.addrs()[0].clone();
    let called = async |token: String, budget: Duration| {
        let options = ClientOptions { retry_budget: budget, discover: false, ..options(&cluster, Some(token)) };
        Client::connect_with([address.clone()], options).await?.cluster().await.map(drop)
    };
    // While the keys are fetched the token is to come again, which a client does by itself.
    called(issuer.token(&old), super::common::DEADLINE).await.unwrap();
    let new = issuer.new_key();
    eventually("the new key is fetched", async || called(issuer.token(&new), Duration::ZERO).await.ok()).await;
    // A key that is gone and one that never was are refused for good once the node has looked.
    for token in [issuer.token(&old), issuer.token(&key().0)] {
        eventually("the token is refused", async || {
            let error = called(token.clone(), Duration::ZERO).await.err()?;
            (error.code() == Some(Code::Unauthenticated)).then_some(())
        })
        .await;
    }
}
