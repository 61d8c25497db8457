//! A model version in a process of its own: where native code that computes what strangers send can do no harm.
//!
//! A worker is this same program with the subcommand `model-worker`. It limits its memory, CPU time and files, gives up network, files and
//! most system calls (`worker/sandbox.rs`), loads the model, compares the signature, computes the golden examples, and says its verdict. The
//! worker that was accepted then computes calls, one at a time: what was proved is what serves, and nothing loads twice. A worker
//! that dies, or that says nothing in time, is a verdict too. The reasons and figures are in `docs/adr/0011-…`.
//!
//! With [`Isolation::None`] the same loop runs on a thread of the replica instead.

mod child;
mod compute;
mod process;
mod sandbox;
mod start;
mod thread;
mod wire;

use std::{io, net::Shutdown};

use bytes::Bytes;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{oneshot, watch},
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

pub use child::run as run_worker;
pub(crate) use process::{Exit, Process};
pub(crate) use start::{Job, Started, Verdict};
pub use start::{VersionFiles, WorkerLimits, WorkerStarter};
pub(crate) use thread::start_thread;

use crate::{
    session::{Computed, RunFault},
    tensor::Tensor,
};

/// A message that is longer is made and read beside the threads that serve requests.
pub(crate) const SMALL_BYTES_MAX: usize = 256 << 10;

/// The subcommand under which the program is a worker.
pub const WORKER_SUBCOMMAND: &str = "model-worker";

/// Where the versions of a model compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Each worker is a process of its own.
    #[default]
    Model,
    /// Each worker is a thread of the replica: a crash or a leak of this model is the replica's. It is still loaded in a process first.
    None,
}

/// A replica's end of one worker. Dropping it ends the worker.
pub(crate) struct Worker {
    calls: Framed<UnixStream, LengthDelimitedCodec>,
    control: UnixStream,
    exit: watch::Receiver<Option<Exit>>,
    _dropped: oneshot::Sender<()>,
}

/// A call in the form that workers read. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EncodedCall {
    pub(crate) id: u64,
    message: Bytes,
}

/// What a worker said of one call, not read yet.
pub(crate) struct Message(Bytes);

/// How a call ended on a worker that did not answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The worker was gone before it had read the call.
    Unread,
    /// The worker died while it had the call.
    Died(Exit),
}

// === impl EncodedCall ===

impl EncodedCall {
    /// Ids are unique in the process: a cancellation that is late must not hit another call.
    pub(crate) fn new(id: u64, inputs: &[Tensor], wanted: &[usize]) -> Self {
        Self { id, message: Bytes::from(wire::encode_call(id, inputs, wanted)) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.message.len()
    }
}

// === impl Worker ===

impl Worker {
    /// Whether its process has ended, or is about to.
    pub(crate) fn is_gone(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Sends what is left of a call. `sent` is true when this future is dropped, too.
    pub(crate) async fn send(&mut self, call: &EncodedCall, sent: &mut usize) -> Result<(), Lost> {
        while let Some(rest) = call.message.get(*sent..).filter(|rest| !rest.is_empty()) {
            *sent += self.calls.get_mut().write(rest).await.map_err(|_| Lost::Unread)?;
        }
        Ok(())
    }

    /// Waits for the answer to the call that was sent last.
    pub(crate) async fn receive(&mut self) -> Result<Message, Lost> {
        match self.calls.next().await {
            Some(Ok(message)) => Ok(Message(message.freeze())),
            // Unix: a socket whose peer closed it with bytes still to be read says so.
            Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Err(Lost::Unread),
            Some(Err(_)) | None => Err(Lost::Died(self.wait_for_exit().await)),
        }
    }

    /// Asks the worker to give up a call. It then answers, soon if it obeys.
    pub(crate) fn cancel(&self, id: u64) -> io::Result<()> {
        let sent = self.control.try_write(&id.to_le_bytes())?;
        if sent == size_of::<u64>() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    async fn wait_for_exit(&mut self) -> Exit {
        let exit = tokio::time::timeout(process::EXIT_TIMEOUT, self.exit.wait_for(Option::is_some)).await;
        match exit {
            Ok(Ok(exit)) => exit.clone().unwrap_or(Exit::Unknown),
            Ok(Err(_)) | Err(_) => Exit::Unknown,
        }
    }
}

// === impl Message ===

impl Message {
    /// Whether the worker holds more memory than it should keep.
    pub(crate) fn is_over_mark(&self) -> bool {
        self.0.first().is_some_and(|flag| *flag != 0)
    }

    /// What it says. A worker that does not speak the protocol was taken over.
    pub(crate) async fn decode(self) -> Result<Result<Computed, RunFault>, Exit> {
        let broken = |error: &dyn std::error::Error| Exit::Broken(error.to_string());
        let message = self.0;
        if message.len() <= SMALL_BYTES_MAX {
            return wire::decode_answer(message).map_err(|fault| broken(&fault));
        }
        let decoded = tokio::task::spawn_blocking(move || wire::decode_answer(message)).await;
        decoded.map_err(|error| broken(&error))?.map_err(|fault| broken(&fault))
    }
}

/// The codec of what a worker sends.
fn codec(answer_bytes_max: u64) -> LengthDelimitedCodec {
    let bytes_max = usize::try_from(answer_bytes_max).unwrap_or(usize::MAX).saturating_add(wire::ANSWER_OVERHEAD_BYTES);
    LengthDelimitedCodec::builder().little_endian().length_field_type::<u64>().max_frame_length(bytes_max).new_codec()
}

/// Both ends of a socket: one for this process, and one for the worker, who blocks on it.
fn socket_pair() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// A worker says nothing on this socket: what it writes there all the same fails, and does not fill a buffer.
fn write_only(control: UnixStream) -> io::Result<UnixStream> {
    let control = control.into_std()?;
    control.shutdown(Shutdown::Read)?;
    UnixStream::from_std(control)
}
