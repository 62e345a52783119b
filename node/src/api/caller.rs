//! Who calls: found out before a service sees the call.

use super::status;
use crate::identity::{Guard, Principal};
use crate::request::Fault;
use crate::tls::Caller;
use moso_proto::Code;
use moso_queue::meta::MetaView;
use std::sync::Arc;
use tonic::{Request, Status};

/// Metadata key of tokens, as `Bearer TOKEN`.
const AUTHORIZATION: &str = "authorization";

/// Puts the caller's [`Principal`] into the request, or refuses it.
pub fn identify(guard: &Guard, mut request: Request<()>) -> Result<Request<()>, Status> {
    // What is no text is a token that cannot be read.
    let authorization = request.metadata().get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    match guard.identify(authorization, request.extensions().get::<Caller>()) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            Ok(request)
        }
        Err(fault) => Err(status(fault, &MetaView::default())),
    }
}

/// The caller. That nobody found out who it is cannot be; if it were, nothing would be allowed.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<Principal>, Status> {
    let unknown = || status(Fault::new(Code::Unauthenticated, "nobody asked who calls"), &MetaView::default());
    request.extensions().get::<Arc<Principal>>().cloned().ok_or_else(unknown)
}

/// Why a stream ends whose caller has to show anew that he may.
pub fn over_now() -> Fault {
    Fault {
        retry_after_ms: 1,
        ..Fault::new(Code::Unavailable, "the time of the token is over: come again with a new one")
    }
}
