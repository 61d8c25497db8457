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
mod files;
mod line;
mod models;
mod process;
mod sandbox;
mod start;
mod thread;
mod verdict;
mod wire;

use std::{
    io::{self, PipeReader, PipeWriter},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixStream, unix::pipe};
use tokio_util::codec::LengthDelimitedCodec;

pub(crate) use child::confine;
pub use child::run as run_worker;
pub(crate) use files::Declared;
pub use files::VersionFiles;
pub(crate) use line::{Answers, Pending, Said, Submitted, Worker};
pub(crate) use process::{Exit, Process};
pub(crate) use start::{Job, Started};
pub use start::{WorkerLimits, WorkerStarter};
pub(crate) use thread::start_thread;
pub(crate) use verdict::{Loaded, NotLoaded, Verdict};

use crate::{
    session::{Computed, RunFault},
    tensor::Tensor,
};

/// A message that is longer is made and read beside the threads that serve requests.
pub(crate) const SMALL_BYTES_MAX: usize = 256 << 10;

/// The slot of the model in a worker that has no other.
pub(crate) const OWN_SLOT: u32 = 0;

/// The subcommand under which the program is a worker.
pub const WORKER_SUBCOMMAND: &str = "model-worker";

/// Where the versions of a model compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Each worker is a process of its own.
    #[default]
    Model,
    /// The versions of all models of a replica that are so declared share one worker, a process, and fall together.
    Group,
    /// Each worker is a thread of the replica: a crash or a leak of this model is the replica's. It is still loaded in a process first.
    None,
}

/// A request in the form that workers read. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EncodedRequest {
    id: u64,
    slot: u32,
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

// === impl EncodedRequest ===

impl EncodedRequest {
    /// A call of the model in this slot of its worker.
    pub(crate) fn call(slot: u32, inputs: &[Tensor], wanted: &[usize]) -> Self {
        let id = next_id();
        Self { id, slot, message: Bytes::from(wire::encode_call(id, slot, inputs, wanted)) }
    }

    /// Has a worker load a model into this slot.
    fn load(slot: u32, files: &wire::LoadFiles) -> Self {
        let id = next_id();
        Self { id, slot, message: Bytes::from(wire::encode_load(id, slot, files)) }
    }

    /// Has a worker drop the model in this slot.
    pub(crate) fn unload(slot: u32) -> Self {
        let id = next_id();
        Self { id, slot, message: Bytes::from(wire::encode_unload(id, slot)) }
    }

    /// The same for another worker: the one that had it was told to give this id up, and may be the next again.
    pub(crate) fn renumbered(&self) -> Self {
        let id = next_id();
        Self { id, slot: self.slot, message: Bytes::from(wire::renumber(&self.message, id)) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.message.len()
    }
}

/// Ids are unique in the process: a cancellation that is late must not hit another request.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

// === impl Message ===

impl Message {
    /// What it says in answer to a load or an unload.
    fn text(self) -> Result<Bytes, Exit> {
        wire::decode_text(self.0).map_err(|fault| Exit::Broken(fault.to_string()))
    }

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

/// The pipes and the socket between a replica and a worker: the replica's ends, and the worker's, who blocks on them.
///
/// Calls and answers have a pipe each. A stream socket would wake its writer each time when the other side has read: two changes of the
/// process more for each call (`docs/adr/0011-…`).
struct Ends {
    calls: pipe::Sender,
    answers: pipe::Receiver,
    /// Ids of calls that were given up, to the worker; its standard error, back.
    control: UnixStream,
}

/// The other ends of [`Ends`].
struct WorkerEnds {
    calls: PipeReader,
    answers: PipeWriter,
    control: std::os::unix::net::UnixStream,
}

fn connect() -> io::Result<(Ends, WorkerEnds)> {
    let (their_calls, calls) = io::pipe()?;
    let (answers, their_answers) = io::pipe()?;
    let (control, their_control) = std::os::unix::net::UnixStream::pair()?;
    control.set_nonblocking(true)?;
    let ours = Ends {
        calls: pipe::Sender::from_owned_fd(calls.into())?,
        answers: pipe::Receiver::from_owned_fd(answers.into())?,
        control: UnixStream::from_std(control)?,
    };
    Ok((ours, WorkerEnds { calls: their_calls, answers: their_answers, control: their_control }))
}
