//! Keys from a server of https of the test's own.

use super::*;
use moso_proto::token::ed25519_jwk;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Longest wait for what must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the server says next; empty: nothing at all, and the connection stays.
type Says = Arc<Mutex<Vec<u8>>>;

struct Server {
    folder: TempDir,
    address: String,
    says: Says,
    asked: Arc<AtomicUsize>,
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A set with one key; and the key's id.
fn set(n: u8) -> (String, String) {
    let jwk = ed25519_jwk(&[n; 32]);
    let id = jwk["kid"].as_str().unwrap().to_owned();
    (serde_json::json!({ "keys": [jwk] }).to_string(), id)
}

impl Server {
    async fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&ca_key).unwrap().pem()).unwrap();
        let other = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("other.pem"), params.self_signed(&other).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let host = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = host.signed_by(&key, &Issuer::new(params, ca_key)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (says, asked) = (Says::default(), Arc::<AtomicUsize>::default());
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), says.clone(), asked.clone()));
        Server { folder, address, says, asked }
    }

    fn says(&self, bytes: Vec<u8>) {
        *self.says.lock().unwrap() = bytes;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn keys(&self, ca: &str, pace: Pace) -> Arc<RemoteKeys> {
        let address = format!("https://{}/jwks", self.address);
        let ca = Some(self.folder.path().join(ca));
        Arc::new(RemoteKeys::new("https://issuer.example", Some(&address), ca, pace).unwrap())
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, says: Says, asked: Arc<AtomicUsize>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, says, asked) = (acceptor.clone(), says.clone(), asked.clone());
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            asked.fetch_add(1, Ordering::SeqCst);
            let mut said = says.lock().unwrap().clone();
            if head.starts_with(b"GET /.well-known/openid-configuration ") {
                // The keys are at the address that every other path has.
                let host = stream.get_ref().0.local_addr().unwrap();
                let body =
                    serde_json::json!({ "issuer": format!("https://{host}"), "jwks_uri": format!("https://{host}/k") });
                said = answer("200 OK", &body.to_string());
            }
            if said.is_empty() {
                // Nothing more comes until the other side goes.
                let _ = stream.read_u8().await;
                return;
            }
            let _ = stream.write_all(&said).await;
            let _ = stream.shutdown().await;
        });
    }
}

/// A pace at which everything is due at once, but a key that is not known causes no fetch within an hour.
fn quick() -> Pace {
    let hour = Duration::from_secs(3_600);
    Pace { fresh: hour, retry: hour, again: Duration::ZERO, kept: hour, time: DEADLINE }
}

fn has(keys: &RemoteKeys, id: &str) -> bool {
    matches!(keys.find(id), Found::Set(set) if set.has(id))
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is() {
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_and_an_old_one_goes() {
    let server = Server::start().await;
    let ((one, old), (two, new)) = (set(1), set(2));
    server.says(answer("200 OK", &one));
    let keys = server.keys("ca.pem", quick());
    assert!(matches!(keys.find(&old), Found::Soon), "nothing is fetched yet");
    let changes = Arc::new(AtomicUsize::new(0));
    let (of, counted) = (keys.clone(), changes.clone());
    let runner = tokio::spawn(run(move || vec![of.clone()], move || _ = counted.fetch_add(1, Ordering::SeqCst)));
    eventually("the first keys", || has(&keys, &old)).await;
    server.says(answer("200 OK", &two));
    eventually("the new key", || has(&keys, &new)).await;
    assert!(!has(&keys, &old));
    assert_eq!(changes.load(Ordering::SeqCst), 2, "what was found good by the old keys is forgotten");
    runner.abort();
}

#[tokio::test]
async fn invented_keys_cause_no_flood_of_fetches() {
    let server = Server::start().await;
    let (one, known) = set(1);
    server.says(answer("200 OK", &one));
    let keys = server.keys("ca.pem", Pace { again: Duration::from_secs(3_600), ..quick() });
    let of = keys.clone();
    let runner = tokio::spawn(run(move || vec![of.clone()], || {}));
    eventually("the first keys", || has(&keys, &known)).await;
    for n in 0..1_000 {
        let found = keys.find(&format!("invented-{n}"));
        assert!(matches!(found, Found::Set(set) if !set.has("invented")), "it is refused for good");
    }
    assert_eq!(server.asked(), 1);
    runner.abort();
}

#[tokio::test]
async fn an_answer_that_is_none_changes_nothing() {
    let server = Server::start().await;
    let (one, known) = set(1);
    server.says(answer("200 OK", &one));
    let keys = server.keys("ca.pem", Pace { time: Duration::from_secs(20), ..quick() });
    assert!(keys.fetch().await && has(&keys, &known));
    let huge = format!("{{\"keys\": [{}]}}", " ".repeat(300 * 1024));
    let endless =
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), b"1000\r\n".to_vec(), vec![b' '; 0x1000]];
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: https://{}/else\r\nContent-Length: 0\r\n\r\n", server.address);
    for bad in [
        answer("200 OK", "{"),
        answer("200 OK", "{\"keys\": []}"),
        answer("200 OK", "<html>"),
        answer("500 Internal Server Error", &set(2).0),
        answer("200 OK", &huge),
        endless.concat(),
        moved.into_bytes(),
        [b"HTTP/1.1 200 OK\r\n".to_vec(), b"X: y\r\n".repeat(100_000)].concat(),
        vec![7; 100_000],
    ] {
        let asked = server.asked();
        server.says(bad.clone());
        assert!(!keys.fetch().await, "{:.60}", String::from_utf8_lossy(&bad));
        assert!(has(&keys, &known) && server.asked() == asked + 1, "asked once, and the old keys stay");
    }
}

#[tokio::test]
async fn a_slow_answer_is_given_up_and_too_old_keys_too() {
    let server = Server::start().await;
    let (one, known) = set(1);
    server.says(answer("200 OK", &one));
    let keys = server.keys("ca.pem", quick());
    assert!(keys.fetch().await);
    let slow = Pace { time: Duration::from_millis(50), ..quick() };
    let late = server.keys("ca.pem", Pace { kept: Duration::ZERO, ..slow });
    late.set.store(keys.set.load_full());
    late.fetched_ms.store(1, Ordering::Release);
    server.says(Vec::new());
    // They are as old as they may be: given up, and the caller is told that they have changed.
    assert!(late.fetch().await && !has(&late, &known));
    let kept = server.keys("ca.pem", slow);
    kept.set.store(keys.set.load_full());
    kept.fetched_ms.store(1, Ordering::Release);
    assert!(!kept.fetch().await && has(&kept, &known));
}

#[tokio::test]
async fn a_server_that_another_authority_vouches_for_is_not_asked() {
    let server = Server::start().await;
    server.says(answer("200 OK", &set(1).0));
    let keys = server.keys("other.pem", quick());
    assert!(!keys.fetch().await && matches!(keys.find(&set(1).1), Found::Soon));
    assert!(!server.keys("nowhere.pem", quick()).fetch().await);
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let server = Server::start().await;
    let (one, known) = set(1);
    server.says(answer("200 OK", &one));
    let ca = || Some(server.folder.path().join("ca.pem"));
    let keys = RemoteKeys::new(&format!("https://{}", server.address), None, ca(), quick()).unwrap();
    assert!(keys.fetch().await && has(&keys, &known));
    assert_eq!(server.asked(), 2);
    // The document is of an issuer of another name.
    let other = RemoteKeys::new(&format!("https://{}/", server.address), None, ca(), quick()).unwrap();
    assert!(!other.fetch().await);
    assert!(RemoteKeys::new("moso://prod", None, ca(), quick()).is_err());
}
