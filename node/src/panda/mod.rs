//! PanDA's REST, as its own programs speak it: pilots, `prun` and `pbook`, Harvester. They work with moso unchanged.
//!
//! The front is thin: a pilot's request for jobs is a lease, its updates are heartbeats and results, a client's task is an
//! array, and all go through the router and dispatcher that serve gRPC. Any node answers any call. On by `panda = "IP:port"`.
//!
//! | module | what |
//! |---|---|
//! | `serve` `limits` | connections and requests within bounds |
//! | `body` `args` `reply` | bodies in, arguments with PanDA's messages, answers of both dialects |
//! | `caller` | who calls |
//! | `v1` `old` | the calls of `/api/v1/…` and of `/server/panda/…`, each to its function |
//! | `pilot` `report` `keys` | jobs for pilots, updates, the report that is stored with a job's end |
//! | `debug` `worker` `event` | commands for pilots, what they say of workers, event service (refused) |
//! | `spec` `fields` `generate` `attempt` | a job's specification, those of the jobs of a task, names of an attempt |
//! | `tasks` `task_calls` `job_calls` `describe` | a client's tasks and jobs |
//! | `files` `sandbox` | uploads, kept on the nodes under the hash of their content |
//! | `harvester` `stats` `creds` `statics` | Harvester, figures, secrets, queue data and the wrapper of user jobs |
//! | `store` | what is kept: objects of the meta group |
//!
//! What each call comes to, and which are refused: `node/PANDA.md`.
//!
//! Where state lives. A job's specification is its body; what its pilot reports at the end is its archive record. Tasks of
//! clients, secrets, debug commands, names of uploads and what Harvesters report are objects of the meta group; the content
//! of uploads is on the disks of a majority of its voters. On one node alone is nothing.

mod args;
mod attempt;
mod body;
mod caller;
mod creds;
mod debug;
mod describe;
mod event;
mod fields;
mod files;
mod generate;
mod harvester;
mod job_calls;
mod keys;
pub mod limits;
mod old;
mod pilot;
mod reply;
mod report;
pub mod sandbox;
pub mod serve;
mod spec;
mod statics;
mod stats;
mod store;
mod task_calls;
mod tasks;
mod time;
mod v1;
mod worker;

use crate::api::jobs::JobsApi;
use crate::dispatch::Dispatcher;
use crate::identity::{Guard, Principal};
use crate::request::Fault;
use crate::router::Router;
use crate::tls;
use args::Args;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::{any, get};
use limits::Times;
use moso_proto::{Code, level};
use moso_queue::meta::MetaView;
use reply::{Refusal, text};
use sandbox::Sandboxes;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How often what has expired is looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// The owner of jobs whose submitter nobody knows.
const NOBODY: &str = "nobody";

/// What the calls are served with.
pub struct Front {
    router: Arc<Router>,
    dispatcher: Arc<Dispatcher>,
    jobs: JobsApi,
    guard: Arc<Guard>,
    sandboxes: Arc<Sandboxes>,
    bodies: body::Reader,
    times: Times,
    uploads: Semaphore,
    /// Jobs given to pilots by this node.
    sent: AtomicU64,
}

/// A call that was read.
pub struct Call {
    /// Its verb.
    pub verb: Method,
    /// Its head.
    pub headers: HeaderMap,
    /// Who calls.
    pub caller: Principal,
    /// Where the caller reaches this node: scheme and host.
    pub base: String,
    /// Arguments.
    pub args: Args,
}

impl Call {
    fn new(front: &Front, parts: Parts, caller: Principal, args: Args) -> Self {
        let Parts { method: verb, headers, .. } = parts;
        let forwarded = headers.get("x-forwarded-proto").and_then(|scheme| scheme.to_str().ok());
        let encrypted = front.guard.asks() || forwarded == Some("https");
        let scheme = if encrypted { "https" } else { "http" };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        Call { verb, caller, base: format!("{scheme}://{host}"), args, headers }
    }

    /// The caller's name; refused if nobody knows it.
    pub fn user(&self) -> Result<String, Refusal> {
        if self.caller.user.is_empty() {
            return Err(Refusal::new("who calls is not known: send a bearer token"));
        }
        Ok(self.caller.user.to_string())
    }

    /// The owner of what is submitted: the caller, or who he says if nobody knows him.
    pub fn owner(&self, said: Option<&Value>) -> Result<String, Refusal> {
        if !self.caller.user.is_empty() {
            return Ok(self.caller.user.to_string());
        }
        let said = said.and_then(Value::as_str).filter(|name| !matches!(*name, "" | "NULL"));
        match said {
            None => Ok(NOBODY.to_owned()),
            Some(name) => caller::clean_name(name).ok_or_else(|| Refusal::new("the name of the owner is too long")),
        }
    }
}

impl Front {
    /// Serves through `router` and `dispatcher` what `guard` allows.
    pub fn new(
        router: Arc<Router>,
        dispatcher: Arc<Dispatcher>,
        jobs: JobsApi,
        guard: Arc<Guard>,
        sandboxes: Arc<Sandboxes>,
        times: Times,
    ) -> Self {
        Front {
            router,
            dispatcher,
            jobs,
            guard,
            sandboxes,
            bodies: body::Reader::new(times.body),
            times,
            uploads: Semaphore::new(limits::UPLOADS_MAX),
            sent: AtomicU64::new(0),
        }
    }

    fn meta(&self) -> Arc<MetaView> {
        self.router.directory.meta.load_full()
    }

    fn now_ms(&self) -> u64 {
        self.router.directory.clock.wall_ms()
    }

    /// A submission id of now.
    fn submission_id(&self) -> [u8; 16] {
        let mut id: [u8; 16] = rand::random();
        id[..6].copy_from_slice(&self.now_ms().to_be_bytes()[2..]);
        id
    }

    /// The arguments of a request.
    async fn read(&self, request: Request) -> Result<Call, Response> {
        let (parts, body) = request.into_parts();
        let caller = self.caller(&parts).map_err(|fault| unknown(&fault, &parts))?;
        self.served()?;
        let read = match parts.method {
            Method::GET | Method::HEAD => body::query(parts.uri.query().unwrap_or_default()),
            _ => self.bodies.args(&parts.headers, body).await,
        };
        let args = read.map_err(body::BadBody::respond)?;
        Ok(Call::new(self, parts, caller, args))
    }

    /// Refuses everything while some node is of a version that could not read what this one writes.
    #[expect(clippy::result_large_err, reason = "made once in an upgrade")]
    fn served(&self) -> Result<(), Response> {
        let now = self.meta().level();
        if now >= level::PANDA {
            return Ok(());
        }
        let text =
            format!("PanDA's programs are served from feature level {} on, the cluster is at {now}", level::PANDA);
        Err(crate::http::refusal(&Fault { retry_after_ms: 1_000, ..Fault::new(Code::Unavailable, text) }))
    }

    /// Who calls. Whether a node lives may be asked by anybody.
    fn caller(&self, parts: &Parts) -> Result<Principal, Fault> {
        match caller::caller(&self.guard, &parts.headers, parts.extensions.get::<tls::Caller>()) {
            Err(_) if parts.uri.path().ends_with("/system/is_alive") => Ok(Principal::default()),
            known => known,
        }
    }

    /// Deletes what has expired and fetches what is missing, until `stopping`.
    pub async fn sweep(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let every = SWEEP.min(self.times.upload_life / 4);
        let mut wait = every.mul_f64(rand::random_range(0.5..1.0));
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            wait = every;
            let directory = &self.router.directory;
            let leads = directory.meta_leader.load(Ordering::Relaxed) == directory.node;
            let mut swept = self.sweep_files().await;
            if leads && swept.is_ok() {
                swept = self.sweep_tasks().await;
            }
            if leads && swept.is_ok() {
                swept = self.sweep_debug().await;
            }
            if let Err(fault) = swept {
                tracing::warn!(fault = %fault.message, "what has expired is looked for again later");
            }
        }
    }
}

/// The answer to one of whom is not known who he is, or who may not come in, in PanDA's words: a bad token 403, no token or
/// certificate an answer of the present API.
fn unknown(fault: &Fault, parts: &Parts) -> Response {
    match fault.code {
        Code::Unauthenticated if parts.headers.contains_key(header::AUTHORIZATION) => {
            text(StatusCode::FORBIDDEN, format!("ERROR : Token authentication failed. {}", fault.message))
        }
        Code::Unauthenticated if parts.uri.path().starts_with("/api/v1/") => {
            reply::respond(Err(Refusal::new(format!("SSL secure connection is required: {}", fault.message))))
        }
        _ => crate::http::refusal(fault),
    }
}

/// The routes.
pub fn routes(front: Arc<Front>) -> axum::Router {
    axum::Router::new()
        .route("/api/v1/{module}/{method}", any(api))
        .route("/server/panda/{method}", any(old_call))
        .route("/cache/schedconfig/{file}", get(schedconfig))
        .route("/cache/{*name}", get(cache))
        .route("/trf/user/{name}", get(wrapper))
        .fallback(missing)
        .with_state(front)
}

async fn api(
    State(front): State<Arc<Front>>,
    Path((module, method)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    if module == "file_server" && v1::is_upload(&method) {
        let (parts, body) = request.into_parts();
        if parts.method != Method::POST {
            return reply::respond(Err(v1::wrong_verb("POST", &parts.method)));
        }
        let caller = match front.caller(&parts) {
            Ok(caller) => caller,
            Err(fault) => return unknown(&fault, &parts),
        };
        if let Err(response) = front.served() {
            return response;
        }
        let call = Call::new(&front, parts, caller, Args::default());
        if let Some(refusal) = v1::missing_role(&call, &method) {
            return reply::respond(Err(refusal));
        }
        return reply::respond(files::upload(&front, &call, body, method == "upload_jedi_log").await);
    }
    match front.read(request).await {
        Ok(call) => v1::answer(&front, &module, &method, &call).await,
        Err(response) => response,
    }
}

async fn old_call(State(front): State<Arc<Front>>, Path(method): Path<String>, request: Request<Body>) -> Response {
    match front.read(request).await {
        Ok(call) => old::answer(&front, &method, call).await,
        Err(response) => response,
    }
}

async fn schedconfig(State(front): State<Arc<Front>>, Path(file): Path<String>) -> Response {
    statics::schedconfig(&front, &file)
}

async fn cache(State(front): State<Arc<Front>>, Path(name): Path<String>) -> Response {
    files::download(&front, &name).await
}

async fn wrapper(Path(name): Path<String>) -> Response {
    statics::wrapper(&name)
}

async fn missing() -> Response {
    text(StatusCode::NOT_FOUND, "ERROR : there is nothing under this name")
}
