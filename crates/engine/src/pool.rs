//! Worker threads that compute one model version, and the bounded queue before them.
//!
//! A call that expired or whose caller went away is dropped before it runs, at the latest when another needs its place;
//! one that runs is cancelled at its next node. Dropping the pool lets the workers finish what was accepted and end; each takes its session with it.

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
    /// CancelOnDrop for a worker.
    pub queue: Duration,
    /// In ONNX Runtime.
    pub compute: Duration,
    /// Making the engine's inputs and copying its outputs.
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
    /// It ran and failed.
    Run(RunFault),
}

struct Job {
    inputs: Vec<Tensor>,
    wanted: Vec<usize>,
    deadline: Instant,
    queued: Instant,
    run: Arc<RunHandle>,
    reply: oneshot::Sender<Result<(Vec<Tensor>, Timings), PoolError>>,
}

/// What caller and worker share about one call.
struct RunHandle {
    options: RunOptions,
    started: AtomicBool,
}

/// Stops the run when the caller stops waiting, for whatever reason.
struct CancelOnDrop(Option<Arc<RunHandle>>);

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
    ) -> Result<(Vec<Tensor>, Timings), PoolError> {
        let options = RunOptions::new().map_err(|error| PoolError::Run(RunFault::Engine(error.to_string())))?;
        let run = Arc::new(RunHandle { options, started: AtomicBool::new(false) });
        let (reply, answer) = oneshot::channel();
        let job = Job { inputs, wanted, deadline, queued: Instant::now(), run: Arc::clone(&run), reply };
        self.enqueue(job)?;
        let mut waiting = CancelOnDrop(Some(run));
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => {
                waiting.0 = None;
                outcome
            }
            Ok(Err(_)) => Err(PoolError::Run(RunFault::Engine("a worker panicked".to_owned()))),
            Err(_) if waiting.has_started() => Err(PoolError::ExpiredInCompute),
            Err(_) => Err(PoolError::ExpiredInQueue),
        }
    }

    fn enqueue(&self, job: Job) -> Result<(), PoolError> {
        let bytes = job.inputs.iter().map(Tensor::bytes_held).sum();
        let Err(job) = self.queue.push(job, bytes) else {
            self.depth.increment(1.0);
            return Ok(());
        };
        let now = Instant::now();
        for stale in self.queue.remove_stale(|job| job.is_stale(now)) {
            self.depth.decrement(1.0);
            // A caller that is gone needs no answer.
            let _gone = stale.reply.send(Err(PoolError::ExpiredInQueue));
        }
        self.queue.push(job, bytes).map_err(|_| PoolError::QueueFull)?;
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
    /// Whether its caller is gone or its deadline passed.
    fn is_stale(&self, now: Instant) -> bool {
        self.reply.is_closed() || now >= self.deadline
    }
}

// === impl CancelOnDrop ===

impl CancelOnDrop {
    fn has_started(&self) -> bool {
        self.0.as_ref().is_some_and(|run| run.started.load(Ordering::Relaxed))
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(run) = &self.0
            && let Err(error) = run.options.terminate()
        {
            tracing::debug!(%error, "a run could not be cancelled");
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
                if started >= job.deadline { Err(PoolError::ExpiredInQueue) } else { self.compute(&job, started) };
            // A caller that is gone needs no answer.
            let _gone = job.reply.send(outcome);
        }
    }

    fn compute(&mut self, job: &Job, started: Instant) -> Result<(Vec<Tensor>, Timings), PoolError> {
        job.run.started.store(true, Ordering::Relaxed);
        self.executions.increment(1);
        // A panic in the bindings must cost one call, not a worker.
        let run = catch_unwind(AssertUnwindSafe(|| self.session.run(&job.inputs, &job.wanted, &job.run.options)));
        let Ok(run) = run else {
            self.panics.increment(1);
            return Err(PoolError::Run(RunFault::Engine("the worker panicked".to_owned())));
        };
        let Computed { outputs, compute } = run.map_err(PoolError::Run)?;
        let queue = started.duration_since(job.queued);
        Ok((outputs, Timings { queue, compute, copy: started.elapsed().saturating_sub(compute) }))
    }
}
