//! Event service: not served. Its calls are answered so that a pilot ends in order.

use super::reply::{Answer, Refusal};

/// What its calls are told.
pub const NOT_SERVED: &str = "event service is not served here";

/// Any of its calls.
pub fn answer() -> Answer {
    Err(Refusal::new(NOT_SERVED))
}
