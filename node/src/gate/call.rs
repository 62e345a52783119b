//! One call. It is admitted by its name before its body is read; its body must come in time and finds room in the node's
//! memory piece by piece; its reply must be taken in time.

use super::framing::Framing;
use super::line::{Line, time_for};
use super::{Gate, Held, Reason, share};
use crate::api::status_of;
use crate::limits::{CALL_BYTES, LIST_BYTES, QUESTION_BYTES, STREAM_BYTES};
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, StdError};
use tower::{Layer, Service};

/// What a call is, as far as its admission goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// Refused once so much of the memory is in use, percent.
    share: usize,
    /// What it takes whatever it says, bytes.
    bytes: usize,
    /// Its body is a stream of messages, each of which goes its own way.
    stream: bool,
    submits: bool,
}

impl Kind {
    fn of(path: &str) -> Kind {
        let question = Kind { share: share::READS, bytes: QUESTION_BYTES, stream: false, submits: false };
        match path.rsplit('/').next().unwrap_or_default() {
            "Submit" => Kind { share: share::SUBMISSIONS, bytes: CALL_BYTES, submits: true, ..question },
            "SubmitStream" => Kind { share: share::SUBMISSIONS, bytes: STREAM_BYTES, stream: true, ..question },
            "Session" => Kind { share: share::RUNNING, bytes: STREAM_BYTES, stream: true, ..question },
            "ListJobs" | "ListTasks" | "ListObjects" | "History" | "Cluster" => {
                Kind { share: share::LISTS, bytes: LIST_BYTES, ..question }
            }
            _ => question,
        }
    }

    fn admit(self, gate: &Gate) -> Result<Held, Status> {
        if self.submits && !gate.takes_submissions() {
            return Err(status_of(gate.refuse(Reason::Submissions)));
        }
        gate.hold(self.bytes, self.share).map_err(status_of)
    }
}

/// Guards the calls of a server.
#[derive(Clone)]
pub struct CallLayer {
    /// Shared by all.
    pub gate: Arc<Gate>,
}

impl<S> Layer<S> for CallLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, gate: self.gate.clone() }
    }
}

/// The guarded calls.
#[derive(Clone)]
pub struct Calls<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S, B> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<StdError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut kind = Kind::of(request.uri().path());
        // A call that sends its head and nothing more keeps it all the same.
        kind.bytes += head_bytes(request.headers());
        let line = request.extensions().get::<Arc<Line>>().cloned();
        let number = line.as_ref().map_or(0, |line| line.begin());
        let call = Call { gate: self.gate.clone(), line, number, held: Mutex::default() };
        match kind.admit(&self.gate) {
            Ok(held) => call.with_held(|own| *own = held),
            Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
        }
        if let Some(line) = &call.line {
            let caller = line.caller().clone();
            request.extensions_mut().insert(caller);
        }
        let call = Arc::new(call);
        let asked = call.clone();
        request.extensions_mut().insert(call.clone());
        let request = request.map(|body| Body::new(Asked::new(body, kind, asked)));
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Answered { body: Body::new(body), call }))) })
    }
}

fn head_bytes(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// A call under way: what it holds, for as long as its body or its reply is there. A service finds it in the request's
/// extensions.
pub struct Call {
    gate: Arc<Gate>,
    line: Option<Arc<Line>>,
    number: u64,
    held: Mutex<Held>,
}

impl Call {
    /// The reply is made, and has so many bytes: no more is held from now on.
    pub fn made(&self, bytes: usize) {
        self.with_held(|held| {
            let less = bytes.min(held.bytes());
            held.set(&self.gate.memory, less, share::RUNNING)
        });
    }

    fn with_held<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.held.lock().expect("no code panics while it holds this lock"))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.end(self.number);
        }
    }
}

/// The body of a request.
struct Asked {
    body: Body,
    kind: Kind,
    call: Arc<Call>,
    framing: Framing,
    bytes: usize,
    /// Until when more must come.
    until: Option<Pin<Box<Sleep>>>,
}

impl Asked {
    fn new(body: Body, kind: Kind, call: Arc<Call>) -> Self {
        Asked { body, kind, call, framing: Framing::default(), bytes: 0, until: None }
    }

    /// Takes room for what has come.
    fn came(&mut self, data: &[u8]) -> Result<(), Status> {
        self.bytes += data.len();
        let before = self.framing.incomplete_bytes();
        self.framing.feed(data);
        let waiting = self.framing.incomplete_bytes();
        if waiting == 0 || waiting < before + data.len() {
            // A message is complete: the next one has time of its own.
            self.until = None;
        }
        // A message of a stream goes its own way once it is complete; what a call sends stays to its end.
        let here = if self.kind.stream { waiting } else { self.bytes };
        let (gate, kind) = (&self.call.gate, self.kind);
        match self.call.with_held(|held| held.set(&gate.memory, kind.bytes + here, kind.share)) {
            true => Ok(()),
            false => Err(status_of(gate.refuse(Reason::Memory))),
        }
    }

    /// Waits for more, but not for ever.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if self.kind.stream && self.framing.incomplete_bytes() == 0 {
            return Poll::Pending;
        }
        let missing = self.framing.missing_bytes();
        let until =
            self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + time_for(missing))));
        until.as_mut().poll(context).map(|()| status_of(self.call.gate.refuse(Reason::SlowRequest)))
    }
}

impl http_body::Body for Asked {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let came = frame.data_ref().map_or(Ok(()), |data| self.came(data));
                Poll::Ready(Some(came.map(|()| frame)))
            }
            Poll::Pending => self.wait(context).map(|status| Some(Err(status))),
            ended => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a reply. The connection asks for the next part only once the last one has left, or is let to leave: who does
/// not take it in time is hung up on by his line.
struct Answered {
    body: Body,
    call: Arc<Call>,
}

impl http_body::Body for Answered {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Some(line) = &self.call.line {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    line.gave(self.call.number, frame.data_ref().map_or(0, bytes::Bytes::len));
                }
                _ => line.taken(self.call.number),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
