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

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

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
    end: Arc<End>,
    _dropped: oneshot::Sender<()>,
}

/// Why a worker is to end, if it is.
#[derive(Debug, Default)]
pub(crate) struct End {
    is_wanted: AtomicBool,
}

/// A call in the form that workers read, and what to do with its outputs.
pub(crate) struct EncodedCall {
    pub(crate) id: u64,
    message: Bytes,
}

/// How a call ended on a worker that did not answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The worker was gone before it had read the call.
    Unread,
    /// The worker died while it had the call.
    Died(Exit),
}

/// What a worker said of one call.
pub(crate) struct Answered {
    pub(crate) outcome: Result<Computed, RunFault>,
    pub(crate) is_over_mark: bool,
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

    /// Sends a call. Until this has returned the worker may have read a part of it.
    pub(crate) async fn send(&mut self, call: &EncodedCall) -> Result<(), Lost> {
        self.calls.get_mut().write_all(&call.message).await.map_err(|_| Lost::Unread)
    }

    /// Waits for the answer to the call that was sent last.
    pub(crate) async fn answer(&mut self) -> Result<Answered, Lost> {
        match self.calls.next().await {
            Some(Ok(message)) => match decode(message.freeze()).await {
                Ok(wire::Answer { outcome, is_over_mark }) => Ok(Answered { outcome, is_over_mark }),
                // A worker that does not speak the protocol was taken over; dropping it kills it.
                Err(fault) => Err(Lost::Died(Exit::Broken(fault.to_string()))),
            },
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

    /// From here on its end is no fault.
    pub(crate) fn expect_end(&self) {
        self.end.is_wanted.store(true, Ordering::Relaxed);
    }

    async fn wait_for_exit(&mut self) -> Exit {
        let exit = tokio::time::timeout(process::EXIT_TIMEOUT, self.exit.wait_for(Option::is_some)).await;
        match exit {
            Ok(Ok(exit)) => exit.clone().unwrap_or(Exit::Unknown),
            Ok(Err(_)) | Err(_) => Exit::Unknown,
        }
    }
}

// === impl End ===

impl End {
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }
}

/// What is longer is read beside the threads that serve requests.
const SMALL_BYTES_MAX: usize = 256 << 10;

async fn decode(message: Bytes) -> Result<wire::Answer, wire::WireFault> {
    if message.len() <= SMALL_BYTES_MAX {
        return wire::decode_answer(message);
    }
    let bytes = message.len();
    tokio::task::spawn_blocking(move || wire::decode_answer(message)).await.unwrap_or(Err(wire::WireFault(bytes)))
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
