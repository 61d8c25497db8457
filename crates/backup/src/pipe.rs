//! A pipe between the asynchronous half (a child process) and the blocking half (encryption, decryption) of a task.
//!
//! The end is a message of its own: a channel that closes without it means that the other half failed or was dropped, and
//! then the copy is an error.

use std::io::{self, Read, Write};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::encrypted_file::CHUNK_BYTES;

/// Chunks in flight: bounded, so that the slower half sets the pace.
const CHUNKS_MAX: usize = 8;

enum Chunk {
    Bytes(Vec<u8>),
    End,
}

/// The half that bytes are written to.
pub(crate) struct PipeWriter(mpsc::Sender<Chunk>);

/// The half that bytes are read from.
pub(crate) struct PipeReader(mpsc::Receiver<Chunk>);

/// Two connected halves.
pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    (PipeWriter(sender), PipeReader(receiver))
}

// === impl PipeWriter ===

impl PipeWriter {
    /// Writes everything that can be read from `from`. Stops early, without an error, when the reader is gone.
    pub(crate) async fn write_from(&self, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        loop {
            let mut bytes = Vec::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut bytes).await? == 0 || self.0.send(Chunk::Bytes(bytes)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Marks the end.
    pub(crate) async fn finish(self) {
        // A reader that is gone has failed, and reports that itself.
        let _gone = self.0.send(Chunk::End).await;
    }

    /// Writes everything that can be read from `from`, on a thread that may block, and marks the end.
    pub(crate) fn write_from_blocking(self, from: &mut impl Read) -> io::Result<()> {
        loop {
            let mut bytes = vec![0; CHUNK_BYTES];
            let read = from.read(&mut bytes)?;
            bytes.truncate(read);
            let chunk = if read == 0 { Chunk::End } else { Chunk::Bytes(bytes) };
            if self.0.blocking_send(chunk).is_err() || read == 0 {
                return Ok(());
            }
        }
    }
}

// === impl PipeReader ===

impl PipeReader {
    /// Copies everything to `into`; an error if the writer was dropped before the end.
    pub(crate) fn copy_to_blocking(mut self, into: &mut impl Write) -> io::Result<()> {
        loop {
            match self.0.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => into.write_all(&bytes)?,
                Some(Chunk::End) => return Ok(()),
                None => return Err(ended_early()),
            }
        }
    }

    /// Copies everything to `into`; an error if the writer was dropped before the end.
    pub(crate) async fn copy_to(mut self, mut into: impl AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            match self.0.recv().await {
                Some(Chunk::Bytes(bytes)) => into.write_all(&bytes).await?,
                Some(Chunk::End) => return into.shutdown().await,
                None => return Err(ended_early()),
            }
        }
    }
}

fn ended_early() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the pipe ended early")
}
