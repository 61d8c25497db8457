//! Size and digest of what is read or written, without reading it twice.

use std::io::{self, Read, Write};

use crate::{Hasher, Sha256Digest};

/// Size and digest of the bytes that went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// How many bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: Sha256Digest,
}

/// A reader or writer that measures what passes.
pub struct Measuring<T> {
    inner: T,
    hasher: Hasher,
    size: u64,
}

// === impl Measuring ===

impl<T> Measuring<T> {
    /// Nothing measured yet.
    pub fn new(inner: T) -> Self {
        Self { inner, hasher: Hasher::new(), size: 0 }
    }

    /// What was measured, and what it was measured on.
    pub fn finish(self) -> (Measured, T) {
        (Measured { size: self.size, sha256: self.hasher.finish() }, self.inner)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }
}

impl<T: Write> Write for Measuring<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Measuring<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_what_is_read_and_written() {
        let mut writer = Measuring::new(Vec::new());
        writer.write_all(b"abc").unwrap();
        let mut reader = Measuring::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        for measured in [writer.finish().0, reader.finish().0] {
            assert_eq!(measured, Measured { size: 3, sha256: Sha256Digest::of(b"abc") });
        }
    }
}
