//! Flat little-endian encoding of commands and records. Reading is bounds-checked and allocates no more than the
//! input holds.

use crate::error::Error;
use bytes::Bytes;

/// Appends values to a buffer.
pub trait Put {
    /// One byte.
    fn put_u8(&mut self, value: u8);
    /// Two bytes.
    fn put_u16(&mut self, value: u16);
    /// Four bytes.
    fn put_u32(&mut self, value: u32);
    /// Eight bytes.
    fn put_u64(&mut self, value: u64);
    /// Four bytes.
    fn put_i32(&mut self, value: i32);
    /// Length (four bytes) and content.
    fn put_bytes(&mut self, value: &[u8]);
    /// Length (two bytes) and UTF-8; longer texts are cut at a character.
    fn put_str(&mut self, value: &str);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_i32(&mut self, value: i32) {
        self.extend_from_slice(&value.to_le_bytes());
    }
    fn put_bytes(&mut self, value: &[u8]) {
        let len = u32::try_from(value.len()).expect("byte fields are bounded far below 4 GiB");
        self.put_u32(len);
        self.extend_from_slice(value);
    }
    fn put_str(&mut self, value: &str) {
        let value = cut(value, usize::from(u16::MAX));
        self.put_u16(value.len() as u16);
        self.extend_from_slice(value.as_bytes());
    }
}

/// The longest prefix of at most `max` bytes that ends at a character.
pub fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads values from the front of a buffer.
pub struct Get {
    bytes: Bytes,
    at: usize,
    what: &'static str,
}

impl Get {
    /// Reads `bytes`; `what` names them in errors.
    pub fn new(bytes: Bytes, what: &'static str) -> Self {
        Get { bytes, at: 0, what }
    }

    /// The error for a value that makes no sense here.
    pub fn damaged(&self) -> Error {
        Error::Damaged { what: self.what, at: self.at }
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Fails unless all was read.
    pub fn end(&self) -> Result<(), Error> {
        if self.left() == 0 { Ok(()) } else { Err(self.damaged()) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let slice = self.bytes.get(self.at..self.at + N).ok_or(Error::Damaged { what: self.what, at: self.at })?;
        self.at += N;
        Ok(slice.try_into().expect("the slice has N bytes"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// Four bytes.
    pub fn i32(&mut self) -> Result<i32, Error> {
        Ok(i32::from_le_bytes(self.array()?))
    }
    /// Sixteen bytes.
    pub fn id128(&mut self) -> Result<[u8; 16], Error> {
        self.array()
    }
    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.damaged()),
        }
    }

    /// Length and content, sharing the input's memory.
    pub fn bytes(&mut self) -> Result<Bytes, Error> {
        let len = self.u32()? as usize;
        if len > self.left() {
            return Err(self.damaged());
        }
        let slice = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(slice)
    }

    /// Length and text.
    pub fn str(&mut self) -> Result<Box<str>, Error> {
        let len = usize::from(self.u16()?);
        let slice = self.bytes.get(self.at..self.at + len).ok_or(Error::Damaged { what: self.what, at: self.at })?;
        let text = std::str::from_utf8(slice).map_err(|_| Error::Damaged { what: self.what, at: self.at })?;
        let text = text.into();
        self.at += len;
        Ok(text)
    }

    /// A count of items that take at least `item_bytes` each, so that a forged one cannot make us reserve memory.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, Error> {
        let count = self.u32()? as usize;
        if count.saturating_mul(item_bytes.max(1)) > self.left() {
            return Err(self.damaged());
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let mut buffer = Vec::new();
        buffer.put_u8(1);
        buffer.put_u16(2);
        buffer.put_u32(3);
        buffer.put_u64(4);
        buffer.put_i32(-5);
        buffer.put_bytes(b"six");
        buffer.put_str("sieben");
        let mut get = Get::new(buffer.into(), "test");
        assert_eq!((get.u8(), get.u16(), get.u32(), get.u64(), get.i32()), (Ok(1), Ok(2), Ok(3), Ok(4), Ok(-5)));
        assert_eq!(get.bytes().unwrap(), b"six"[..]);
        assert_eq!(&*get.str().unwrap(), "sieben");
        assert_eq!(get.end(), Ok(()));
        assert_eq!(get.u8(), Err(Error::Damaged { what: "test", at: 34 }));
    }

    #[test]
    fn a_forged_count_is_refused_before_memory_is_reserved() {
        let mut get = Get::new(Bytes::from_static(&[255, 255, 255, 255, 0]), "test");
        assert!(get.count(8).is_err());
        let mut get = Get::new(Bytes::from_static(&[255, 255, 255, 127, 0]), "test");
        assert!(get.bytes().is_err());
    }

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
