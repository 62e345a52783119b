//! Tests of the machine through its public face: golden scripts, random commands, and damaged bytes. In each, the
//! machine is also made anew from its stored records again and again, and must go on as if nothing had happened.

#![allow(clippy::unwrap_used)]

mod decode;
mod language;
mod print;
mod random;
mod scripts;
mod store;
mod strategies;

/// So many random cases, unless `PROPTEST_CASES` says otherwise.
fn cases(cases: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config { failure_persistence: None, ..Default::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => proptest::test_runner::Config { cases, ..config },
    }
}
