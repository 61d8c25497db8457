//! The calls that one worker has. It computes them one after the other, in the order in which they were written.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use rustix::io::ioctl_fionread;
use tokio::{
    io::AsyncWriteExt,
    net::unix::{OwnedWriteHalf, pipe},
    sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, oneshot, watch},
    time::timeout,
};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use super::{EncodedRequest, Exit, Lost, Message, process::EXIT_TIMEOUT};

/// How long a worker may take to give up a call.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// No other call is put behind one that is computed for longer.
const PROMPT: Duration = Duration::from_millis(1);

/// A replica's end of one worker. Dropping it ends the worker.
pub(crate) struct Worker {
    calls: Arc<AsyncMutex<pipe::Sender>>,
    control: OwnedWriteHalf,
    line: Arc<Line>,
    exit: watch::Receiver<Option<Exit>>,
    _dropped: oneshot::Sender<()>,
}

/// What a worker says, for the one task that reads it.
pub(crate) struct Answers {
    frames: Frames,
    /// To see how much of it was read.
    calls: Weak<AsyncMutex<pipe::Sender>>,
    line: Arc<Line>,
    exit: watch::Receiver<Option<Exit>>,
}

pub(super) type Frames = FramedRead<pipe::Receiver, LengthDelimitedCodec>;

/// A call that a worker has. Dropping it before there is an answer has the call given up.
pub(crate) struct Submitted {
    worker: Arc<Worker>,
    id: u64,
    answer: oneshot::Receiver<Result<Message, Lost>>,
    is_first: bool,
    is_answered: bool,
}

/// A call without an answer yet.
pub(crate) struct Pending {
    id: u64,
    /// Of its message.
    bytes: usize,
    /// Of the model that it is for.
    pub(crate) slot: u32,
    /// Whose it is; none if the replica itself asks.
    pub(crate) caller: Option<Arc<str>>,
    /// Gone when the call was given up.
    answer: Option<oneshot::Sender<Result<Message, Lost>>>,
}

/// What a worker did.
pub(crate) enum Said {
    /// It answered a call.
    Answer(Pending, Message),
    /// It is gone, and these calls with it.
    Ended(Vec<(Pending, Lost)>),
    /// It did not give up the first of these calls, and has to be ended.
    Stuck(Vec<(Pending, Lost)>),
}

struct Line {
    state: Mutex<LineState>,
    /// Said when a call was given up.
    given_up: Notify,
    is_closed: AtomicBool,
}

struct LineState {
    calls: VecDeque<Pending>,
    /// When the worker came to the first of them, or a moment before.
    first_since: Instant,
}

/// Both halves of a worker, over its pipes.
pub(super) fn new(
    frames: Frames,
    calls: pipe::Sender,
    control: OwnedWriteHalf,
    exit: watch::Receiver<Option<Exit>>,
    dropped: oneshot::Sender<()>,
) -> (Worker, Answers) {
    let state = LineState { calls: VecDeque::new(), first_since: Instant::now() };
    let line = Line { state: Mutex::new(state), given_up: Notify::new(), is_closed: AtomicBool::new(false) };
    let line = Arc::new(line);
    let calls = Arc::new(AsyncMutex::new(calls));
    let answers = Answers { frames, calls: Arc::downgrade(&calls), line: Arc::clone(&line), exit: exit.clone() };
    (Worker { calls, control, line, exit, _dropped: dropped }, answers)
}

// === impl Worker ===

impl Worker {
    /// Whether its process has ended, or is about to.
    pub(crate) fn is_gone(&self) -> bool {
        self.line.is_closed.load(Ordering::Relaxed) || self.exit.borrow().is_some()
    }

    /// Waits until its process has ended, or should have.
    pub(crate) async fn wait_for_end(&self) {
        drop(timeout(EXIT_TIMEOUT, self.exit.clone().wait_for(Option::is_some)).await);
    }

    /// Whether it came to its present call a moment ago.
    pub(crate) fn is_prompt(&self) -> bool {
        self.line.state.lock().first_since.elapsed() < PROMPT
    }

    /// Has it compute a call after those that it has. Nothing was sent if this future is dropped.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        call: &EncodedRequest,
        caller: Option<&Arc<str>>,
    ) -> Result<Submitted, Lost> {
        let writer = Arc::clone(&self.calls).lock_owned().await;
        let (sender, answer) = oneshot::channel();
        let (id, slot, bytes) = (call.id, call.slot, call.bytes());
        let pending = Pending { id, bytes, slot, caller: caller.cloned(), answer: Some(sender) };
        // Before it is written: the answer may come at once.
        let is_first = self.line.push(pending).ok_or(Lost::Unread)?;
        let sent = match writer.try_write(&call.message) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.line.withdraw(id);
                return Err(Lost::Unread);
            }
        };
        if sent < call.message.len() {
            // The rest is written whatever becomes of this call: others come after it.
            tokio::spawn(write_rest(writer, call.message.clone(), sent));
        }
        Ok(Submitted { worker: Arc::clone(self), id, answer, is_first, is_answered: false })
    }

    /// Asks it to give up a call. It then answers, soon if it obeys; [`Answers`] has it ended otherwise.
    fn give_up(&self, id: u64) {
        if !self.line.give_up(id) {
            return;
        }
        if let Err(error) = self.control.try_write(&id.to_le_bytes()) {
            tracing::debug!(%error, "a worker cannot be told to give up a call");
        }
    }
}

async fn write_rest(mut writer: OwnedMutexGuard<pipe::Sender>, message: Bytes, sent: usize) {
    let Some(rest) = message.get(sent..) else { return };
    if let Err(error) = writer.write_all(rest).await {
        // The reader of its answers finds that it is gone.
        tracing::debug!(%error, "a worker ended before it had read a call");
    }
}

// === impl Submitted ===

impl Submitted {
    /// Waits for the answer.
    pub(crate) async fn answer(&mut self) -> Result<Message, Lost> {
        let answer = (&mut self.answer).await;
        self.is_answered = true;
        answer.unwrap_or(Err(Lost::Unread))
    }

    /// Whether the worker had another call when it got this one.
    pub(crate) fn was_behind(&self) -> bool {
        !self.is_first
    }

    /// Whether the worker still has another call before this one.
    pub(crate) fn is_behind(&self) -> bool {
        self.worker.line.is_behind(self.id)
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if !self.is_answered {
            self.worker.give_up(self.id);
        }
    }
}

// === impl Pending ===

impl Pending {
    /// Says what became of it, if it was not given up.
    pub(crate) fn tell(self, answer: Result<Message, Lost>) {
        if let Some(sender) = self.answer {
            // It may be given up at this moment.
            drop(sender.send(answer));
        }
    }
}

// === impl Answers ===

impl Answers {
    /// Waits for what the worker does next.
    pub(crate) async fn next(&mut self) -> Said {
        loop {
            let frame = if self.line.is_first_given_up() {
                match timeout(CANCEL_TIMEOUT, self.frames.next()).await {
                    Ok(frame) => frame,
                    Err(_) => return Said::Stuck(self.close(|| Lost::Unread)),
                }
            } else {
                tokio::select! {
                    biased;
                    frame = self.frames.next() => frame,
                    () = self.line.given_up.notified() => continue,
                }
            };
            return match frame {
                Some(Ok(message)) => match self.line.pop() {
                    Some(pending) => Said::Answer(pending, Message(message.freeze())),
                    // It speaks without being asked. A call that comes at this moment goes to another.
                    None => Said::Ended(self.close(|| Lost::Unread)),
                },
                Some(Err(_)) | None => {
                    let exit = self.wait_for_exit().await;
                    let has_read = self.has_read();
                    Said::Ended(self.close(|| if has_read { Lost::Died(exit) } else { Lost::Unread }))
                }
            };
        }
    }

    /// Takes all calls that are left: the first has this fate, the others were not read.
    fn close(&self, first: impl FnOnce() -> Lost) -> Vec<(Pending, Lost)> {
        let mut first = Some(first);
        let fate = |pending| (pending, first.take().map_or(Lost::Unread, |first| first()));
        self.line.close().into_iter().map(fate).collect()
    }

    /// Whether the worker took anything of the calls that it has out of the pipe. A call that is being written counts as taken.
    fn has_read(&self) -> bool {
        let Some(calls) = self.calls.upgrade() else { return true };
        let Ok(pipe) = calls.try_lock() else { return true };
        ioctl_fionread(&*pipe).is_ok_and(|unread| unread < self.line.bytes() as u64)
    }

    async fn wait_for_exit(&mut self) -> Exit {
        match timeout(EXIT_TIMEOUT, self.exit.wait_for(Option::is_some)).await {
            Ok(Ok(exit)) => exit.clone().unwrap_or(Exit::Unknown),
            Ok(Err(_)) | Err(_) => Exit::Unknown,
        }
    }
}

// === impl Line ===

impl Line {
    /// Whether it is the only one; none when the worker is gone.
    fn push(&self, pending: Pending) -> Option<bool> {
        let mut state = self.state.lock();
        if self.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let is_first = state.calls.is_empty();
        if is_first {
            state.first_since = Instant::now();
        }
        state.calls.push_back(pending);
        Some(is_first)
    }

    fn pop(&self) -> Option<Pending> {
        let mut state = self.state.lock();
        let pending = state.calls.pop_front();
        if !state.calls.is_empty() {
            state.first_since = Instant::now();
        }
        pending
    }

    fn withdraw(&self, id: u64) {
        self.state.lock().calls.retain(|pending| pending.id != id);
    }

    /// Whether it was there.
    fn give_up(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let Some(pending) = state.calls.iter_mut().find(|pending| pending.id == id) else { return false };
        pending.answer = None;
        drop(state);
        self.given_up.notify_one();
        true
    }

    fn is_first_given_up(&self) -> bool {
        self.state.lock().calls.front().is_some_and(|pending| pending.answer.is_none())
    }

    fn is_behind(&self, id: u64) -> bool {
        self.state.lock().calls.iter().position(|pending| pending.id == id).is_some_and(|position| position > 0)
    }

    /// Of the messages of all calls.
    fn bytes(&self) -> usize {
        self.state.lock().calls.iter().map(|pending| pending.bytes).sum()
    }

    fn close(&self) -> VecDeque<Pending> {
        let mut state = self.state.lock();
        self.is_closed.store(true, Ordering::Relaxed);
        std::mem::take(&mut state.calls)
    }
}
