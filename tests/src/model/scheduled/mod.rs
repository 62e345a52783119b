//! Under shuttle: all that poppers, the writer and waiting requests share.

#[path = "../arc_swap.rs"]
mod arc_swap;
#[path = "../notify.rs"]
mod notify;
mod queues;

/// What the included sources name.
pub(crate) mod sync {
    pub(crate) use super::arc_swap::ArcSwap;
    pub(crate) use super::notify::Notify;
    pub(crate) use super::queues::{SegQueue, SkipMap};
    pub(crate) use shuttle::sync::Mutex;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering, fence};
}

pub(crate) mod class {
    pub(crate) use moso_queue::class::{ClassId, ClassKey};
}

#[path = "../../../../node/queue/src/ready.rs"]
pub mod ready;
#[path = "../../../../node/src/waiting.rs"]
pub mod waiting;
