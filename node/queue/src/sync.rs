//! What the lock-free index is made of, named in one place: the models in `tests/src/model` compile the same source with
//! stand-ins that try out the interleavings of threads.

pub(crate) use arc_swap::ArcSwap;
pub(crate) use crossbeam::queue::SegQueue;
pub(crate) use crossbeam_skiplist::SkipMap;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
