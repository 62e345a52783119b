//! The thread that talks to the other nodes. It is its own: however busy those are that serve clients, Raft's messages
//! and other nodes' calls find it awake, and nobody takes this node for lost.

use crate::error::Error;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

/// The thread. It ends when it is dropped, without waiting for what it does.
pub struct Inner(Option<Runtime>);

impl Inner {
    /// Starts it.
    ///
    /// # Errors
    /// `Io`.
    pub fn start() -> Result<Inner, Error> {
        let built = Builder::new_multi_thread().worker_threads(1).thread_name("peer").enable_all().build();
        built.map(|runtime| Inner(Some(runtime))).map_err(|source| Error::io("starting the threads", source))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle()
    }

    /// Does something whose tasks run on it.
    pub fn enter<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = self.handle().enter();
        make()
    }

    /// Runs a task on it.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle().spawn(task)
    }

    /// Takes a listener over.
    ///
    /// # Errors
    /// `Io`.
    pub fn listen(&self, listener: TcpListener) -> Result<TcpListener, Error> {
        let taken = listener.into_std().and_then(|listener| self.enter(|| TcpListener::from_std(listener)));
        taken.map_err(|source| Error::io("listening for the other nodes", source))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
