//! Worker threads that compute one model version, and the bounded queue before them.
//!
//! A call that expired or whose caller went away is dropped before it runs, at the latest when another needs its place;
//! one that runs is told to stop at its next node. Dropping the pool lets the workers finish what was accepted and end; each takes its session with it.

mod queue;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use metrics::{Counter, Gauge};
use ort::session::RunOptions;
use tokio::sync::oneshot;

use crate::{
    session::{Computed, RunFault, Session},
    tensor::Tensor,
};
use queue::Queue;

/// What a pool may hold, and where it reports.
pub struct PoolLimits {
    /// Calls that may wait.
    pub queue_max: usize,
    /// What their inputs may take together.
    pub queue_bytes_max: usize,
    /// Calls that wait.
    pub depth: Gauge,
    /// Runs that began.
    pub executions: Counter,
    /// Runs that panicked.
    pub panics: Counter,
}

/// The workers of one model version.
pub struct Pool {
    queue: Arc<Queue<Job>>,
    depth: Gauge,
}

/// Where the time of one call went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Waiting for a worker.
    pub queue: Duration,
    /// In ONNX Runtime.
    pub compute: Duration,
    /// Making the engine's inputs and copying its outputs.
    pub copy: Duration,
}

/// Why a call was not computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full.
    Full,
    /// The deadline passed while it waited.
    ExpiredInQueue,
    /// The deadline passed while it ran.
    ExpiredInCompute,
    /// It ran and failed.
    Fault(RunFault),
}

struct Job {
    inputs: Vec<Tensor>,
    wanted: Vec<usize>,
    deadline: Instant,
    queued: Instant,
    ticket: Arc<Ticket>,
    reply: oneshot::Sender<Result<(Vec<Tensor>, Timings), Refusal>>,
}

/// What caller and worker share about one call.
struct Ticket {
    options: RunOptions,
    started: AtomicBool,
}

/// Stops the run when the caller stops waiting, for whatever reason.
struct Waiting(Option<Arc<Ticket>>);

// === impl Pool ===

impl Pool {
    /// Starts one thread for each session.
    pub fn start(name: &str, sessions: Vec<Session>, limits: &PoolLimits) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(limits.queue_max, limits.queue_bytes_max));
        let pool = Self { queue, depth: limits.depth.clone() };
        for (index, session) in sessions.into_iter().enumerate() {
            let worker = Worker {
                queue: Arc::clone(&pool.queue),
                session,
                depth: limits.depth.clone(),
                executions: limits.executions.clone(),
                panics: limits.panics.clone(),
            };
            // Linux keeps 15 bytes of a thread's name, so the index comes first.
            thread::Builder::new().name(format!("ort-{index}-{name}")).spawn(move || worker.work())?;
        }
        Ok(pool)
    }

    /// Computes the wanted outputs on the next free worker, before the deadline or not at all.
    pub async fn run(
        &self,
        inputs: Vec<Tensor>,
        wanted: Vec<usize>,
        deadline: Instant,
    ) -> Result<(Vec<Tensor>, Timings), Refusal> {
        let options = RunOptions::new().map_err(|error| Refusal::Fault(RunFault::Engine(error.to_string())))?;
        let ticket = Arc::new(Ticket { options, started: AtomicBool::new(false) });
        let (reply, answer) = oneshot::channel();
        let job = Job { inputs, wanted, deadline, queued: Instant::now(), ticket: Arc::clone(&ticket), reply };
        self.enqueue(job)?;
        let mut waiting = Waiting(Some(ticket));
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => {
                waiting.0 = None;
                outcome
            }
            Ok(Err(_)) => Err(Refusal::Fault(RunFault::Engine("a worker panicked".to_owned()))),
            Err(_) if waiting.has_started() => Err(Refusal::ExpiredInCompute),
            Err(_) => Err(Refusal::ExpiredInQueue),
        }
    }

    fn enqueue(&self, job: Job) -> Result<(), Refusal> {
        let bytes = job.inputs.iter().map(Tensor::bytes_held).sum();
        let Err(job) = self.queue.push(job, bytes) else {
            self.depth.increment(1.0);
            return Ok(());
        };
        let now = Instant::now();
        for stale in self.queue.sweep(|job| job.is_stale(now)) {
            self.depth.decrement(1.0);
            // Nobody waiting any more is not a fault.
            let _gone = stale.reply.send(Err(Refusal::ExpiredInQueue));
        }
        self.queue.push(job, bytes).map_err(|_| Refusal::Full)?;
        self.depth.increment(1.0);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close();
    }
}

// === impl Job ===

impl Job {
    /// Whether nobody needs it any more.
    fn is_stale(&self, now: Instant) -> bool {
        self.reply.is_closed() || now >= self.deadline
    }
}

// === impl Waiting ===

impl Waiting {
    fn has_started(&self) -> bool {
        self.0.as_ref().is_some_and(|ticket| ticket.started.load(Ordering::Relaxed))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(ticket) = &self.0
            && let Err(error) = ticket.options.terminate()
        {
            tracing::debug!(%error, "a run could not be told to stop");
        }
    }
}

struct Worker {
    queue: Arc<Queue<Job>>,
    session: Session,
    depth: Gauge,
    executions: Counter,
    panics: Counter,
}

// === impl Worker ===

impl Worker {
    fn work(mut self) {
        while let Some(job) = self.queue.pop() {
            self.depth.decrement(1.0);
            if job.reply.is_closed() {
                continue;
            }
            let started = Instant::now();
            let outcome =
                if started >= job.deadline { Err(Refusal::ExpiredInQueue) } else { self.compute(&job, started) };
            // Nobody waiting any more is not a fault.
            let _gone = job.reply.send(outcome);
        }
    }

    fn compute(&mut self, job: &Job, started: Instant) -> Result<(Vec<Tensor>, Timings), Refusal> {
        job.ticket.started.store(true, Ordering::Relaxed);
        self.executions.increment(1);
        // A panic in the bindings must cost one call, not a worker.
        let run = catch_unwind(AssertUnwindSafe(|| self.session.run(&job.inputs, &job.wanted, &job.ticket.options)));
        let Ok(run) = run else {
            self.panics.increment(1);
            return Err(Refusal::Fault(RunFault::Engine("the worker panicked".to_owned())));
        };
        let Computed { outputs, compute } = run.map_err(Refusal::Fault)?;
        let queue = started.duration_since(job.queued);
        Ok((outputs, Timings { queue, compute, copy: started.elapsed().saturating_sub(compute) }))
    }
}
