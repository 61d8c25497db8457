//! How far a run is: what it does, and how many bytes of a set it has written or read.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use strum::{EnumString, IntoStaticStr};

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum Phase {
    /// Archives the models.
    ArchiveModels,
    /// Dumps the databases.
    DumpDatabases,
    /// Compares every file with the manifest.
    CheckFiles,
    /// Decrypts the models and compares each.
    OpenModels,
    /// Restores the databases and counts their rows.
    RestoreDatabases,
}

/// How far a run is; shared by the tasks and threads of it.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    phase: Mutex<Option<Phase>>,
    bytes_done: AtomicU64,
    /// Zero while it is unknown.
    bytes_expected: AtomicU64,
}

/// How far a run is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// What it does, or did last.
    pub phase: Option<Phase>,
    /// Bytes of the set that it has written, or has read.
    pub bytes_done: u64,
    /// Bytes that it will probably be: of a set that is made, those of the set before.
    pub bytes_expected: Option<u64>,
}

/// Counts the bytes that pass.
pub(crate) struct Counted<T> {
    inner: T,
    progress: Progress,
}

// === impl Phase ===

impl Phase {
    /// The name in the API and the store.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

// === impl Progress ===

impl Progress {
    /// Says what the run does from now on.
    pub fn enter(&self, phase: Phase) {
        *self.0.phase.lock() = Some(phase);
    }

    /// Says how many bytes it will probably be.
    pub fn expect(&self, bytes: u64) {
        self.0.bytes_expected.store(bytes, Ordering::Relaxed);
    }

    /// How far it is now.
    pub fn reached(&self) -> Reached {
        let bytes_expected = self.0.bytes_expected.load(Ordering::Relaxed);
        Reached {
            phase: *self.0.phase.lock(),
            bytes_done: self.0.bytes_done.load(Ordering::Relaxed),
            bytes_expected: (bytes_expected > 0).then_some(bytes_expected),
        }
    }

    /// Counts what passes through `inner`.
    pub(crate) fn count<T>(&self, inner: T) -> Counted<T> {
        Counted { inner, progress: self.clone() }
    }

    fn add(&self, bytes: usize) {
        self.0.bytes_done.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// === impl Counted ===

impl<T> Counted<T> {
    pub(crate) fn into_inner(self) -> T {
        self.inner
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.progress.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.progress.add(read);
        Ok(read)
    }
}
