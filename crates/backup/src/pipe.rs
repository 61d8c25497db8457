//! Bytes between the asynchronous half (a child process) and the blocking half (sealing, opening) of a task.
//!
//! The end is said explicitly: a channel that closes without it means that the other half was given up, and then
//! nothing is finished.

use std::io::{self, Read, Write};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use crate::sealed::CHUNK_BYTES;

/// Chunks on their way: bounded, so that the slower half sets the pace.
const CHUNKS_MAX: usize = 8;

enum Piece {
    Bytes(Vec<u8>),
    End,
}

/// The half that gives.
pub(crate) struct Giver(mpsc::Sender<Piece>);

/// The half that takes.
pub(crate) struct Taker(mpsc::Receiver<Piece>);

/// Two connected halves.
pub(crate) fn pipe() -> (Giver, Taker) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    (Giver(sender), Taker(receiver))
}

// === impl Giver ===

impl Giver {
    /// Gives everything that can be read. Stops early, without an error, when nobody takes any more.
    pub(crate) async fn give_all(&self, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        loop {
            let mut bytes = Vec::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut bytes).await? == 0 || self.0.send(Piece::Bytes(bytes)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Says that this was all.
    pub(crate) async fn end(self) {
        // Nobody taking means that the other half failed and will say so itself.
        let _gone = self.0.send(Piece::End).await;
    }

    /// Gives everything that can be read, from a thread that may block, and says that it was all.
    pub(crate) fn give_all_blocking(self, from: &mut impl Read) -> io::Result<()> {
        loop {
            let mut bytes = vec![0; CHUNK_BYTES];
            let read = from.read(&mut bytes)?;
            bytes.truncate(read);
            let piece = if read == 0 { Piece::End } else { Piece::Bytes(bytes) };
            if self.0.blocking_send(piece).is_err() || read == 0 {
                return Ok(());
            }
        }
    }
}

// === impl Taker ===

impl Taker {
    /// Writes everything that is given; an error if the giver went away before the end.
    pub(crate) fn take_all_blocking(mut self, into: &mut impl Write) -> io::Result<()> {
        loop {
            match self.0.blocking_recv() {
                Some(Piece::Bytes(bytes)) => into.write_all(&bytes)?,
                Some(Piece::End) => return Ok(()),
                None => return Err(broken_off()),
            }
        }
    }

    /// Writes everything that is given; an error if the giver went away before the end.
    pub(crate) async fn take_all(mut self, mut into: impl AsyncWrite + Unpin) -> io::Result<()> {
        loop {
            match self.0.recv().await {
                Some(Piece::Bytes(bytes)) => into.write_all(&bytes).await?,
                Some(Piece::End) => return into.shutdown().await,
                None => return Err(broken_off()),
            }
        }
    }
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "broken off before its end")
}
