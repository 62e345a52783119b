//! Who calls, and what he may do. The ports find out who it is by [`Guard`]; the services ask [`Principal`] before they
//! act.

pub mod audit;
pub(crate) mod certificate;
mod guard;
mod principal;
mod rate;
mod rejections;
mod remote;
mod session_keys;
mod tokens;

#[cfg(test)]
mod tests;

pub use audit::AuditTrail;
pub use guard::{Guard, Security};
pub use principal::{Principal, Queues};
pub use rejections::Rejections;
pub use remote::jwks_uri;
pub use session_keys::{SessionKey, SessionKeys};
pub use tokens::{Issuer, Tokens};
