//! Who is let in, and who is not.

use super::*;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Ca = Issuer<'static, KeyPair>;

fn ca() -> (Ca, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// Files of whoever these names are, signed by `ca`, and trusting `trusted`.
fn files(folder: &Path, ca: &Ca, trusted: &str, uris: &[&str]) -> Files {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Files {
        ca: put("ca.pem", trusted.to_owned()),
        cert: put("cert.pem", certificate.pem()),
        key: put("key.pem", key.serialize_pem()),
    }
}

fn node(ca: &Ca, trusted: &str, cluster: &str, number: u32) -> (tempfile::TempDir, Tls) {
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("moso://{cluster}/node/{number}");
    let files = files(folder.path(), ca, trusted, &[&uri]);
    let tls = Tls::open(files, cluster, number).unwrap();
    (folder, tls)
}

/// What both sides make of a connection from `from` to `to`.
async fn meet(from: &Tls, to: &Tls) -> (std::result::Result<u32, String>, std::result::Result<u32, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dial = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (node, line) = from.connect_peer(stream).await?;
        // With TLS 1.3 the other side's refusal comes only now.
        let (mut reader, mut writer) = line.into_split();
        writer.write_all(b"hello").await.map_err(|e| e.to_string())?;
        writer.flush().await.map_err(|e| e.to_string())?;
        let mut answer = [0; 5];
        reader.read_exact(&mut answer).await.map_err(|e| e.to_string())?;
        Ok(node)
    };
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let (node, line) = to.accept_peer(stream).await?;
        let (mut reader, mut writer) = line.into_split();
        let mut word = [0; 5];
        reader.read_exact(&mut word).await.map_err(|e| e.to_string())?;
        writer.write_all(&word).await.map_err(|e| e.to_string())?;
        writer.flush().await.map_err(|e| e.to_string())?;
        Ok(node)
    };
    tokio::join!(dial, accept)
}

#[tokio::test]
async fn nodes_of_a_cluster_know_each_other_by_number() {
    let (ca, pem) = ca();
    let ((_one, one), (_two, two)) = (node(&ca, &pem, "grid", 1), node(&ca, &pem, "grid", 2));
    assert_eq!(meet(&one, &two).await, (Ok(2), Ok(1)));
}

#[tokio::test]
async fn another_clusters_node_and_another_ca_are_refused() {
    let ((here, pem), (there, other)) = (ca(), ca());
    let ((_one, one), (_two, named)) = (node(&here, &pem, "grid", 1), node(&here, &pem, "test", 2));
    let (dialled, accepted) = meet(&named, &one).await;
    assert!(dialled.unwrap_err().contains("cluster \"grid\""));
    assert!(accepted.is_err());
    let (dialled, _) = meet(&one, &named).await;
    assert!(dialled.unwrap_err().contains("cluster \"test\""));
    let (_three, foreign) = node(&there, &other, "grid", 2);
    assert!(meet(&foreign, &one).await.1.is_err() && meet(&one, &foreign).await.0.is_err());
    // It trusts this CA, but its own certificate is of another.
    let (_four, half) = node(&there, &pem, "grid", 2);
    let (dialled, accepted) = meet(&half, &one).await;
    assert!(dialled.is_err() && accepted.is_err());
}

#[tokio::test]
async fn a_users_certificate_is_no_nodes() {
    let (ca, pem) = ca();
    let (folder, one) = node(&ca, &pem, "grid", 1);
    let user = tempfile::tempdir().unwrap();
    let user = files(user.path(), &ca, &pem, &["moso://grid/user/anna"]);
    let error = Tls::open(user.clone(), "grid", 1).err().unwrap().to_string();
    assert!(error.contains("moso://grid/node/1") && error.contains("moso://grid/user/anna"), "{error}");
    let loaded = load::load(&user).unwrap();
    let watched = Watched::new([&user.ca]);
    let anna = Tls { cluster: "grid".into(), node: 1, loaded: ArcSwap::from_pointee(loaded), watched, files: user };
    let (_, accepted) = meet(&anna, &one).await;
    assert!(accepted.unwrap_err().contains("user \"anna\""));
    drop(folder);
}

#[tokio::test]
async fn plain_text_is_refused() {
    let (ca, pem) = ca();
    let (_one, one) = node(&ca, &pem, "grid", 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    assert!(one.accept_peer(accepted).await.is_err());
}

#[tokio::test]
async fn new_files_are_taken_up_and_broken_ones_are_not() {
    let (first, pem) = ca();
    let (folder, one) = node(&first, &pem, "grid", 1);
    let (_two, two) = node(&first, &pem, "grid", 2);
    std::fs::write(folder.path().join("cert.pem"), "not a certificate").unwrap();
    one.refresh();
    assert_eq!(meet(&one, &two).await, (Ok(2), Ok(1)));
    // Another CA, and a certificate of another node: only the one that is its own is taken.
    let (second, other) = ca();
    files(folder.path(), &second, &other, &["moso://grid/node/3"]);
    one.refresh();
    assert_eq!(meet(&one, &two).await, (Ok(2), Ok(1)));
    files(folder.path(), &second, &other, &["moso://grid/node/1"]);
    one.refresh();
    assert!(meet(&one, &two).await.0.is_err());
    let (_three, three) = node(&second, &other, "grid", 3);
    assert_eq!(meet(&one, &three).await, (Ok(3), Ok(1)));
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let (ca, pem) = ca();
    let folder = tempfile::tempdir().unwrap();
    let good = files(folder.path(), &ca, &pem, &["moso://grid/node/1"]);
    let refused = |files: Files, word: &str| {
        let error = Tls::open(files, "grid", 1).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(Files { ca: "/nowhere/ca.pem".into(), ..good.clone() }, "tls_ca = /nowhere/ca.pem");
    refused(Files { cert: good.key.clone(), ..good.clone() }, "no certificate");
    refused(Files { key: good.cert.clone(), ..good.clone() }, "tls_key");
    let other = folder.path().join("other.pem");
    std::fs::write(&other, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    refused(Files { key: other, ..good.clone() }, "does not go with tls_key");
    assert!(Tls::open(good, "grid", 1).is_ok());
}
