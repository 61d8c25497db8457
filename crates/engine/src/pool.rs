//! The workers of one model version, and the bounded queue before them.
//!
//! The task of a call writes to a worker itself and waits for the answer. A call whose deadline passes or whose caller goes away leaves
//! the queue at once; one that runs is cancelled at its next node, and a worker that does not obey is killed. A worker that dies takes the
//! call on it and no other, and is started again. Dropping the pool ends the workers.

mod idle;
mod supervision;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge};
use tokio::time::timeout_at;

use crate::{
    memory::ReservedBytes,
    session::{Computed, RunFault},
    tensor::Tensor,
    worker::{EncodedCall, Exit, Lost, Message, SMALL_BYTES_MAX, Worker},
};
use idle::{Idle, Turn};
use supervision::Abandoned;

pub use supervision::{PoolSource, Proved};

/// How long a worker may take to give up a call.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Workers that were gone before they had read a call; more than these is a fault of the machine.
const UNREAD_MAX: usize = 3;

/// Ids of calls, for cancelling them.
static NEXT_CALL: AtomicU64 = AtomicU64::new(1);

/// What a pool may hold, and where it reports.
pub struct PoolLimits {
    /// Calls that may wait.
    pub queue_max: usize,
    /// What they may take together.
    pub queue_bytes_max: usize,
    /// Calls that wait.
    pub depth: Gauge,
    /// Runs that began.
    pub executions: Counter,
    /// Runs that panicked.
    pub panics: Counter,
    /// Workers that are ready or compute.
    pub workers: Gauge,
    /// Those that ended while the version served.
    pub ended: WorkersEnded,
}

/// Counts of workers that ended, by reason.
#[derive(Clone)]
pub struct WorkersEnded {
    /// They crashed or were killed from outside.
    pub crash: Counter,
    /// They held too much memory after a call.
    pub memory: Counter,
    /// They did not give up a call.
    pub stuck: Counter,
}

/// The workers of one model version.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    idle: Idle<Worker>,
    limits: PoolLimits,
    source: PoolSource,
    /// Given back when the workers are gone.
    _memory: ReservedBytes,
    state: parking_lot::Mutex<supervision::State>,
}

/// Where the time of one call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a worker.
    pub queue: Duration,
    /// In ONNX Runtime.
    pub compute: Duration,
    /// To the worker and back.
    pub copy: Duration,
}

/// Why a call was not computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// The queue is full.
    QueueFull,
    /// The deadline passed while it waited.
    ExpiredInQueue,
    /// The deadline passed while it ran.
    ExpiredInCompute,
    /// No worker can be started.
    NoWorker,
    /// Calls of this caller ended workers of this model lately.
    Quarantined {
        /// How long the caller is still kept from it.
        left: Duration,
    },
    /// The worker died while it computed the call.
    Died {
        /// How it ended, e.g. `signal 8, SIGFPE`.
        how: String,
        /// It was killed from outside, as when memory runs out.
        was_killed: bool,
    },
    /// It ran and failed.
    Run(RunFault),
}

/// A worker that computes a call. Dropping it before there is an answer has the call cancelled.
struct Lease<'p> {
    shared: &'p Arc<Shared>,
    caller: &'p str,
    call: &'p EncodedCall,
    /// The worker, and how much of the call it was sent; gone when it has answered.
    worker: Option<(Worker, usize)>,
}

// === impl Pool ===

impl Pool {
    /// Computes the wanted outputs on the next free worker, before the deadline or not at all. `caller` is whose call it is: one whose
    /// calls end workers is kept from them.
    pub async fn run(
        &self,
        caller: &str,
        inputs: Vec<Tensor>,
        wanted: Vec<usize>,
        deadline: Instant,
    ) -> Result<(Vec<Tensor>, Timings), PoolError> {
        let (arrived, wanted_count) = (Instant::now(), wanted.len());
        self.shared.admit(caller)?;
        let call = encode(inputs, wanted).await?;
        let mut queue = Duration::ZERO;
        for _ in 0..UNREAD_MAX {
            let queued = Instant::now();
            let mut lease = self.lease(caller, &call, deadline).await?;
            queue += queued.elapsed();
            // Others of the same caller may have ended workers while this one waited.
            self.shared.admit(caller)?;
            self.shared.limits.executions.increment(1);
            let answered = timeout_at(deadline.into(), lease.compute()).await;
            let message = match answered.map_err(|_| PoolError::ExpiredInCompute)? {
                Ok(message) => message,
                Err(Lost::Unread) => continue,
                Err(Lost::Died(exit)) => {
                    self.shared.blame(caller, &exit.to_string());
                    return Err(PoolError::died(&exit));
                }
            };
            let Computed { outputs, compute } = self.shared.read(message).await?;
            if outputs.len() != wanted_count {
                return Err(PoolError::died(&Exit::Broken("an answer without all outputs".to_owned())));
            }
            let copy = arrived.elapsed().saturating_sub(queue + compute);
            return Ok((outputs, Timings { queue, compute, copy }));
        }
        Err(PoolError::NoWorker)
    }

    async fn lease<'p>(
        &'p self,
        caller: &'p str,
        call: &'p EncodedCall,
        deadline: Instant,
    ) -> Result<Lease<'p>, PoolError> {
        let shared = &self.shared;
        let worker = match shared.idle.take(call.bytes(), |worker| !worker.is_gone()) {
            Turn::Now(worker) if Instant::now() < deadline => worker,
            Turn::Now(worker) => {
                shared.idle.put(worker);
                return Err(PoolError::ExpiredInQueue);
            }
            Turn::Full => return Err(PoolError::QueueFull),
            Turn::Later(_) if shared.is_broken() => return Err(PoolError::NoWorker),
            Turn::Later(mut place) => {
                let _waiting = Waiting::new(&shared.limits.depth);
                let waited = timeout_at(deadline.into(), place.wait()).await;
                waited.map_err(|_| PoolError::ExpiredInQueue)?.ok_or(PoolError::NoWorker)?
            }
        };
        Ok(Lease { shared, caller, call, worker: Some((worker, 0)) })
    }
}

impl Shared {
    fn admit(&self, caller: &str) -> Result<(), PoolError> {
        let left = self.source.quarantine.time_left(caller, &self.source.name, Instant::now());
        left.map_or(Ok(()), |left| Err(PoolError::Quarantined { left }))
    }

    /// A call of this caller ended a worker.
    fn blame(&self, caller: &str, how: &str) {
        let PoolSource { name, version, quarantine, .. } = &self.source;
        if quarantine.record_death(caller, name, Instant::now()) {
            tracing::warn!(
                model = name,
                version,
                user = caller,
                how,
                "calls of this user end processes of the model; this replica computes none of them for a minute"
            );
        }
    }

    async fn read(&self, message: Message) -> Result<Computed, PoolError> {
        let outcome = message.decode().await.map_err(|exit| PoolError::died(&exit))?;
        if outcome.as_ref().err() == Some(&RunFault::Panicked) {
            self.limits.panics.increment(1);
        }
        outcome.map_err(PoolError::Run)
    }
}

/// The message of a call. The inputs are gone when it waits.
async fn encode(inputs: Vec<Tensor>, wanted: Vec<usize>) -> Result<EncodedCall, PoolError> {
    let id = NEXT_CALL.fetch_add(1, Ordering::Relaxed);
    if inputs.iter().map(Tensor::bytes_held).sum::<usize>() <= SMALL_BYTES_MAX {
        return Ok(EncodedCall::new(id, &inputs, &wanted));
    }
    let encoded = tokio::task::spawn_blocking(move || EncodedCall::new(id, &inputs, &wanted)).await;
    encoded.map_err(|error| PoolError::Run(RunFault::Engine(error.to_string())))
}

impl PoolError {
    fn died(exit: &Exit) -> Self {
        Self::Died { how: exit.to_string(), was_killed: exit.is_kill() }
    }
}

/// Counts a call that waits, however it stops waiting.
struct Waiting<'p>(&'p Gauge);

impl<'p> Waiting<'p> {
    fn new(depth: &'p Gauge) -> Self {
        depth.increment(1.0);
        Self(depth)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

// === impl Lease ===

impl Lease<'_> {
    /// Has the call computed. The worker goes back to the pool unless it is lost, or holds too much memory.
    async fn compute(&mut self) -> Result<Message, Lost> {
        let Some((worker, sent)) = &mut self.worker else { return Err(Lost::Unread) };
        if let Err(lost) = worker.send(self.call, sent).await {
            // It is dead, perhaps not reaped yet: no other call may get it.
            self.worker = None;
            return Err(lost);
        }
        let answered = worker.receive().await;
        if let (Some((worker, _)), Ok(message)) = (self.worker.take(), &answered) {
            self.shared.give_back(worker, message.is_over_mark());
        }
        answered
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        match self.worker.take() {
            Some((worker, 0)) => self.shared.idle.put(worker),
            Some((worker, sent)) => {
                let abandoned = Abandoned { worker, sent, call: self.call.clone(), caller: self.caller.to_owned() };
                tokio::spawn(Arc::clone(self.shared).cancel(abandoned));
            }
            None => {}
        }
    }
}
