//! Exit codes, and errors as people read them.

use moso_client::{Code, Error};
use std::io::ErrorKind;

/// The command failed, or the cluster refused.
const FAILED: u8 = 1;
/// The command line is wrong; clap ends with the same code.
const USAGE: u8 = 2;
/// No node answers.
const UNREACHABLE: u8 = 3;
/// What was asked for does not exist.
const NOT_FOUND: u8 = 4;

/// The command line is wrong in a way that only shows after parsing. The user must change it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// No address of a cluster is known. The user must give one or start a cluster.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoCluster(pub String);

/// The exit code of an error.
pub fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    if error.is::<NoCluster>() {
        return UNREACHABLE;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Unreachable { .. }) => UNREACHABLE,
        Some(Error::Refused { code: Code::NotFound, .. }) => NOT_FOUND,
        _ => FAILED,
    }
}

/// The error and its causes on one line, and what to do.
pub fn explain(error: &anyhow::Error) -> String {
    let hint = match error.downcast_ref::<Error>() {
        Some(Error::Unreachable { .. }) => {
            "; is the cluster running, and does it want TLS (--ca)? (`moso up` starts a local one; --connect or MOSO_CONNECT names another)"
        }
        Some(Error::Refused { code: Code::Unauthenticated, .. }) => "; --token-file or MOSO_TOKEN has a token",
        Some(Error::Defect { .. }) => "; its log says more",
        _ => "",
    };
    format!("{error:#}{hint}")
}

/// The reader of our output has gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_errors_apart_under_their_context() {
        let refused = |code| {
            let error = Error::Refused { code, message: "no".into() };
            anyhow::Error::new(error).context("while asking")
        };
        assert_eq!(code(&refused(Code::NotFound)), NOT_FOUND);
        assert_eq!(code(&refused(Code::Invalid)), FAILED);
        let unreachable = Error::Unreachable { addresses: "a:1".into(), reason: "refused".into() };
        let unreachable = anyhow::Error::new(unreachable);
        assert_eq!(code(&unreachable), UNREACHABLE);
        assert!(explain(&unreachable).contains("moso up"));
        assert_eq!(code(&Usage("bad".into()).into()), USAGE);
        assert_eq!(code(&NoCluster("none".into()).into()), UNREACHABLE);
        assert_eq!(code(&anyhow::anyhow!("x")), FAILED);
    }
}
