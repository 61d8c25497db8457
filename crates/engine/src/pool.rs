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
    worker::{Answered, EncodedCall, Exit, Lost, Worker},
};
use idle::{Idle, Turn};

pub use supervision::{PoolSource, Proved};

/// How long a worker may take to give up a call.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);
/// Workers that were gone before they had read a call; more than these is a fault of the machine.
const UNREAD_MAX: usize = 3;
/// What is longer is put into its message beside the threads that serve requests.
const SMALL_BYTES_MAX: usize = 256 << 10;

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
    worker: Option<Worker>,
    /// The call that the worker has whole.
    under_way: Option<u64>,
}

// === impl Pool ===

impl Pool {
    /// Computes the wanted outputs on the next free worker, before the deadline or not at all.
    pub async fn run(
        &self,
        inputs: Vec<Tensor>,
        wanted: Vec<usize>,
        deadline: Instant,
    ) -> Result<(Vec<Tensor>, Timings), PoolError> {
        let arrived = Instant::now();
        let call = encode(inputs, wanted).await?;
        let mut queue = Duration::ZERO;
        for _ in 0..UNREAD_MAX {
            let queued = Instant::now();
            let mut lease = self.lease(call.bytes(), deadline).await?;
            queue += queued.elapsed();
            self.shared.limits.executions.increment(1);
            let answered = timeout_at(deadline.into(), lease.compute(&call)).await;
            match answered.map_err(|_| PoolError::ExpiredInCompute)? {
                Ok(Computed { outputs, compute }) => {
                    let copy = arrived.elapsed().saturating_sub(queue + compute);
                    return Ok((outputs, Timings { queue, compute, copy }));
                }
                Err(Failed::Run(fault)) => return Err(PoolError::Run(fault)),
                Err(Failed::Lost(Lost::Died(exit))) => return Err(PoolError::died(&exit)),
                Err(Failed::Lost(Lost::Unread)) => {}
            }
        }
        Err(PoolError::NoWorker)
    }

    async fn lease(&self, bytes: usize, deadline: Instant) -> Result<Lease<'_>, PoolError> {
        let shared = &self.shared;
        let worker = match shared.idle.take(bytes, |worker| !worker.is_gone()) {
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
        Ok(Lease { shared, worker: Some(worker), under_way: None })
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

/// Why a lease gave no outputs.
enum Failed {
    Run(RunFault),
    Lost(Lost),
}

// === impl Lease ===

impl Lease<'_> {
    /// Has the call computed. The worker goes back to the pool unless it is lost, or holds too much memory.
    async fn compute(&mut self, call: &EncodedCall) -> Result<Computed, Failed> {
        let Some(worker) = &mut self.worker else { return Err(Failed::Lost(Lost::Unread)) };
        worker.send(call).await.map_err(Failed::Lost)?;
        self.under_way = Some(call.id);
        let answered = worker.answer().await;
        self.under_way = None;
        match answered {
            Ok(Answered { outcome, is_over_mark }) => {
                if let Some(worker) = self.worker.take() {
                    self.shared.give_back(worker, is_over_mark);
                }
                if outcome.as_ref().err() == Some(&RunFault::Panicked) {
                    self.shared.limits.panics.increment(1);
                }
                outcome.map_err(Failed::Run)
            }
            Err(lost) => {
                self.worker = None;
                Err(Failed::Lost(lost))
            }
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        match self.under_way {
            Some(id) => drop(tokio::spawn(Arc::clone(self.shared).cancel(worker, id))),
            // It has read a part of a call, and waits for the rest that does not come.
            None => drop(worker),
        }
    }
}
