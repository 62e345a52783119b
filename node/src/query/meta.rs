//! Questions to the meta group: answered by its leader, confirmed by a quorum.

use super::MetaQueryCall;
use crate::request::{Fault, MetaRequest};
use crate::router::{QUERY_TIMEOUT, Router, in_time};
use moso_queue::meta::{AuditEntry, MetaMachine, Object};
use tokio::sync::oneshot;

/// An entry of the audit log in the place of an object.
fn audited(entry: &AuditEntry) -> Object {
    Object {
        kind: "audit".to_owned(),
        name: String::new(),
        version: entry.seq,
        json: serde_json::to_string(&entry.word).expect("texts and a number are JSON"),
        author: entry.word.actor.clone(),
        time_ms: entry.time_ms,
        id: 0,
    }
}

/// Runs a question to the meta group at this node.
pub async fn run_meta(router: &Router, query: MetaQueryCall) -> Result<Vec<Object>, Fault> {
    let (send, answer) = oneshot::channel();
    let run = Box::new(move |machine: Option<&MetaMachine>| {
        let _ = send.send(machine.map(|machine| match &query {
            MetaQueryCall::Get { kind, name } => machine.get(kind, name).cloned().into_iter().collect(),
            MetaQueryCall::List { kind } => machine.list(kind).cloned().collect::<Vec<_>>(),
            MetaQueryCall::History { kind, name } => machine.history(kind, name).into_iter().cloned().collect(),
            MetaQueryCall::Audit { since_ms, user, before, limit } => {
                let wanted = |entry: &&AuditEntry| user.is_empty() || entry.word.actor == *user;
                let entries = machine.audit().skip_while(|entry| *before > 0 && entry.seq >= *before);
                let entries = entries.take_while(|entry| entry.time_ms >= *since_ms).filter(wanted);
                entries.take(*limit).map(audited).collect()
            }
        }));
    });
    router.meta_request(MetaRequest::Query(run))?;
    in_time(answer, QUERY_TIMEOUT, 0).await?.ok_or_else(|| Fault::not_leader(0))
}
