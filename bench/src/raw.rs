//! HTTP/2 and gRPC by hand, frame by frame: for clients that do what no library lets them.

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub mod kind {
    /// Bytes of a call.
    pub const DATA: u8 = 0;
    /// The head of a call.
    pub const HEADERS: u8 = 1;
    /// A call is given up.
    pub const RST_STREAM: u8 = 3;
    /// What the sender takes.
    pub const SETTINGS: u8 = 4;
    /// A sign of life is asked for.
    pub const PING: u8 = 6;
    /// The sender ends the connection.
    pub const GOAWAY: u8 = 7;
    /// More may be sent.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a head.
    pub const CONTINUATION: u8 = 9;
}

/// The call's last frame.
pub const END_STREAM: u8 = 1;
/// The head is complete.
pub const END_HEADERS: u8 = 4;
/// Setting: bytes of a call that the sender takes before it says that it takes more.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Appends a frame.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    head_of_frame(out, payload.len() as u32, kind, flags, stream);
    out.extend_from_slice(payload);
}

/// Appends the head of a frame that says it has so many bytes.
pub fn head_of_frame(out: &mut Vec<u8>, length: u32, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// What a client says first, with its settings.
pub fn hello(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    let pairs = settings.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(&mut out, kind::SETTINGS, 0, 0, &pairs.collect::<Vec<u8>>());
    out
}

/// The head of a gRPC call, as a block for a HEADERS frame: nothing is indexed, nothing compressed.
pub fn call_head(path: &str, content_type: &str) -> Vec<u8> {
    // POST, http.
    let mut block = vec![0x83, 0x86];
    block.push(0x04);
    text(&mut block, path);
    block.push(0x01);
    text(&mut block, "node");
    field(&mut block, "content-type", content_type);
    field(&mut block, "te", "trailers");
    block
}

/// Appends a header field that is not indexed.
pub fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    text(block, name);
    text(block, value);
}

fn text(block: &mut Vec<u8>, text: &str) {
    const PREFIX: usize = 127;
    let length = text.len();
    if length < PREFIX {
        block.push(length as u8);
    } else {
        block.push(PREFIX as u8);
        let mut rest = length - PREFIX;
        while rest >= 128 {
            block.push(rest as u8 & 0x7f | 0x80);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text.as_bytes());
}

/// A message of a gRPC call.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// A whole call: its head, and its message in frames of the size that every server takes.
pub fn call(out: &mut Vec<u8>, stream: u32, path: &str, bytes: &[u8], end: bool) {
    const FRAME_BYTES: usize = 16_384;
    frame(out, kind::HEADERS, END_HEADERS, stream, &call_head(path, "application/grpc"));
    let message = message(bytes);
    let frames = message.chunks(FRAME_BYTES).count();
    for (at, part) in message.chunks(FRAME_BYTES).enumerate() {
        let last = end && at + 1 == frames;
        frame(out, kind::DATA, if last { END_STREAM } else { 0 }, stream, part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_lengths() {
        let mut out = Vec::new();
        frame(&mut out, kind::PING, 0, 0, &[7; 8]);
        assert_eq!(out, [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat());
        assert_eq!(message(b"ab"), [0, 0, 0, 0, 2, b'a', b'b']);
        let mut out = Vec::new();
        call(&mut out, 1, "/p", &vec![0; 40_000], true);
        let (mut at, mut data, mut last) = (0, 0, 0);
        while at < out.len() {
            let length = u32::from_be_bytes([0, out[at], out[at + 1], out[at + 2]]) as usize;
            if out[at + 3] == kind::DATA {
                data += length;
            }
            last = out[at + 4];
            at += 9 + length;
        }
        assert_eq!((at, data, last), (out.len(), 40_005, END_STREAM));
    }

    #[test]
    fn long_texts_have_long_lengths() {
        let mut block = Vec::new();
        text(&mut block, &"x".repeat(127 + 300));
        // 300 = 2 * 128 + 44.
        assert_eq!(&block[..3], [127, 44 | 0x80, 2]);
        assert_eq!(block.len(), 3 + 427);
    }
}
