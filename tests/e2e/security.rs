//! Who may do what, over TLS, on real processes: strangers stay outside, users keep to what is theirs, and work goes on
//! through the loss of nodes and the change of keys.

#![allow(clippy::unwrap_used)]

#[path = "common/mod.rs"]
mod common;
#[path = "security/issuer.rs"]
mod issuer;
#[path = "security/raw.rs"]
mod raw;

use common::{Cluster, eventually, result, task};
use moso::LocalOptions;
use moso::ca::Authority;
use moso_client::proto::grant::{Grants, Role};
use moso_client::proto::object::{Queue, User, kind};
use moso_client::v1::act_request::Action;
use moso_client::v1::{ActReply, ActRequest, JobSpec, Kill, ListRequest, Outcome, Selector, TaskSpec};
use moso_client::v1::{AuditEntry, AuditRequest};
use moso_client::{Client, ClientOptions, Code, Error, Secret, SessionOptions, Submission, TlsOptions, Token};
use raw::{Worker, hello};
use std::path::PathBuf;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

async fn secure() -> Cluster {
    Cluster::start_with(LocalOptions { secure: true, ..LocalOptions::default() }).await
}

fn authority(cluster: &Cluster) -> Authority {
    cluster.nodes.credentials().unwrap().authority().unwrap()
}

fn grants(user: &str, groups: &[&str], roles: &[&str]) -> Grants {
    let roles: Vec<Role> = roles.iter().map(|role| role.parse().unwrap()).collect();
    Grants { user: user.into(), groups: groups.iter().map(|group| (*group).to_owned()).collect(), roles }
}

/// A token of the cluster's authority.
fn token(cluster: &Cluster, user: &str, groups: &[&str], roles: &[&str]) -> String {
    authority(cluster).token(grants(user, groups, roles), HOUR).unwrap()
}

fn options(cluster: &Cluster, token: Option<String>) -> ClientOptions {
    let ca = cluster.nodes.credentials().unwrap().ca.clone();
    ClientOptions {
        tls: Some(TlsOptions { ca, ..TlsOptions::default() }),
        token: token.map(|token| Token::Text(Secret::new(token))),
        retry_budget: common::DEADLINE,
        call_deadline: Duration::from_secs(5),
        ..ClientOptions::default()
    }
}

/// A client with these grants.
async fn user(cluster: &Cluster, name: &str, groups: &[&str], roles: &[&str]) -> Client {
    let options = options(cluster, Some(token(cluster, name, groups, roles)));
    Client::connect_with(cluster.nodes.addrs(), options).await.unwrap()
}

/// Why a client does not get in.
async fn refusal(cluster: &Cluster, options: ClientOptions) -> Error {
    let options = ClientOptions { retry_budget: Duration::ZERO, ..options };
    Client::connect_with(cluster.nodes.addrs(), options).await.err().expect("it must not get in")
}

async fn refused_as(cluster: &Cluster, options: ClientOptions, code: Code, word: &str) {
    let error = refusal(cluster, options).await;
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.to_string().contains(word), "{error}");
}

async fn kill(client: &Client, job: u64, code: u32) -> ActReply {
    let selector = Some(Selector { jobs: vec![job], ..Selector::default() });
    let action = Some(Action::Kill(Kill { code }));
    client.act(ActRequest { selector, action, dry_run: false, actor: "somebody else".into() }).await.unwrap()
}

async fn submit_one(client: &Client, spec: TaskSpec) -> Result<u64, Error> {
    let submission =
        Submission::new(spec).jobs(vec![JobSpec { body: b"secret".to_vec().into(), ..JobSpec::default() }]);
    client.submit(submission).await.map(|reply| reply.first_job_id)
}

fn own(queue: &str) -> TaskSpec {
    TaskSpec { owner: String::new(), ..task(queue) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_goes_on_encrypted_while_nodes_are_lost_and_added() {
    let mut cluster = secure().await;
    cluster.queue("Q").await;
    let anna = user(&cluster, "anna", &[], &["submitter"]).await;
    let pilot = user(&cluster, "pilot", &[], &["worker:Q"]).await;
    let mut session = pilot.session(SessionOptions { worker: "wn1".into(), node: None }).await.unwrap();
    let first = submit_one(&anna, own("Q")).await.unwrap();
    let lease = session.lease(&["Q"], 1, common::NOTHING).await.unwrap().remove(0);
    assert_eq!((lease.job_id, &lease.body[..]), (first, &b"secret"[..]));
    // The session's node is lost: it goes on at another one, and the lease is still its own.
    let node = cluster.nodes.addrs().iter().position(|address| address == session.node()).unwrap() as u32 + 1;
    cluster.nodes.kill(node).unwrap();
    let done = eventually("the result is taken", async || {
        let acknowledged = session.report(vec![result(&lease, Outcome::Finished)]).await;
        match acknowledged {
            Ok(ack) => Some(ack),
            Err(Error::Disconnected { .. }) => {
                let _ = session.reconnect().await;
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    let done = done.await;
    assert!(done.refused.is_empty(), "{done:?}");
    cluster.job_in(first, "finished").await;
    cluster.nodes.restart(node).await.unwrap();
    let new = cluster.nodes.add_node().unwrap();
    let object = cluster.nodes.object(new).unwrap();
    cluster.client.put_object(kind::NODE, &new.to_string(), &object, Some(0)).await.unwrap();
    eventually("the new node serves", async || cluster.nodes.is_ready(new).await.then_some(())).await;
    let alone = cluster.nodes.addrs()[new as usize - 1].clone();
    let by_new = options(&cluster, Some(token(&cluster, "anna", &[], &["submitter"])));
    let anna = Client::connect_with([alone], ClientOptions { discover: false, ..by_new }).await.unwrap();
    let second = submit_one(&anna, own("Q")).await.unwrap();
    assert_eq!(anna.job(second).await.unwrap().owner, "anna");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_stay_outside() {
    let cluster = secure().await;
    let good = || Some(token(&cluster, "anna", &[], &["submitter"]));
    refused_as(&cluster, options(&cluster, None), Code::Unauthenticated, "say who you are").await;
    for bad in ["", "x", "a.b.c", &good().unwrap()[1..], &good().unwrap().replace('.', "..")] {
        let error = refusal(&cluster, options(&cluster, Some(bad.to_owned()))).await;
        assert_eq!(error.code(), Some(Code::Unauthenticated), "{bad:.10}: {error}");
    }
    let over = authority(&cluster).token(grants("anna", &[], &["operator"]), Duration::ZERO).unwrap();
    // Clocks may differ by half a minute: a token whose time is over is not taken from then on.
    eventually("an expired token is refused", async || {
        let refused = Client::connect_with(
            cluster.nodes.addrs(),
            ClientOptions { retry_budget: Duration::ZERO, ..options(&cluster, Some(over.clone())) },
        );
        refused.await.err().filter(|error| error.to_string().contains("expired"))
    })
    .await;
    // Another cluster's authority: neither are its tokens taken, nor does its CA vouch for our nodes.
    let folder = tempfile::tempdir().unwrap();
    let other = Authority::init(&folder.path().join("ca"), "local").unwrap();
    let foreign = other.token(grants("anna", &[], &["operator"]), HOUR).unwrap();
    refused_as(&cluster, options(&cluster, Some(foreign)), Code::Unauthenticated, "key").await;
    let tls = Some(TlsOptions { ca: other.ca(), ..TlsOptions::default() });
    let error = refusal(&cluster, ClientOptions { tls, ..options(&cluster, good()) }).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // A certificate of theirs is refused in the greeting.
    let pair = other.user(grants("anna", &[], &["operator"]), 1).unwrap();
    let error = refusal(&cluster, certified(&cluster, pair.cert, pair.key)).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    // A node's certificate is no user's, a user's is good for what it says.
    let node = authority(&cluster).node_pair(1);
    refused_as(&cluster, certified(&cluster, node.cert, node.key), Code::Unauthenticated, "names no user").await;
    let pair = authority(&cluster).user(grants("berta", &[], &["submitter"]), 1).unwrap();
    let berta = Client::connect_with(cluster.nodes.addrs(), certified(&cluster, pair.cert, pair.key)).await.unwrap();
    cluster.queue("Q").await;
    let job = submit_one(&berta, own("Q")).await.unwrap();
    assert_eq!(berta.job(job).await.unwrap().owner, "berta");
    // In plain text nothing is answered, and a token is not even sent.
    let plain = ClientOptions { tls: None, token: None, ..options(&cluster, None) };
    assert!(matches!(refusal(&cluster, plain).await, Error::Unreachable { .. }));
    let plain = ClientOptions { tls: None, ..options(&cluster, good()) };
    assert_eq!(refusal(&cluster, plain).await.code(), Some(Code::Invalid));
    // The operator sees it.
    let view = cluster.client.cluster().await.unwrap();
    eventually("rejections are counted", async || {
        let view = cluster.client.cluster().await.unwrap();
        view.rejected.iter().any(|row| row.user.is_empty() && row.count > 0).then_some(())
    })
    .await;
    drop(view);
}

fn certified(cluster: &Cluster, cert: PathBuf, key: PathBuf) -> ClientOptions {
    let ca = cluster.nodes.credentials().unwrap().ca.clone();
    let tls = Some(TlsOptions { ca, identity: Some((cert, key)), server_name: None });
    ClientOptions { tls, ..options(cluster, None) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_of_tls_and_other_protocols_are_refused() {
    let cluster = secure().await;
    for port in [cluster.nodes.addrs(), cluster.nodes.http_addrs()].concat() {
        // The same words are answered in a version that is allowed.
        assert_eq!(raw::answer_to(&port, &raw::client_hello(3, 3)).await, raw::Answer::Hello, "TLS 1.2 at {port}");
        assert_eq!(raw::answer_to(&port, &raw::client_hello(3, 2)).await, raw::Answer::Alert(70), "TLS 1.1 at {port}");
        assert_eq!(raw::answer_to(&port, &raw::client_hello(3, 0)).await, raw::Answer::Alert(70), "SSL 3 at {port}");
        let plain = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        assert_ne!(raw::answer_to(&port, plain).await, raw::Answer::Other, "plain text at {port}");
    }
    // Health may be asked by anybody, over TLS; what the cluster holds may not.
    let ca = cluster.nodes.credentials().unwrap().ca.clone();
    let http = &cluster.nodes.http_addrs()[0];
    assert!(raw::https(&ca, http, "/healthz", None).await.starts_with("HTTP/1.1 200"));
    for path in ["/metrics", "/v1/cluster"] {
        assert!(raw::https(&ca, http, path, None).await.starts_with("HTTP/1.1 401"), "{path}");
        let anna = token(&cluster, "anna", &[], &[]);
        assert!(raw::https(&ca, http, path, Some(&anna)).await.starts_with("HTTP/1.1 200"), "{path}");
    }
}

/// A pilot's calls: it takes a job of its queue, others neither take nor report it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pilots_of_panda_show_who_they_are() {
    let cluster = secure().await;
    let operator = user(&cluster, "root", &[], &["operator"]).await;
    operator.put_object(kind::QUEUE, "SITE", &Queue::default(), None).await.unwrap();
    let ca = cluster.nodes.credentials().unwrap().ca.clone();
    let fronts = cluster.nodes.panda_addrs();
    let call = async |node: usize, path: &str, json: &str, who: Option<&str>| {
        raw::post(&ca, &fronts[node], &format!("/api/v1/{path}"), json, who).await
    };
    assert!(raw::https(&ca, &fronts[0], "/api/v1/system/is_alive", None).await.contains("\"success\":true"));
    let wanted = r#"{"site_name": "SITE", "prod_source_label": "user"}"#;
    assert!(call(0, "pilot/acquire_jobs", wanted, None).await.contains("say who you are"));
    let anna = token(&cluster, "anna", &[], &["submitter"]);
    let task = r#"{"task_parameters": {"taskName": "user.anna.t/", "site": "SITE", "noInput": true, "nEvents": 1,
        "nEventsPerJob": 1, "prodSourceLabel": "user", "jobParameters": []}}"#;
    let submitted = eventually("the front is open", async || {
        let answer = call(0, "task/submit", task, Some(&anna)).await;
        answer.contains("jediTaskID=").then_some(answer)
    });
    submitted.await;
    let [pilot, spy] = ["SITE", "OTHER"].map(|queue| token(&cluster, queue, &[], &[&format!("worker:{queue}")]));
    for other in [&spy, &anna] {
        assert!(call(1, "pilot/acquire_jobs", wanted, Some(other)).await.contains("\"success\":false"));
    }
    let job = eventually("the pilot gets the job", async || {
        let answer: serde_json::Value =
            serde_json::from_str(&call(1, "pilot/acquire_jobs", wanted, Some(&pilot)).await).unwrap();
        answer["data"]["jobs"][0]["PandaID"].as_u64()
    })
    .await;
    let update = |state: &str| format!(r#"{{"job_id": {job}, "job_status": "{state}", "attempt_nr": 1}}"#);
    assert!(call(2, "pilot/update_job", &update("failed"), Some(&spy)).await.contains("tobekilled"));
    assert!(call(2, "pilot/update_job", &update("failed"), Some(&anna)).await.contains("\"success\":false"));
    assert!(call(2, "pilot/update_job", &update("finished"), Some(&pilot)).await.contains("\"success\":true"));
    let ended = operator.job(job).await.unwrap();
    assert_eq!((ended.state.as_str(), ended.owner.as_str(), ended.attempt), ("finished", "anna", 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_keep_to_what_is_theirs() {
    let cluster = secure().await;
    cluster.queue("Q").await;
    let anna = user(&cluster, "anna", &["higgs"], &["submitter"]).await;
    let bob = user(&cluster, "bob", &[], &["submitter"]).await;
    let carol = user(&cluster, "carol", &[], &["submitter", "production:higgs"]).await;
    let job = submit_one(&anna, TaskSpec { group: "higgs".into(), label: "user".into(), ..own("Q") }).await.unwrap();

    // Nobody submits for another, or for a group that is not his, or without the role.
    let error = submit_one(&bob, TaskSpec { owner: "anna".into(), ..task("Q") }).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
    let error = submit_one(&bob, TaskSpec { group: "higgs".into(), ..own("Q") }).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
    let reader = user(&cluster, "rita", &[], &[]).await;
    assert_eq!(submit_one(&reader, own("Q")).await.unwrap_err().code(), Some(Code::Forbidden));

    // What a job was given is for its owner, his group and operators.
    assert_eq!(&anna.job_with_body(job).await.unwrap().body[..], b"secret");
    assert_eq!(&carol.job_with_body(job).await.unwrap().body[..], b"secret");
    let error = bob.job_with_body(job).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
    assert_eq!(bob.job(job).await.unwrap().state, "activated");

    // Killing: not by others, and by the production role with its codes only.
    let reply = kill(&bob, job, 9).await;
    assert_eq!((reply.changed, reply.refused[0].jobs, reply.refused[0].example), (0, 1, job), "{reply:?}");
    assert_eq!(kill(&carol, job, 3).await.changed, 0);
    let all = Selector { owner: "anna".into(), ..Selector::default() };
    let request = ActRequest {
        selector: Some(all),
        action: Some(Action::Kill(Kill { code: 9 })),
        dry_run: false,
        actor: "anna".into(),
    };
    let reply = bob.act(request).await.unwrap();
    assert_eq!((reply.changed, reply.matched), (0, 1), "a selector is no way around");
    assert_eq!(kill(&carol, job, 9).await.changed, 1);
    // The log names who did it, whoever he said he was.
    let killed = cluster.job_in(job, "cancelled").await;
    assert!(killed.log.iter().any(|change| change.who == "carol"), "{:?}", killed.log);
    assert!(killed.log.iter().all(|change| change.who != "somebody else"));

    // Objects and copies are for operators.
    let error = anna.put_object(kind::QUEUE, "MINE", &Queue::default(), None).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
    let error = anna.delete_object(kind::QUEUE, "Q", None).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
    assert!(anna.get_object(kind::QUEUE, "Q").await.is_ok());
    let error = anna.backup(1).await.err().expect("no copy");
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
    let view = cluster.client.cluster().await.unwrap();
    assert!(view.nodes.len() == 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_are_for_their_owners() {
    let cluster = secure().await;
    cluster.queue("Q").await;
    let anna = user(&cluster, "anna", &[], &["submitter"]).await;
    let bob = user(&cluster, "bob", &[], &["submitter"]).await;
    let pilot = user(&cluster, "pilot", &[], &["worker:Q"]).await;
    let job = submit_one(&anna, own("Q")).await.unwrap();
    let mut session = pilot.session(SessionOptions { worker: "wn1".into(), node: None }).await.unwrap();
    let lease = session.lease(&["Q"], 1, common::NOTHING).await.unwrap().remove(0);
    assert!(anna.job(job).await.unwrap().worker.starts_with("pilot:wn1"));
    let mut ended = result(&lease, Outcome::Finished);
    ended.output = b"the mass is 125".to_vec().into();
    session.report(vec![ended]).await.unwrap();
    cluster.job_in(job, "finished").await;
    assert_eq!(&anna.job(job).await.unwrap().output[..], b"the mass is 125");
    assert!(bob.job(job).await.unwrap().output.is_empty());
    for selector in [Selector { jobs: vec![job], ..Selector::default() }, Selector::default()] {
        let request = ListRequest { selector: Some(selector), limit: 10, cursor: String::new() };
        let listed = |list: moso_client::v1::JobList| list.jobs.into_iter().find(|found| found.job_id == job).unwrap();
        assert!(listed(bob.list_jobs(request.clone()).await.unwrap()).output.is_empty());
        assert!(!listed(anna.list_jobs(request).await.unwrap()).output.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_holds_what_is_his_alone() {
    let cluster = secure().await;
    cluster.queue("Q").await;
    cluster.queue("OTHER").await;
    let anna = user(&cluster, "anna", &[], &["submitter"]).await;
    let job = submit_one(&anna, own("Q")).await.unwrap();
    let good = token(&cluster, "pilot", &[], &["worker:Q"]);
    let evil = token(&cluster, "thief", &[], &["worker:OTHER", "worker:Q"]);
    const SESSION: u64 = 4_711;
    // Naming the task is no way into its queue.
    let task = anna.job(job).await.unwrap().task_id;
    let mut other = Worker::open(&cluster, &token(&cluster, "other", &[], &["worker:OTHER"]), hello(6, 0)).await;
    assert!(other.lease_of(&["OTHER"], task).await.leases.is_empty());
    let mut pilot = Worker::open(&cluster, &good, hello(SESSION, 0)).await;
    let key = pilot.frame(|frame| frame.session_key != 0).await.session_key;
    let lease = pilot.lease(&["Q"]).await.leases.remove(0);
    assert_eq!(lease.job_id, job);
    // Not of a queue that was not granted.
    let reply = pilot.lease(&["OTHER"]).await;
    assert_eq!(reply.fault.unwrap().code, Code::Forbidden.name());

    // Another worker says that it is this session: its result and its heartbeat are another session's.
    for key in [0, key, 77] {
        if key == 77 {
            let error = Worker::error(&cluster, &evil, hello(SESSION, key)).await;
            assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
            continue;
        }
        let mut thief = Worker::open(&cluster, &evil, hello(SESSION, key)).await;
        let ack = thief.result(result(&lease, Outcome::Finished)).await;
        assert!(ack.accepted.is_empty(), "{ack:?}");
        assert_eq!(ack.refused[0].code, Code::ForeignLease.name(), "{ack:?}");
        assert_eq!(thief.heartbeat(&lease).await.lost, [job]);
    }
    // Nor with the number that the views show.
    let shown = anna.job(job).await.unwrap().session;
    assert_ne!(shown, SESSION);
    for token in [&evil, &good] {
        let mut thief = Worker::open(&cluster, token, hello(shown, 0)).await;
        assert!(thief.result(result(&lease, Outcome::Finished)).await.accepted.is_empty());
    }
    // Who leased it still has it, on another stream and another node, and after a new key has taken over.
    authority(&cluster).new_session_key().unwrap();
    eventually("the new key is in use on all nodes", async || {
        for node in 0..3 {
            let mut fresh = Worker::open_at(&cluster, node, &good, hello(1 + node as u64, 0)).await;
            if fresh.frame(|frame| frame.session_key != 0).await.session_key == key {
                return None;
            }
        }
        Some(())
    })
    .await;
    let mut again = Worker::open(&cluster, &good, hello(SESSION, key)).await;
    assert!(again.heartbeat(&lease).await.lost.is_empty());
    assert_eq!(again.result(result(&lease, Outcome::Finished)).await.accepted, [job]);
    // Not a worker at all.
    let mut user = Worker::open(&cluster, &token(&cluster, "bob", &[], &["submitter"]), hello(5, 0)).await;
    assert_eq!(user.lease(&["Q"]).await.fault.unwrap().code, Code::Forbidden.name());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_locked_out_or_calls_too_often_is_told() {
    let cluster = secure().await;
    cluster.queue("Q").await;
    let old = token(&cluster, "anna", &[], &["submitter", "worker:Q"]);
    let impatient =
        |token: &str| ClientOptions { retry_budget: Duration::ZERO, ..options(&cluster, Some(token.to_owned())) };
    let anna = Client::connect_with(cluster.nodes.addrs(), impatient(&old)).await.unwrap();
    let mut held = Worker::open(&cluster, &old, hello(9, 0)).await;
    held.frame(|frame| frame.session_key != 0).await;
    let set = async |user: User| drop(cluster.client.put_object(kind::USER, "anna", &user, None).await.unwrap());
    set(User { jobs_per_s: 2, ..User::default() }).await;
    let error = eventually("too many jobs are refused", async || submit_one(&anna, own("Q")).await.err()).await;
    assert_eq!(error.code(), Some(Code::Busy), "{error}");
    assert!(error.retry_after().is_some(), "{error}");
    // Tokens that were lost are revoked, newer ones are taken.
    let now_s = common::now_ms() / 1_000;
    set(User { tokens_from_s: now_s + 1, ..User::default() }).await;
    let error = eventually("the old token is refused", async || anna.cluster().await.err()).await;
    assert_eq!(error.code(), Some(Code::Unauthenticated), "{error}");
    held.ends().await;
    let new = eventually("a new token is taken", async || {
        let new = token(&cluster, "anna", &[], &["submitter"]);
        Client::connect_with(cluster.nodes.addrs(), impatient(&new)).await.ok()
    })
    .await;
    set(User { locked: true, ..User::default() }).await;
    let error = eventually("who is locked out is refused", async || new.cluster().await.err()).await;
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_tokens_are_renewed_without_a_restart() {
    let cluster = secure().await;
    let address = cluster.nodes.addrs()[0].clone();
    let ca = cluster.nodes.credentials().unwrap().ca.clone();
    let before = raw::certificate(&ca, &address).await;
    let pair = authority(&cluster).node_pair(1);
    // Half a certificate changes nothing.
    let whole = std::fs::read(&pair.cert).unwrap();
    std::fs::write(&pair.cert, &whole[..whole.len() / 2]).unwrap();
    eventually("the broken file is noticed", async || {
        cluster.nodes.log_tail(1).contains("the old ones stay in use").then_some(())
    })
    .await;
    assert_eq!(raw::certificate(&ca, &address).await, before);
    authority(&cluster).node(1, &["127.0.0.1".to_owned()], 30).unwrap();
    eventually("the new certificate is shown", async || {
        (raw::certificate(&ca, &address).await != before).then_some(())
    })
    .await;
    // A client whose token is in a file goes on with a new one.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    // Submissions share a stream: it ends with the token with which it was opened.
    let short = authority(&cluster).token(grants("anna", &[], &["submitter"]), Duration::from_secs(15)).unwrap();
    std::fs::write(&file, short).unwrap();
    let by_file = ClientOptions { token: Some(Token::File(file.clone())), ..options(&cluster, None) };
    let anna = Client::connect_with(cluster.nodes.addrs(), by_file).await.unwrap();
    cluster.queue("Q").await;
    submit_one(&anna, own("Q")).await.unwrap();
    std::fs::write(&file, token(&cluster, "another", &[], &["submitter"])).unwrap();
    eventually("the new token is used", async || {
        let job = submit_one(&anna, own("Q")).await.unwrap();
        (anna.job(job).await.unwrap().owner == "another").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_outlives_the_meta_groups_leader() {
    let mut cluster = secure().await;
    cluster.queue("Q").await;
    let anna = user(&cluster, "anna", &[], &["submitter"]).await;
    let eve = user(&cluster, "eve", &[], &["submitter"]).await;
    let olga = user(&cluster, "olga", &[], &["operator"]).await;
    let job = submit_one(&anna, own("Q")).await.unwrap();
    assert_eq!(kill(&olga, job, 9).await.changed, 1);
    assert!(eve.put_object(kind::QUEUE, "EVIL", &Queue::default(), None).await.is_err());
    olga.put_object(kind::QUEUE, "R", &Queue::default(), Some(0)).await.unwrap();
    assert!(olga.put_object(kind::QUEUE, "R", &Queue::default(), Some(0)).await.is_err());
    let mut copy = olga.backup(1).await.unwrap();
    while copy.next().await.unwrap().is_some() {}
    let all = |actor: &str| AuditRequest { user: actor.into(), limit: 1_000, ..AuditRequest::default() };
    let written = async || {
        let entries = olga.audit(all("")).await.unwrap().entries;
        let has = |actor: &str, action: &str, target: &str, outcome: &str| {
            entries.iter().any(|e| {
                (e.actor.as_str(), e.action.as_str()) == (actor, action)
                    && e.target.contains(target)
                    && e.outcome.contains(outcome)
            })
        };
        let complete = has("olga", "kill", &format!("job {job}"), "1 of 1 changed, 1 of others")
            && has("eve", "refused", "put queue EVIL", "forbidden")
            && has("olga", "put", "queue R", "version ")
            && has("olga", "put", "queue R", "version_mismatch")
            && has("olga", "backup", "shard 1", "");
        complete.then_some(entries)
    };
    let before = eventually("all of it is written down", written).await;
    assert!(before.windows(2).all(|pair| pair[0].seq > pair[1].seq), "newest first");
    // What anybody does with his own jobs is no operator's action.
    assert!(before.iter().all(|entry| entry.actor != "anna"));
    let error = eve.audit(all("")).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Forbidden), "{error}");

    let leader = cluster.client.cluster().await.unwrap().shards[0].leader;
    cluster.nodes.kill(leader).unwrap();
    let after = eventually("another node leads", async || olga.audit(all("")).await.ok()).await.entries;
    let kept = |entry: &AuditEntry| after.contains(entry);
    assert!(before.iter().all(kept), "{before:?} {after:?}");
    cluster.nodes.restart(leader).await.unwrap();
    let page = olga.audit(AuditRequest { before: before[0].seq, limit: 2, ..AuditRequest::default() }).await.unwrap();
    assert_eq!(page.entries, before[1..3]);
    assert!(olga.audit(all("eve")).await.unwrap().entries.iter().all(|entry| entry.actor == "eve"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acts_of_who_was_not_asked_are_written_down_as_unverified() {
    let cluster = Cluster::start().await;
    let olga = ClientOptions { author: "olga".into(), retry_budget: common::DEADLINE, ..ClientOptions::default() };
    let olga = Client::connect_with(cluster.nodes.addrs(), olga).await.unwrap();
    olga.put_object(kind::QUEUE, "Q", &Queue::default(), None).await.unwrap();
    let job = submit_one(&olga, task("Q")).await.unwrap();
    assert_eq!(kill(&olga, job, 9).await.changed, 1);
    let has = |entries: &[AuditEntry], actor: &str, action: &str, target: &str| {
        entries.iter().any(|e| (&*e.actor, &*e.action) == (actor, action) && e.target.contains(target))
    };
    eventually("both are written down, with the name that was given", async || {
        // A node that does not know yet at which level the cluster is changes objects as older versions did.
        olga.put_object(kind::QUEUE, "Q", &Queue::default(), None).await.unwrap();
        let entries = olga.audit(AuditRequest { limit: 1_000, ..AuditRequest::default() }).await.ok()?.entries;
        let both = has(&entries, "olga (unverified)", "put", "queue Q")
            && has(&entries, "somebody else (unverified)", "kill", &format!("job {job}"));
        both.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_too_many_live_jobs_is_told_to_come_back() {
    const CAP: usize = 50;
    let cluster = secure().await;
    cluster.queue("Q").await;
    let limits = User { max_live: CAP as u64, ..User::default() };
    cluster.client.put_object(kind::USER, "anna", &limits, None).await.unwrap();
    // Each at one node alone: by itself a node lets in no more than the limit.
    let at = async |name: &str, node: usize| {
        let options = options(&cluster, Some(token(&cluster, name, &[], &["submitter"])));
        let options = ClientOptions { retry_budget: Duration::ZERO, discover: false, ..options };
        Client::connect_with([cluster.nodes.addrs()[node].clone()], options).await.unwrap()
    };
    let submit = async |client: &Client, jobs: usize| {
        client.submit(Submission::new(own("Q")).jobs(vec![JobSpec::default(); jobs])).await
    };
    let nodes = [at("anna", 0).await, at("anna", 1).await];
    for node in &nodes {
        let never = eventually("the limit is known", async || submit(node, CAP + 1).await.err()).await;
        assert_eq!(never.code(), Some(Code::TooLarge), "{never}");
    }
    // What was taken before the limit was known goes.
    let all = Selector { owner: "anna".into(), ..Selector::default() };
    let end = async || {
        let action = Some(Action::Kill(Kill { code: 9 }));
        let request = ActRequest { selector: Some(all.clone()), action, dry_run: false, actor: String::new() };
        cluster.client.act(request).await.unwrap();
    };
    end().await;
    eventually("as many as the limit fit", async || submit(&nodes[0], CAP).await.ok()).await;
    let error = submit(&nodes[0], 1).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Busy), "{error}");
    assert!(error.to_string().contains("the limit of 50") && error.retry_after().is_some(), "{error}");
    // Another node hears of them, long before it has let in as many itself.
    let mut taken = 0;
    eventually("another node refuses, too", async || match submit(&nodes[1], 1).await {
        Ok(_) => {
            taken += 1;
            None
        }
        Err(error) => (error.code() == Some(Code::Busy)).then_some(()),
    })
    .await;
    assert!(taken < CAP, "only what it let in itself counts there");
    submit(&at("bob", 0).await, 2 * CAP).await.unwrap();
    end().await;
    eventually("there is room again", async || submit(&nodes[0], 1).await.ok()).await;
}
