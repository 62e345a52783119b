//! What the wait rooms are made of, named in one place: the models in `tests/src/model` compile the same source with
//! stand-ins that try out the interleavings of threads.

pub(crate) use arc_swap::ArcSwap;
pub(crate) use std::sync::atomic::{AtomicUsize, Ordering, fence};
pub(crate) use tokio::sync::Notify;
