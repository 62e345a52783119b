//! Tests of the machine through its public face: golden scripts, random commands, and damaged bytes. In each, the
//! machine is also made anew from its stored records again and again, and must go on as if nothing had happened.

#![allow(clippy::unwrap_used)]

mod language;
mod print;
mod scripts;
mod store;
