//! SHA-256 of what passes by, and its hexadecimal form.

use std::{
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// A SHA-256 sum; 64 hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Sha256([u8; 32]);

/// That a text is no SHA-256 sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 lower-case hexadecimal digits")]
pub struct NotSha256;

/// Sum and length of the bytes that went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// How many bytes.
    pub size: u64,
    /// Their sum.
    pub sha256: Sha256,
}

/// A reader or writer that measures what passes.
pub struct Measure<T> {
    inner: T,
    context: Context,
    size: u64,
}

// === impl Sha256 ===

impl Sha256 {
    /// The sum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(bytes);
        Self::finish(context)
    }

    /// From the 32 bytes of a sum.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotSha256> {
        bytes.try_into().map(Self).map_err(|_| NotSha256)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn finish(context: Context) -> Self {
        Self(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256 {
    type Err = NotSha256;

    fn from_str(text: &str) -> Result<Self, NotSha256> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NotSha256);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotSha256)?;
        Ok(Self(bytes))
    }
}

impl From<Sha256> for String {
    fn from(sum: Sha256) -> Self {
        sum.to_string()
    }
}

impl TryFrom<String> for Sha256 {
    type Error = NotSha256;

    fn try_from(text: String) -> Result<Self, NotSha256> {
        text.parse()
    }
}

// === impl Measure ===

impl<T> Measure<T> {
    /// Nothing measured yet.
    pub fn new(inner: T) -> Self {
        Self { inner, context: Context::new(&SHA256), size: 0 }
    }

    /// What was measured, and what it was measured on.
    pub fn finish(self) -> (Measured, T) {
        (Measured { size: self.size, sha256: Sha256::finish(self.context) }, self.inner)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }
}

impl<T: Write> Write for Measure<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Measure<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let filled = buffer.get(..read).unwrap_or_default();
        self.context.update(filled);
        self.size += u64::try_from(filled.len()).unwrap_or(u64::MAX);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of "abc" (FIPS 180-4).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn measures_what_is_read_and_written() {
        let mut writer = Measure::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        let mut reader = Measure::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        for measured in [writer.finish().0, reader.finish().0] {
            assert_eq!((measured.size, measured.sha256.to_string().as_str()), (3, ABC));
        }
    }

    #[test]
    fn only_its_own_spelling_is_read() {
        assert_eq!(ABC.parse::<Sha256>().unwrap(), Sha256::of(b"abc"));
        assert!(ABC.to_uppercase().parse::<Sha256>().is_err());
        assert!(ABC[..62].parse::<Sha256>().is_err());
    }
}
