//! Where the messages of a gRPC call begin and end: each is a flag, a length of four bytes and so many bytes.

/// Bytes before a message.
const HEAD_BYTES: usize = 5;

/// Follows the bytes of a call.
#[derive(Debug, Default)]
pub struct Framing {
    head: [u8; HEAD_BYTES],
    /// Bytes of the head that are here.
    have: usize,
    /// Bytes of the message that are not.
    left: usize,
    /// Bytes of the message that are.
    here: usize,
}

impl Framing {
    /// More bytes of the call.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.have < HEAD_BYTES {
                let take = bytes.len().min(HEAD_BYTES - self.have);
                self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
                self.have += take;
                bytes = &bytes[take..];
                if self.have < HEAD_BYTES {
                    return;
                }
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
            }
            let take = bytes.len().min(self.left);
            self.left -= take;
            self.here += take;
            bytes = &bytes[take..];
            if self.left == 0 {
                *self = Framing::default();
            }
        }
    }

    /// Bytes of a message that is not complete.
    pub fn incomplete_bytes(&self) -> usize {
        self.have + self.here
    }

    /// Bytes that the message still lacks, as far as is known.
    pub fn missing_bytes(&self) -> usize {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat()
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let bytes = [message(0), message(1), message(300), message(0), message(70_000)].concat();
        for step in [1, 2, 3, 5, 7, 64, 1_000, bytes.len()] {
            let mut framing = Framing::default();
            for chunk in bytes.chunks(step) {
                framing.feed(chunk);
                assert!(framing.incomplete_bytes() <= 70_005);
            }
            assert_eq!(framing.incomplete_bytes(), 0, "in steps of {step}");
        }
    }

    #[test]
    fn what_is_missing_is_known_once_the_head_is_here() {
        let mut framing = Framing::default();
        framing.feed(&[0, 0xff, 0xff, 0xff]);
        assert_eq!((framing.incomplete_bytes(), framing.missing_bytes()), (4, 0));
        framing.feed(&[0xff, 1, 2]);
        assert_eq!((framing.incomplete_bytes(), framing.missing_bytes()), (7, u32::MAX as usize - 2));
    }
}
