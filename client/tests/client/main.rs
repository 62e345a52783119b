//! The client against nodes played by the test.

#![allow(clippy::unwrap_used)]

mod calls;
mod node;
mod sessions;
mod workers;
