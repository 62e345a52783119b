//! What an input reached: the runner keeps inputs that reach something new, as a fuzzer with instrumented code would
//! keep those that cover a new branch.

use std::cell::Cell;
use std::fmt::{self, Write};

thread_local! {
    static MARK: Cell<u64> = const { Cell::new(0) };
}

const PRIME: u64 = 0x0000_0100_0000_01b3;

struct Hash {
    sum: u64,
    /// Numbers in texts are most often lengths and positions: not each of them is something new.
    numbers: bool,
}

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let byte = if byte.is_ascii_digit() && !self.numbers { b'0' } else { byte };
            self.sum = (self.sum ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        Ok(())
    }
}

fn mark(what: impl fmt::Display, numbers: bool) {
    let mut hash = Hash { sum: MARK.get(), numbers };
    write!(hash, "{what};").expect("hashing writes nowhere");
    MARK.set(hash.sum);
}

/// Says that the input came to the place `what`, of which there are few.
pub(super) fn reached(what: impl fmt::Display) {
    mark(what, true);
}

/// Says that the input brought this text, such as an error's, whatever the numbers in it.
pub(super) fn text(what: impl fmt::Display) {
    mark(what, false);
}

/// Marks a result: what is wrong, or that nothing is.
pub(super) fn result<T, E: fmt::Display>(result: Result<T, E>) -> Option<T> {
    match result {
        Ok(value) => {
            reached("ok");
            Some(value)
        }
        Err(error) => {
            text(error);
            None
        }
    }
}

/// What was reached since the last call.
pub fn take() -> u64 {
    MARK.replace(0)
}

/// What was reached by a call of `run`.
pub fn taken(run: impl FnOnce()) -> u64 {
    take();
    run();
    take()
}
