//! The loop of a worker: one call after the other, each cancelled when the replica says so.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, PipeReader, PipeWriter, Read, Write},
    os::unix::{fs::FileExt, net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use ort::session::RunOptions;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};

use super::wire;
use crate::session::{RunFault, Session};

/// Calls are bounded where they are read from clients; this is beyond what any of them becomes.
const CALL_BYTES_MAX: u64 = 16 << 30;
/// A run that takes less time and moves less than this cannot have taken much memory.
const SMALL_RUN: Duration = Duration::from_millis(2);
const SMALL_MESSAGE_BYTES: usize = 64 << 10;
/// More calls than a worker is given at once.
const CANCELLED_MAX: usize = 64;

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

/// Calls are numbered from 1.
#[derive(Default)]
struct RunState {
    running: u64,
    /// The last that were given up, some before they were read.
    cancelled: VecDeque<u64>,
}

/// How much memory a worker may hold between two calls.
pub(super) struct MemoryMark {
    resident: ResidentMemory,
    bytes_max: u64,
}

/// How much memory this process holds. Made while files may still be opened.
pub(super) struct ResidentMemory {
    /// proc_pid_statm(5).
    statm: File,
    page_bytes: u64,
}

/// Computes calls until the replica closes their pipe.
pub(super) fn compute_calls(
    session: &mut Session,
    pipes: &mut CallPipes,
    run: &CurrentRun,
    mark: Option<&MemoryMark>,
    answer_bytes_max: u64,
) -> io::Result<()> {
    while let Some(message) = pipes.read(CALL_BYTES_MAX)? {
        let call_bytes = message.len();
        let call = wire::decode_call(message).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))?;
        let outcome = run.guard(call.id, |options| {
            // A panic in the bindings must cost one call, not a worker.
            catch_unwind(AssertUnwindSafe(|| session.run(&call.inputs, &call.wanted, options)))
                .unwrap_or(Err(RunFault::Panicked))
        });
        drop(call);
        let is_small = call_bytes < SMALL_MESSAGE_BYTES
            && outcome.as_ref().is_ok_and(|computed| {
                computed.compute < SMALL_RUN
                    && computed.outputs.iter().all(|output| output.bytes_held() < SMALL_MESSAGE_BYTES)
            });
        let is_over_mark = !is_small && mark.is_some_and(MemoryMark::is_exceeded);
        pipes.write(&wire::encode_answer(outcome, is_over_mark, answer_bytes_max))?;
    }
    Ok(())
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
            if state.is_cancelled(id) {
                return Err(RunFault::Cancelled);
            }
            state.running = id;
        }
        let outcome = run(&self.options);
        let mut state = self.state.lock();
        state.running = 0;
        if state.is_cancelled(id) {
            self.options.unterminate().map_err(|error| RunFault::Engine(error.to_string()))?;
        }
        outcome
    }

    fn cancel(&self, id: u64) {
        let mut state = self.state.lock();
        if state.cancelled.len() >= CANCELLED_MAX {
            state.cancelled.pop_front();
        }
        state.cancelled.push_back(id);
        if state.running == id
            && let Err(error) = self.options.terminate()
        {
            tracing::debug!(%error, "a run could not be cancelled");
        }
    }
}

// === impl RunState ===

impl RunState {
    fn is_cancelled(&self, id: u64) -> bool {
        self.cancelled.contains(&id)
    }
}

// === impl MemoryMark ===

impl MemoryMark {
    /// What is held now and a quarter more, or `spare_bytes_min` more if that is larger.
    pub(super) fn above_now(resident: ResidentMemory, spare_bytes_min: u64) -> Option<Self> {
        let now = resident.bytes()?;
        Some(Self { resident, bytes_max: now + (now / 4).max(spare_bytes_min) })
    }

    fn is_exceeded(&self) -> bool {
        self.resident.bytes().is_some_and(|resident| resident > self.bytes_max)
    }
}

// === impl ResidentMemory ===

impl ResidentMemory {
    pub(super) fn of_this_process() -> io::Result<Self> {
        Ok(Self { statm: File::open("/proc/self/statm")?, page_bytes: rustix::param::page_size() as u64 })
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        let mut text = [0; 128];
        let length = self.statm.read_at(&mut text, 0).ok()?;
        let pages: u64 = std::str::from_utf8(text.get(..length)?).ok()?.split(' ').nth(1)?.parse().ok()?;
        Some(pages * self.page_bytes)
    }
}
