//! Under loom: the wait rooms, whose fences keep work and waiting from missing each other.

#[path = "../arc_swap.rs"]
mod arc_swap;
#[path = "../notify.rs"]
mod notify;

/// What the included source names.
pub(crate) mod sync {
    pub(crate) use super::arc_swap::ArcSwap;
    pub(crate) use super::notify::Notify;
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering, fence};
}

#[path = "../../../../node/src/waiting.rs"]
pub mod waiting;
