//! The loop of a worker: one request after the other, each cancelled when the replica says so.

use std::{
    collections::BTreeSet,
    io::{self, BufReader, PipeReader, PipeWriter, Read, Write},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use ort::session::RunOptions;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};

use super::{
    Verdict,
    models::Models,
    wire::{self, Request, Task},
};
use crate::{
    fault::LoadFault,
    session::{Computed, RunFault},
};

/// Calls and files are bounded where they are read; this is beyond what any of them becomes.
const REQUEST_BYTES_MAX: u64 = 16 << 30;
/// A run that takes less time and moves less than this cannot have taken much memory.
const SMALL_RUN: Duration = Duration::from_millis(2);
const SMALL_MESSAGE_BYTES: usize = 64 << 10;
/// Requests that were given up and are not answered yet: more than a worker has at once, even for a thousand models.
const CANCELLED_MAX: usize = 4096;

/// A worker's ends of the pipes of calls and answers.
pub(super) struct CallPipes {
    calls: BufReader<PipeReader>,
    answers: PipeWriter,
}

/// The run that is under way, as the loop and the thread that hears of cancellations share it.
pub(super) struct CurrentRun {
    options: RunOptions,
    state: Mutex<RunState>,
}

/// Requests are numbered from 1, and the later ones have the larger numbers.
#[derive(Default)]
struct RunState {
    running: u64,
    /// Those that were given up, some before they were read and some after they were answered.
    cancelled: BTreeSet<u64>,
}

/// Does what is asked, one request after the other, until the replica closes their pipe.
pub(super) fn answer_requests(
    models: &mut Models,
    pipes: &mut CallPipes,
    run: &CurrentRun,
    answer_bytes_max: u64,
) -> io::Result<()> {
    while let Some(message) = pipes.read(REQUEST_BYTES_MAX)? {
        let bytes = message.len();
        let invalid = |fault| io::Error::new(io::ErrorKind::InvalidData, fault);
        let Request { id, slot, task } = wire::decode_request(message).map_err(invalid)?;
        let answer = match task {
            Task::Call { inputs, wanted } => {
                let outcome = run.guard(id, |options| {
                    // A panic in the bindings must cost one call, not a worker.
                    catch_unwind(AssertUnwindSafe(|| models.run(slot, &inputs, &wanted, options)))
                        .unwrap_or(Err(RunFault::Panicked))
                });
                drop(inputs);
                let is_over_mark = !is_small(bytes, &outcome) && models.hold_too_much();
                wire::encode_answer(outcome, is_over_mark, answer_bytes_max)
            }
            Task::Load(files) => {
                let verdict = run.guard(id, |options| {
                    catch_unwind(AssertUnwindSafe(|| models.load(slot, &files, options)))
                        .map_err(|_| RunFault::Panicked)
                });
                let verdict = verdict.unwrap_or_else(|fault| Verdict::from(LoadFault::internal(fault)));
                wire::encode_text(&serde_json::to_vec(&verdict)?)
            }
            Task::Unload => {
                models.unload(slot);
                wire::encode_text(&[])
            }
        };
        pipes.write(&answer)?;
    }
    Ok(())
}

/// Whether a call cannot have taken much memory.
fn is_small(call_bytes: usize, outcome: &Result<Computed, RunFault>) -> bool {
    call_bytes < SMALL_MESSAGE_BYTES
        && outcome.as_ref().is_ok_and(|computed| {
            computed.compute < SMALL_RUN
                && computed.outputs.iter().all(|output| output.bytes_held() < SMALL_MESSAGE_BYTES)
        })
}

/// Obeys the socket of control on a thread of its own: each number on it is a call to be cancelled. `at_end` runs when the replica is gone.
pub(super) fn obey_cancellations(
    mut socket: UnixStream,
    run: Arc<CurrentRun>,
    at_end: fn(),
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("cancellations".to_owned()).spawn(move || {
        let mut id = [0; 8];
        while socket.read_exact(&mut id).is_ok() {
            run.cancel(u64::from_le_bytes(id));
        }
        at_end();
    })
}

// === impl CallPipes ===

impl CallPipes {
    pub(super) fn new(calls: PipeReader, answers: PipeWriter) -> Self {
        Self { calls: BufReader::with_capacity(SMALL_MESSAGE_BYTES, calls), answers }
    }

    /// The next message; none when the replica is gone.
    pub(super) fn read(&mut self, bytes_max: u64) -> io::Result<Option<Bytes>> {
        if self.calls.buffer().is_empty() {
            // A process that is killed while it waits to read reads what comes before it is scheduled again; that call would pass for what it
            // died of. One that waits to be told that there is something dies before it reads.
            poll(&mut [PollFd::new(self.calls.get_ref(), PollFlags::IN)], None)?;
        }
        wire::read(&mut self.calls, bytes_max)
    }

    pub(super) fn write(&mut self, framed: &[u8]) -> io::Result<()> {
        self.answers.write_all(framed)
    }
}

// === impl CurrentRun ===

impl CurrentRun {
    pub(super) fn new() -> ort::Result<Self> {
        Ok(Self { options: RunOptions::new()?, state: Mutex::default() })
    }

    /// Runs a call unless it was cancelled before, and lets it be cancelled meanwhile.
    fn guard<T>(&self, id: u64, run: impl FnOnce(&RunOptions) -> Result<T, RunFault>) -> Result<T, RunFault> {
        {
            let mut state = self.state.lock();
            if state.cancelled.remove(&id) {
                return Err(RunFault::Cancelled);
            }
            state.running = id;
        }
        let outcome = run(&self.options);
        let mut state = self.state.lock();
        state.running = 0;
        if state.cancelled.remove(&id) {
            self.options.unterminate().map_err(|error| RunFault::Engine(error.to_string()))?;
        }
        outcome
    }

    fn cancel(&self, id: u64) {
        let mut state = self.state.lock();
        if state.cancelled.len() >= CANCELLED_MAX {
            state.cancelled.pop_first();
        }
        state.cancelled.insert(id);
        if state.running == id
            && let Err(error) = self.options.terminate()
        {
            tracing::debug!(%error, "a run could not be cancelled");
        }
    }
}
