//! The life of a pool's workers: how many there are, and what takes the place of one that has ended.

use std::{
    sync::{Arc, Weak, atomic::AtomicU64},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use super::{Pool, PoolLimits, Shared, Turns, answers::read_answers};
use crate::{
    fault::LoadFault,
    library::Engine,
    memory::Reservation,
    quarantine::Quarantine,
    session::Session,
    signature::Signature,
    worker::{Answers, Exit, Isolation, Process, Started, VersionFiles, Worker, WorkerStarter, start_thread},
};

/// The first restarts within this time follow at once, the others wait.
const CRASH_WINDOW: Duration = Duration::from_secs(10);
const CRASHES_MAX: u32 = 8;
const CRASH_DELAY: Duration = Duration::from_millis(500);
/// Between attempts to start a worker that could not be started.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// After so many of them calls are refused instead of waiting for a worker.
const FAILED_STARTS_MAX: u32 = 3;

/// Where the workers of a pool come from.
pub struct PoolSource {
    /// The model, for logs.
    pub name: String,
    /// The version, for logs.
    pub version: String,
    /// Starts their processes.
    pub starter: WorkerStarter,
    /// What they load.
    pub files: Arc<VersionFiles>,
    /// What it must take and give.
    pub signature: Signature,
    /// Where they compute.
    pub isolation: Isolation,
    /// Which callers are kept from which models.
    pub quarantine: Arc<Quarantine>,
}

/// What a pool knows of its workers.
#[derive(Default)]
pub(super) struct State {
    /// Ready or computing.
    live: usize,
    /// Starts that failed since the last that succeeded.
    failed_starts: u32,
    window_began: Option<Instant>,
    crashes: u32,
}

impl State {
    /// Whether so many workers were lost by calls lately that the next start waits.
    fn is_crashing(&self) -> bool {
        self.crashes > CRASHES_MAX && self.window_began.is_some_and(|began| began.elapsed() <= CRASH_WINDOW)
    }

    fn is_broken(&self) -> bool {
        self.live == 0 && self.failed_starts >= FAILED_STARTS_MAX
    }
}

/// A version that was proved, with its first worker.
pub struct Proved {
    started: Started,
    source: PoolSource,
}

// === impl Proved ===

impl Proved {
    /// Starts a worker that loads the version and proves it.
    pub async fn start(source: PoolSource) -> Result<Self, LoadFault> {
        let started = source.starter.start(&source.files, &source.signature).await?;
        Ok(Self { started, source })
    }

    /// Memory that one worker took at its peak, in bytes, but for files that it shares with others; no less than the model file has.
    pub fn memory_bytes(&self) -> u64 {
        self.started.memory_bytes.max(self.source.files.bytes())
    }

    /// In the order of the model file.
    pub fn signature(&self) -> &Signature {
        &self.started.signature
    }

    /// Serves with so many workers: the one that proved it at once, the others as soon as they are there.
    pub async fn serve(
        self,
        engine: &Engine,
        Reservation { workers, memory }: Reservation,
        limits: PoolLimits,
    ) -> Result<Pool, LoadFault> {
        let Self { started, source } = self;
        let isolation = source.isolation;
        let shared = Arc::new(Shared {
            workers: Turns::new(limits.queue_max, limits.queue_bytes_max),
            compute_ns: AtomicU64::new(0),
            limits,
            source,
            _memory: memory,
            state: parking_lot::Mutex::default(),
        });
        match isolation {
            Isolation::Model => {
                shared.adopt(started);
                for _ in 1..workers {
                    tokio::spawn(start_another(Arc::downgrade(&shared), Duration::ZERO));
                }
            }
            Isolation::None => {
                drop(started);
                for _ in 0..workers {
                    let (worker, answers, ended) = shared.start_thread(engine).await?;
                    shared.enlist(worker, answers);
                    tokio::spawn(watch_thread(Arc::downgrade(&shared), engine.clone(), ended));
                }
            }
        }
        Ok(Pool { shared })
    }
}

// === impl Shared ===

impl Shared {
    /// Whether there is no worker and the last attempts to start one failed.
    pub(super) fn is_broken(&self) -> bool {
        self.state.lock().is_broken()
    }

    /// Takes a worker in, and has its end watched.
    fn adopt(self: &Arc<Self>, Started { worker, answers, process, .. }: Started) {
        self.enlist(worker, answers);
        tokio::spawn(watch_process(Arc::downgrade(self), process));
    }

    fn enlist(self: &Arc<Self>, worker: Worker, answers: Answers) {
        let mut state = self.state.lock();
        state.live += 1;
        state.failed_starts = 0;
        self.limits.workers.increment(1.0);
        drop(state);
        let number = self.workers.add(Arc::new(worker));
        tokio::spawn(read_answers(Arc::downgrade(self), number, answers));
    }

    /// A worker answered.
    pub(super) fn give_back(&self, number: u64, is_over_mark: bool) {
        if !is_over_mark {
            return self.workers.free(number);
        }
        self.workers.remove(number);
        self.limits.ended.memory.increment(1);
        tracing::debug!(
            model = self.source.name,
            version = self.source.version,
            "a worker holds the memory of a large call; another takes its place"
        );
    }

    /// A worker did not give up a call of this caller. It ends now.
    pub(super) fn record_stuck(&self, caller: Option<&str>) {
        self.limits.ended.stuck.increment(1);
        if let Some(caller) = caller {
            self.blame(caller, "it did not give up a call in time");
        }
        self.count_end();
        tracing::info!(
            model = self.source.name,
            version = self.source.version,
            "a worker did not give up a call in time and is ended; another takes its place"
        );
    }

    /// Counts a worker that was lost by a call.
    fn count_end(&self) {
        let mut state = self.state.lock();
        if state.window_began.is_none_or(|began| began.elapsed() > CRASH_WINDOW) {
            state.window_began = Some(Instant::now());
            state.crashes = 0;
        }
        state.crashes += 1;
    }

    /// How long to wait before another takes the place of one that has ended.
    fn delay_after(&self, crash: Option<&Exit>) -> Duration {
        if let Some(exit) = crash {
            self.limits.ended.crash.increment(1);
            self.count_end();
            // The calls that bring this about are of users, so it is no warning by itself; the metric counts them.
            tracing::info!(
                model = self.source.name,
                version = self.source.version,
                %exit,
                "the process of a model ended; another takes its place"
            );
        }
        let mut state = self.state.lock();
        state.live = state.live.saturating_sub(1);
        self.limits.workers.decrement(1.0);
        let (is_broken, is_crashing) = (state.is_broken(), state.is_crashing());
        drop(state);
        if is_broken {
            self.workers.dismiss();
        }
        if is_crashing { CRASH_DELAY } else { Duration::ZERO }
    }

    /// A session in this process, on a thread of its own, and what says that the thread has ended.
    async fn start_thread(
        self: &Arc<Self>,
        engine: &Engine,
    ) -> Result<(Worker, Answers, watch::Receiver<Option<Exit>>), LoadFault> {
        let (shared, engine) = (Arc::clone(self), engine.clone());
        // The session is made where blocking is allowed, the sockets where there is a runtime.
        let session = tokio::task::spawn_blocking(move || {
            Session::new(&engine, &shared.source.files.read_model()?).map_err(LoadFault::engine)
        });
        let session = session.await.unwrap_or_else(|error| Err(LoadFault::internal(error)))?;
        start_thread(&self.source.name, session, self.source.starter.answer_bytes_max)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.limits.workers.decrement(u32::try_from(self.state.get_mut().live).map_or(0.0, f64::from));
    }
}

/// Waits for the end of a worker, and has another take its place.
async fn watch_process(pool: Weak<Shared>, process: Process) {
    let crash = process.wait().await;
    let Some(shared) = pool.upgrade() else { return };
    let delay = shared.delay_after(crash.as_ref());
    drop(shared);
    start_another(pool, delay).await;
}

/// The same of a worker that is a thread: one that did not obey has computed to its end by then.
async fn watch_thread(pool: Weak<Shared>, engine: Engine, mut ended: watch::Receiver<Option<Exit>>) {
    loop {
        drop(ended.wait_for(Option::is_some).await);
        let Some(shared) = pool.upgrade() else { return };
        shared.delay_after(None);
        drop(shared);
        let Some(next) = start_another_thread(&pool, &engine).await else { return };
        ended = next;
    }
}

async fn start_another_thread(pool: &Weak<Shared>, engine: &Engine) -> Option<watch::Receiver<Option<Exit>>> {
    let mut pause = RETRY_MIN;
    loop {
        let shared = pool.upgrade()?;
        let fault = match shared.start_thread(engine).await {
            Ok((worker, answers, ended)) => {
                shared.enlist(worker, answers);
                return Some(ended);
            }
            Err(fault) => fault,
        };
        tracing::warn!(model = shared.source.name, reason = %fault, "a thread for a model cannot be started");
        drop(shared);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// Starts a worker, again and again until it can be done or the pool is dropped.
fn start_another(pool: Weak<Shared>, delay: Duration) -> BoxFuture<'static, ()> {
    // Boxed: a worker that is started is watched, and watching starts another.
    async move {
        let mut pause = RETRY_MIN;
        tokio::time::sleep(delay).await;
        while let Some(shared) = pool.upgrade() {
            let fault = match shared.source.starter.start(&shared.source.files, &shared.source.signature).await {
                Ok(started) => return shared.adopt(started),
                Err(fault) => fault,
            };
            tracing::warn!(
                model = shared.source.name,
                version = shared.source.version,
                reason = %fault,
                retry_ms = pause.as_millis(),
                "a process for a model cannot be started; the version serves with those that it has"
            );
            let is_broken = {
                let mut state = shared.state.lock();
                state.failed_starts += 1;
                state.is_broken()
            };
            if is_broken {
                shared.workers.dismiss();
            }
            drop(shared);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
    .boxed()
}
