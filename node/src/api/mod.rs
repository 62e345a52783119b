//! The gRPC services: words of the API to requests and back. Talks to the router and the dispatcher only.

pub mod admin;
pub mod caller;
pub mod check;
#[doc(hidden)]
pub mod frames;
pub mod jobs;
pub mod selector;
mod submissions;
pub mod workers;

use crate::request::Fault;
use moso_proto::{Code, META_CODE, META_LEADER, META_RETRY_AFTER};
use moso_queue::meta::MetaView;
use tonic::metadata::MetadataValue;
use tonic::{Code as GrpcCode, Status};

/// The gRPC status of a fault, with code, retry time and leader in its metadata.
pub fn status(fault: Fault, meta: &MetaView) -> Status {
    let grpc = match fault.code {
        Code::Invalid | Code::TooLarge | Code::SubmissionExpired => GrpcCode::InvalidArgument,
        Code::NotFound => GrpcCode::NotFound,
        Code::Conflict => GrpcCode::AlreadyExists,
        Code::StaleAttempt | Code::ForeignLease | Code::AlreadyEnded | Code::WrongState => GrpcCode::FailedPrecondition,
        Code::Unavailable | Code::NotLeader => GrpcCode::Unavailable,
        Code::Busy => GrpcCode::ResourceExhausted,
        Code::Timeout => GrpcCode::DeadlineExceeded,
        Code::VersionMismatch => GrpcCode::Aborted,
        Code::Forbidden => GrpcCode::PermissionDenied,
        Code::Unauthenticated => GrpcCode::Unauthenticated,
        Code::Internal => GrpcCode::Internal,
    };
    let mut status = Status::new(grpc, fault.message);
    let metadata = status.metadata_mut();
    metadata.insert(META_CODE, MetadataValue::from_static(fault.code.name()));
    if fault.retry_after_ms > 0 {
        metadata.insert(META_RETRY_AFTER, MetadataValue::from(fault.retry_after_ms));
    }
    let leader = meta.node(fault.leader).and_then(|node| MetadataValue::try_from(&node.api).ok());
    if let Some(leader) = leader {
        metadata.insert(META_LEADER, leader);
    }
    status
}

/// The gRPC status of a fault that names no other node.
pub fn status_of(fault: Fault) -> Status {
    status(fault, &MetaView::default())
}

/// Too much at once: come back later.
pub fn busy(message: &str, retry_after_ms: u32) -> Fault {
    Fault { retry_after_ms, ..Fault::new(Code::Busy, message) }
}

/// An invalid field.
pub fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(Code::Invalid, message)
}
