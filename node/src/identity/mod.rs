//! Who calls, and what he may do. The ports find out who it is, the services ask [`Principal`] before they act.

mod principal;

pub use principal::{Principal, Queues};
