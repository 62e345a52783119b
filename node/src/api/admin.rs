//! Operators: objects of the meta group, and the state of the cluster.

use super::caller::caller;
use super::{check, invalid, status};
use crate::cluster::ClusterInfo;
use crate::identity::{Guard, Principal};
use crate::query::MetaQueryCall;
use crate::request::Fault;
use crate::router::Router;
use moso_proto::object::{User, kind};
use moso_proto::v1::{self, admin_server::Admin};
use moso_proto::{Code, level, setting};
use moso_queue::meta::limits::{JSON_BYTES_MAX, TABLE_BYTES_MAX};
use moso_queue::meta::{AuditWord, MetaCommand, Object};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Entries of the audit log on a page when nothing is said.
const AUDIT_PAGE: u32 = 100;
/// On a page at most.
const AUDIT_PAGE_MAX: u32 = 1_000;

/// The service.
#[derive(Clone)]
pub struct AdminApi {
    router: Arc<Router>,
    guard: Arc<Guard>,
    info: Arc<ClusterInfo>,
}

impl AdminApi {
    /// Serves through `router`.
    pub fn new(router: Arc<Router>, guard: Arc<Guard>, info: Arc<ClusterInfo>) -> Self {
        AdminApi { router, guard, info }
    }

    fn answer<T>(&self, result: Result<T, Fault>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|fault| status(fault, &self.router.directory.meta.load()))
    }

    async fn put(&self, who: &Principal, request: v1::PutObjectRequest, delete: bool) -> Result<v1::Object, Fault> {
        let v1::PutObjectRequest { kind, name, json, expected_version, author } = request;
        if !who.operator {
            let text = format!("user {} may not change objects: only operators may", who.user);
            self.guard.tried(who, &format!("{} {kind} {name}", if delete { "delete" } else { "put" }));
            return Err(self.guard.forbid(who, "not an operator", text));
        }
        if !kind::ALL.contains(&kind.as_str()) {
            return Err(invalid(format!("there is no kind {kind:?}; there are {}", kind::ALL.join(", "))));
        }
        // The cluster itself changes it too: written over unseen, a change of its would be undone.
        if kind == kind::SHARDS && expected_version.is_none() {
            return Err(invalid("the shard table is changed only with the version that was read".to_owned()));
        }
        self.check_level(&kind, &name, &json)?;
        let author = check::name("author", who.name_or(&author))?.to_owned();
        check::name("name", &name)?;
        let max = if kind == kind::SHARDS { TABLE_BYTES_MAX } else { JSON_BYTES_MAX };
        if json.len() > max {
            let message = format!("the object has {} bytes, at most {max} are allowed", json.len());
            return Err(Fault::new(Code::TooLarge, message));
        }
        let action = if delete { "delete" } else { "put" };
        let word = self.guard.word(&author, action, format!("{kind} {name}"));
        let command = match (self.router.directory.meta.load().level() >= level::AUDIT, delete) {
            (true, _) => MetaCommand::Change { word, kind, name, json: (!delete).then_some(json), expected_version },
            // Nodes of an older version do not know the other command.
            (false, false) => MetaCommand::Put { kind, name, json, expected_version, author },
            (false, true) => MetaCommand::Delete { kind, name, expected_version, author },
        };
        let object = self.router.meta_command(command.encode().into()).await?;
        Ok(object_view(object))
    }

    /// What nodes of an older version do not know must not get into their log.
    fn check_level(&self, kind: &str, name: &str, json: &str) -> Result<(), Fault> {
        let since = match kind {
            kind::SETTING if name == setting::FEATURE_LEVEL.name => {
                return Err(invalid("the feature level is raised by the cluster itself, once all its nodes know it"));
            }
            kind::SETTING => setting::find(name).map_or(level::FIRST, |schema| schema.since),
            // What is no user at all is refused by the meta group, with the reason.
            kind::USER => serde_json::from_str::<User>(json).map_or(level::FIRST, |user| user.since()),
            kind::PANDA_QUEUE => level::PANDA,
            _ => level::FIRST,
        };
        let now = self.router.directory.meta.load().level();
        if since > now {
            let message =
                format!("{kind} {name} needs feature level {since}, the cluster is at {now}: upgrade all nodes");
            return Err(Fault::new(Code::Unavailable, message));
        }
        Ok(())
    }

    async fn audited(&self, who: &Principal, request: v1::AuditRequest) -> Result<v1::AuditList, Fault> {
        if !who.operator {
            self.guard.tried(who, "read the audit log");
            let text = format!("user {} may not read the audit log: only operators may", who.user);
            return Err(self.guard.forbid(who, "not an operator", text));
        }
        let v1::AuditRequest { since_ms, user, before, limit } = request;
        let user = check::name("user", &user)?.to_owned();
        let limit = if limit == 0 { AUDIT_PAGE } else { limit.min(AUDIT_PAGE_MAX) } as usize;
        let found = self.router.meta_query(&MetaQueryCall::Audit { since_ms, user, before, limit }).await?;
        Ok(v1::AuditList { entries: found.into_iter().map(audit_view).collect::<Result<_, _>>()? })
    }

    async fn list(&self, query: MetaQueryCall) -> Result<v1::ObjectList, Fault> {
        let (kind, name) = match &query {
            MetaQueryCall::Get { kind, name } | MetaQueryCall::History { kind, name } => (kind, name.as_str()),
            MetaQueryCall::List { kind } => (kind, ""),
            MetaQueryCall::Audit { user, .. } => (user, ""),
        };
        check::name("kind", kind)?;
        // They hold what is one user's, secrets too.
        if kind::PANDA.contains(&kind.as_str()) {
            return Err(invalid(format!("objects of kind {kind:?} are not shown; there are {}", kind::ALL.join(", "))));
        }
        check::name("name", name)?;
        let objects = self.router.meta_query(&query).await?;
        Ok(v1::ObjectList { objects: objects.into_iter().map(object_view).collect() })
    }
}

fn audit_view(object: Object) -> Result<v1::AuditEntry, Fault> {
    let word: AuditWord = serde_json::from_str(&object.json)
        .map_err(|error| Fault::new(Code::Internal, format!("an entry of the audit log cannot be read: {error}")))?;
    let AuditWord { actor, action, target, outcome, node } = word;
    Ok(v1::AuditEntry { seq: object.version, time_ms: object.time_ms, actor, action, target, outcome, node })
}

fn object_view(object: Object) -> v1::Object {
    let Object { kind, name, version, json, author, time_ms, id } = object;
    v1::Object { kind, name, version, json, author, time_ms, id }
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn put_object(&self, request: Request<v1::PutObjectRequest>) -> Result<Response<v1::Object>, Status> {
        let who = caller(&request)?;
        self.answer(self.put(&who, request.into_inner(), false).await)
    }

    async fn delete_object(&self, request: Request<v1::PutObjectRequest>) -> Result<Response<v1::Object>, Status> {
        let who = caller(&request)?;
        self.answer(self.put(&who, request.into_inner(), true).await)
    }

    async fn get_object(&self, request: Request<v1::ObjectKey>) -> Result<Response<v1::Object>, Status> {
        let v1::ObjectKey { kind, name } = request.into_inner();
        let found = self.list(MetaQueryCall::Get { kind: kind.clone(), name: name.clone() }).await;
        let missing = || Fault::new(Code::NotFound, format!("there is no {kind} {name:?}"));
        self.answer(found.and_then(|mut list| list.objects.pop().ok_or_else(missing)))
    }

    async fn list_objects(&self, request: Request<v1::ObjectKey>) -> Result<Response<v1::ObjectList>, Status> {
        let v1::ObjectKey { kind, name } = request.into_inner();
        let query = if name.is_empty() { MetaQueryCall::List { kind } } else { MetaQueryCall::Get { kind, name } };
        self.answer(self.list(query).await)
    }

    async fn history(&self, request: Request<v1::ObjectKey>) -> Result<Response<v1::ObjectList>, Status> {
        let v1::ObjectKey { kind, name } = request.into_inner();
        self.answer(self.list(MetaQueryCall::History { kind, name }).await)
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<v1::AuditList>, Status> {
        let who = caller(&request)?;
        self.answer(self.audited(&who, request.into_inner()).await)
    }

    async fn cluster(&self, _: Request<v1::ClusterRequest>) -> Result<Response<v1::ClusterReply>, Status> {
        let view = self.info.view();
        let json = serde_json::to_string(&view).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(v1::ClusterReply { json }))
    }
}
