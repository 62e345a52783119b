//! Operators: objects of the meta group, and the state of the cluster.

use super::{check, invalid, status};
use crate::cluster::ClusterInfo;
use crate::query::MetaQueryCall;
use crate::request::Fault;
use crate::router::Router;
use moso_proto::Code;
use moso_proto::object::kind;
use moso_proto::v1::{self, admin_server::Admin};
use moso_queue::meta::limits::{JSON_BYTES_MAX, TABLE_BYTES_MAX};
use moso_queue::meta::{MetaCommand, Object};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone)]
pub struct AdminApi {
    router: Arc<Router>,
    info: Arc<ClusterInfo>,
}

impl AdminApi {
    /// Serves through `router`.
    pub fn new(router: Arc<Router>, info: Arc<ClusterInfo>) -> Self {
        AdminApi { router, info }
    }

    fn answer<T>(&self, result: Result<T, Fault>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|fault| status(fault, &self.router.directory.meta.load()))
    }

    async fn put(&self, request: v1::PutObjectRequest, delete: bool) -> Result<v1::Object, Fault> {
        let v1::PutObjectRequest { kind, name, json, expected_version, author } = request;
        if !kind::ALL.contains(&kind.as_str()) {
            return Err(invalid(format!("there is no kind {kind:?}; there are {}", kind::ALL.join(", "))));
        }
        // The cluster itself changes it too: written over unseen, a change of its would be undone.
        if kind == kind::SHARDS && expected_version.is_none() {
            return Err(invalid("the shard table is changed only with the version that was read".to_owned()));
        }
        let author = check::name("author", &author)?.to_owned();
        check::name("name", &name)?;
        let max = if kind == kind::SHARDS { TABLE_BYTES_MAX } else { JSON_BYTES_MAX };
        if json.len() > max {
            let message = format!("the object has {} bytes, at most {max} are allowed", json.len());
            return Err(Fault::new(Code::TooLarge, message));
        }
        let command = if delete {
            MetaCommand::Delete { kind, name, expected_version, author }
        } else {
            MetaCommand::Put { kind, name, json, expected_version, author }
        };
        let object = self.router.meta_command(command.encode().into()).await?;
        Ok(object_view(object))
    }

    async fn list(&self, query: MetaQueryCall) -> Result<v1::ObjectList, Fault> {
        let (kind, name) = match &query {
            MetaQueryCall::Get { kind, name } | MetaQueryCall::History { kind, name } => (kind, name.as_str()),
            MetaQueryCall::List { kind } => (kind, ""),
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

fn object_view(object: Object) -> v1::Object {
    let Object { kind, name, version, json, author, time_ms, id } = object;
    v1::Object { kind, name, version, json, author, time_ms, id }
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn put_object(&self, request: Request<v1::PutObjectRequest>) -> Result<Response<v1::Object>, Status> {
        self.answer(self.put(request.into_inner(), false).await)
    }

    async fn delete_object(&self, request: Request<v1::PutObjectRequest>) -> Result<Response<v1::Object>, Status> {
        self.answer(self.put(request.into_inner(), true).await)
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

    async fn cluster(&self, _: Request<v1::ClusterRequest>) -> Result<Response<v1::ClusterReply>, Status> {
        let view = self.info.view();
        let json = serde_json::to_string(&view).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(v1::ClusterReply { json }))
    }
}
