//! The threads that look at the disk. Two, since what asks for free space may hang as the disk does.

use super::Disk;
use crate::clock::Clock;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

/// How often free space is asked for.
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// How often the log's write is looked at.
const PULSE_EVERY: Duration = Duration::from_millis(200);

/// Keeps the threads going; they end when it is dropped, and nobody waits for them.
pub struct Watch {
    _stop: Sender<()>,
}

impl Watch {
    /// Starts the threads.
    ///
    /// # Errors
    /// Of the system.
    pub fn start(disk: Arc<Disk>, clock: Clock) -> io::Result<Watch> {
        let (stop, stopped) = bounded(0);
        let (of_space, until) = (disk.clone(), stopped.clone());
        Builder::new().name("disk-space".into()).spawn(move || {
            while wait(&until, SPACE_EVERY) {
                of_space.check_space();
            }
        })?;
        Builder::new().name("disk-pulse".into()).spawn(move || {
            while wait(&stopped, PULSE_EVERY) {
                if !disk.check_pulse(clock.mono_ms()) {
                    tracing::error!("the disk has not answered for a minute: this node ends, to be started elsewhere");
                    // Ending in order would wait for the disk.
                    std::process::abort();
                }
            }
        })?;
        Ok(Watch { _stop: stop })
    }
}

/// Waits; `false`: it is time to end.
fn wait(stopped: &Receiver<()>, time: Duration) -> bool {
    stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
}
