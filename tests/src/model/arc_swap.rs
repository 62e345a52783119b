//! A stand-in for `arc_swap::ArcSwap`: loads and stores are single steps.

use super::sync::Mutex;
use std::sync::Arc;

pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

impl<T: Default> Default for ArcSwap<T> {
    fn default() -> Self {
        ArcSwap(Mutex::new(Arc::default()))
    }
}

// Each included source uses some of these.
#[allow(dead_code)]
impl<T> ArcSwap<T> {
    pub(crate) fn load(&self) -> Arc<T> {
        self.0.lock().expect("a step does not panic").clone()
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        *self.0.lock().expect("a step does not panic") = value;
    }

    /// Others may come between the load and the store, and then it is done again.
    pub(crate) fn rcu<R: Into<Arc<T>>>(&self, mut change: impl FnMut(&Arc<T>) -> R) {
        loop {
            let before = self.load();
            let after = change(&before).into();
            let mut value = self.0.lock().expect("a step does not panic");
            if Arc::ptr_eq(&value, &before) {
                *value = after;
                return;
            }
        }
    }
}
