//! The workers of one model version, and the bounded queue before them.
//!
//! The task of a call writes to a worker itself; one task reads the answers of a worker. A call whose deadline passes or whose caller goes
//! away leaves the queue at once; one that runs is cancelled at its next node, and a worker that does not obey is killed. A worker that dies
//! takes the call that it computes and no other, and is started again. Dropping the pool ends the workers.

mod answers;
mod backoff;
mod group;
mod supervision;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge};
use tokio::time::{timeout, timeout_at};

use crate::{
    memory::ReservedBytes,
    session::{Computed, RunFault},
    tensor::Tensor,
    worker::{EncodedRequest, Exit, Isolation, Lost, Message, SMALL_BYTES_MAX, Submitted, Worker},
};
use group::Membership;
use turns::{Taken, Turn, Turns};

pub use group::Group;
pub use supervision::{PoolSource, Proved};

/// Calls that a worker may have at once while those of its model are short.
const DEPTH: u32 = 4;
/// Calls that take less on average are short.
const SHORT_COMPUTE: Duration = Duration::from_micros(500);
/// A call that is still behind another one on its worker after this goes to the next worker that is free.
const BEHIND_MAX: Duration = Duration::from_millis(5);
/// Workers that were gone before they had read a call; more than these is a fault of the machine.
const UNREAD_MAX: usize = 3;

/// What a pool may hold, and where it reports.
pub struct PoolLimits {
    /// Calls that may wait.
    pub queue_max: usize,
    /// What they may take together.
    pub queue_bytes_max: usize,
    /// Calls that wait.
    pub depth: Gauge,
    /// Calls that were given a worker.
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
    _membership: Option<Membership>,
}

struct Shared {
    workers: Turns<Worker>,
    /// What calls took lately on average, in nanoseconds.
    compute_ns: AtomicU64,
    /// Of the version in its workers.
    slot: u32,
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
    /// To the worker and back; in a group that is not told from waiting.
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
        /// How it ended, in words and by its signal.
        how: String,
        /// It was killed from outside, as when memory runs out.
        was_killed: bool,
    },
    /// It ran and failed.
    Run(RunFault),
}

/// A worker that a call may use. Dropping it before it is used leaves it to others.
struct Lease<'p> {
    shared: &'p Shared,
    turn: Option<Turn<Worker>>,
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
        let mut call = encode(self.shared.slot, inputs, wanted).await?;
        let caller: Arc<str> = caller.into();
        let (mut queue, mut unread, mut is_counted) = (Duration::ZERO, 0, false);
        // In a group calls of other models end the worker, which costs this call time and nothing else.
        let unread_max = if self.shared.is_in_group() { usize::MAX } else { UNREAD_MAX };
        while unread < unread_max {
            let queued = Instant::now();
            let lease = self.lease(&call, deadline).await?;
            queue += queued.elapsed();
            // Others of the same caller may have ended workers while this one waited.
            self.shared.admit(&caller)?;
            if !is_counted {
                self.shared.limits.executions.increment(1);
                is_counted = true;
            }
            let computed = timeout_at(deadline.into(), self.shared.compute(lease, &call, &caller)).await;
            let message = match computed.map_err(|_| PoolError::ExpiredInCompute)? {
                Ok(Some(message)) => message,
                Ok(None) => {
                    call = call.renumbered();
                    continue;
                }
                Err(Lost::Unread) => {
                    unread += 1;
                    continue;
                }
                Err(Lost::Died(exit)) => return Err(PoolError::died(&exit)),
            };
            let Computed { outputs, compute } = self.shared.read(message).await?;
            self.shared.learn(compute);
            if outputs.len() != wanted_count {
                return Err(PoolError::died(&Exit::Broken("an answer without all outputs".to_owned())));
            }
            let mut copy = arrived.elapsed().saturating_sub(queue + compute);
            if self.shared.is_in_group() {
                // It waited for calls of the others on the worker itself.
                queue += std::mem::take(&mut copy);
            }
            return Ok((outputs, Timings { queue, compute, copy }));
        }
        Err(PoolError::NoWorker)
    }

    async fn lease(&self, call: &EncodedRequest, deadline: Instant) -> Result<Lease<'_>, PoolError> {
        let shared = &*self.shared;
        // No call is put behind one that takes longer than was expected.
        let may_have = |worker: &Worker, calls| !worker.is_gone() && (calls == 0 || worker.is_prompt());
        let turn = match shared.workers.take(call.bytes(), may_have) {
            Taken::Now(turn) if Instant::now() < deadline => turn,
            Taken::Now(turn) => {
                shared.workers.free(turn.number);
                return Err(PoolError::ExpiredInQueue);
            }
            Taken::Full => return Err(PoolError::QueueFull),
            Taken::Later(_) if shared.is_broken() => return Err(PoolError::NoWorker),
            Taken::Later(mut place) => {
                let _waiting = Waiting::new(&shared.limits.depth);
                let waited = timeout_at(deadline.into(), place.wait()).await;
                waited.map_err(|_| PoolError::ExpiredInQueue)?.ok_or(PoolError::NoWorker)?
            }
        };
        Ok(Lease { shared, turn: Some(turn) })
    }
}

impl Shared {
    fn is_in_group(&self) -> bool {
        self.source.isolation == Isolation::Group
    }

    /// Has a call computed; none if it had to wait behind another one for too long.
    async fn compute(
        &self,
        lease: Lease<'_>,
        call: &EncodedRequest,
        caller: &Arc<str>,
    ) -> Result<Option<Message>, Lost> {
        let mut submitted = lease.submit(call, caller).await?;
        // The worker of a group has no other beside it.
        if submitted.was_behind() && !self.is_in_group() {
            if let Ok(answer) = timeout(BEHIND_MAX, submitted.answer()).await {
                return answer.map(Some);
            }
            if submitted.is_behind() {
                return Ok(None);
            }
        }
        submitted.answer().await.map(Some)
    }

    /// Keeps the average of what calls take, and gives workers more of them at once while they are short.
    fn learn(&self, compute: Duration) {
        let (new, old) =
            (u64::try_from(compute.as_nanos()).unwrap_or(u64::MAX), self.compute_ns.load(Ordering::Relaxed));
        let average = if old == 0 { new } else { old - old / 8 + new / 8 };
        self.compute_ns.store(average, Ordering::Relaxed);
        self.workers.set_depth(if u128::from(average) < SHORT_COMPUTE.as_nanos() { DEPTH } else { 1 });
    }

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
async fn encode(slot: u32, inputs: Vec<Tensor>, wanted: Vec<usize>) -> Result<EncodedRequest, PoolError> {
    if inputs.iter().map(Tensor::bytes_held).sum::<usize>() <= SMALL_BYTES_MAX {
        return Ok(EncodedRequest::call(slot, &inputs, &wanted));
    }
    let encoded = tokio::task::spawn_blocking(move || EncodedRequest::call(slot, &inputs, &wanted)).await;
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
    /// Gives the worker the call.
    async fn submit(mut self, call: &EncodedRequest, caller: &Arc<str>) -> Result<Submitted, Lost> {
        let Some(Turn { number, worker }) = &self.turn else { return Err(Lost::Unread) };
        let submitted = worker.submit(call, Some(caller)).await;
        if submitted.is_err() {
            // It is dead, perhaps not reaped yet: no other call may get it.
            self.shared.workers.remove(*number);
        }
        // From here on its answer frees the worker.
        self.turn = None;
        submitted
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.shared.workers.free(turn.number);
        }
    }
}
