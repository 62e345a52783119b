//! The only reader of time in a node.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Monotonic and wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { start: Instant::now() }
    }
}

impl Clock {
    /// Milliseconds since the node started, from 1,000,000 so that ages can be subtracted.
    pub fn mono_ms(&self) -> u64 {
        1_000_000 + self.start.elapsed().as_millis() as u64
    }

    /// Microseconds since the node started.
    pub fn mono_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Unix time in ms. Only recorded, and compared with times that users gave.
    pub fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}
