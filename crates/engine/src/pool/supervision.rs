//! The life of a pool's workers: how many there are, and what takes the place of one that has ended.

use std::{
    sync::{Arc, Weak, atomic::AtomicU64},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use super::{
    Pool, PoolLimits, Shared, Turns,
    answers::read_answers,
    backoff::{Crashes, FAILED_STARTS_MAX, Pauses},
    group::{Group, Membership},
};
use crate::{
    fault::LoadFault,
    library::Engine,
    memory::{MemoryBudget, Reservation, ReservedBytes},
    quarantine::Quarantine,
    session::Session,
    signature::Signature,
    worker::{
        Answers, Exit, Isolation, Loaded, OWN_SLOT, Process, Started, VersionFiles, Worker, WorkerStarter, start_thread,
    },
};

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
    /// The group of those that share a process.
    pub group: Arc<Group>,
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
    crashes: Crashes,
}

impl State {
    fn is_broken(&self) -> bool {
        self.live == 0 && self.failed_starts >= FAILED_STARTS_MAX
    }
}

/// A version that was proved, with its first worker.
pub struct Proved {
    place: Place,
    source: PoolSource,
    /// What its files take of the budget, until its workers do.
    held: Option<ReservedBytes>,
}

/// Where a version is that was proved.
enum Place {
    /// In the worker that proved it.
    Own(Box<Started>),
    /// In the worker of the group.
    Group(Membership, Loaded),
}

// === impl Proved ===

impl Proved {
    /// Starts a worker that loads the version and proves it. It waits for no other start: how many loads go on at once is for the caller to
    /// bound, and a proof that lasts must not keep the workers of what serves from being started again.
    pub async fn start(source: PoolSource, memory: &MemoryBudget) -> Result<Self, LoadFault> {
        let held = Some(memory.hold(source.files.bytes())?);
        let PoolSource { starter, files, signature, isolation, group, .. } = &source;
        let place = match isolation {
            Isolation::Model | Isolation::None => {
                Place::Own(Box::new(starter.start_now(files, signature, OWN_SLOT).await?))
            }
            Isolation::Group => {
                let membership = Membership::new(group);
                let proved = starter.start_now(files, signature, membership.slot()).await?;
                let loaded = membership.join(files, signature, proved).await?;
                Place::Group(membership, loaded)
            }
        };
        Ok(Self { place, source, held })
    }

    /// Memory for as many workers as fit, up to `workers_max`; a group has one. It takes the place of what was held for the proof.
    pub fn reserve(&mut self, memory: &MemoryBudget, workers_max: usize) -> Result<Reservation, LoadFault> {
        let workers_max = if self.source.isolation == Isolation::Group { 1 } else { workers_max };
        memory.reserve(self.held.take(), self.memory_bytes(), workers_max)
    }

    /// Memory that one worker took at its peak, in bytes, but for files that it shares with others: in a group what was added for this
    /// version. No less than the model file has.
    pub fn memory_bytes(&self) -> u64 {
        let bytes = match &self.place {
            Place::Own(started) => started.loaded.process_bytes,
            Place::Group(_, loaded) => loaded.model_bytes,
        };
        bytes.max(self.source.files.bytes())
    }

    /// In the order of the model file.
    pub fn signature(&self) -> &Signature {
        match &self.place {
            Place::Own(started) => &started.loaded.signature,
            Place::Group(_, loaded) => &loaded.signature,
        }
    }

    /// Serves with so many workers: the one that proved it at once, the others as soon as they are there.
    pub async fn serve(
        self,
        engine: &Engine,
        Reservation { workers, memory }: Reservation,
        limits: PoolLimits,
    ) -> Result<Pool, LoadFault> {
        let Self { place, source, .. } = self;
        let isolation = source.isolation;
        let slot = if let Place::Group(membership, _) = &place { membership.slot() } else { OWN_SLOT };
        let shared = Arc::new(Shared {
            workers: Turns::new(limits.queue_max, limits.queue_bytes_max),
            compute_ns: AtomicU64::new(0),
            slot,
            limits,
            source,
            _memory: memory,
            state: parking_lot::Mutex::default(),
        });
        match place {
            Place::Group(membership, _) => {
                membership.serve(&shared);
                return Ok(Pool { shared, _membership: Some(membership) });
            }
            Place::Own(started) if isolation == Isolation::Model => {
                shared.adopt(*started);
                for _ in 1..workers {
                    tokio::spawn(start_another(Arc::downgrade(&shared), Duration::ZERO));
                }
            }
            Place::Own(started) => {
                drop(started);
                for _ in 0..workers {
                    let (worker, answers, ended) = shared.start_thread(engine).await?;
                    shared.enlist(worker, answers);
                    tokio::spawn(watch_thread(Arc::downgrade(&shared), engine.clone(), ended));
                }
            }
        }
        Ok(Pool { shared, _membership: None })
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
        let number = self.seat(Arc::new(worker));
        tokio::spawn(read_answers(Arc::downgrade(self), number, answers));
    }

    /// Gives a worker to calls; its number in the pool.
    pub(super) fn seat(&self, worker: Arc<Worker>) -> u64 {
        let mut state = self.state.lock();
        state.live += 1;
        state.failed_starts = 0;
        self.limits.workers.increment(1.0);
        drop(state);
        self.workers.add(worker)
    }

    /// A worker answered.
    pub(super) fn give_back(&self, number: u64, is_over_mark: bool) {
        if !is_over_mark {
            return self.workers.free(number);
        }
        self.workers.remove(number);
        self.record_over_mark();
    }

    /// A worker holds too much memory, and ends.
    pub(super) fn record_over_mark(&self) {
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
        self.state.lock().crashes.count();
        tracing::info!(
            model = self.source.name,
            version = self.source.version,
            "a worker did not give up a call in time and is ended; another takes its place"
        );
    }

    /// A worker ended by itself or was killed from outside.
    pub(super) fn record_crash(&self, exit: &Exit) {
        self.limits.ended.crash.increment(1);
        self.state.lock().crashes.count();
        // The calls that bring this about are of users, so it is no warning by itself; the metric counts them.
        tracing::info!(
            model = self.source.name,
            version = self.source.version,
            %exit,
            "the process of a model ended; another takes its place"
        );
    }

    /// A worker is gone.
    pub(super) fn record_gone(&self) {
        let mut state = self.state.lock();
        state.live = state.live.saturating_sub(1);
        self.limits.workers.decrement(1.0);
        let is_broken = state.is_broken();
        drop(state);
        if is_broken {
            self.workers.dismiss();
        }
    }

    /// A worker could not be started; without a pause it is not tried again.
    pub(super) fn record_failed_start(&self, fault: &LoadFault, pause: Option<Duration>) {
        tracing::warn!(
            model = self.source.name,
            version = self.source.version,
            reason = %fault,
            retry_ms = pause.map(|pause| pause.as_millis()),
            "a process for a model cannot be started; the version serves with those that it has"
        );
        let is_broken = {
            let mut state = self.state.lock();
            state.failed_starts += 1;
            state.is_broken()
        };
        if is_broken {
            self.workers.dismiss();
        }
    }

    /// How long to wait before another takes the place of one that has ended.
    fn delay_after(&self, crash: Option<&Exit>) -> Duration {
        if let Some(exit) = crash {
            self.record_crash(exit);
        }
        self.record_gone();
        self.state.lock().crashes.delay()
    }

    /// A session in this process, on a thread of its own, and what says that the thread has ended.
    async fn start_thread(
        self: &Arc<Self>,
        engine: &Engine,
    ) -> Result<(Worker, Answers, watch::Receiver<Option<Exit>>), LoadFault> {
        let (shared, engine) = (Arc::clone(self), engine.clone());
        // The session is made where blocking is allowed, the sockets where there is a runtime.
        let session = tokio::task::spawn_blocking(move || {
            let files = &shared.source.files;
            Session::new(&engine, files.read_model()?, &files.read_data()?)
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
    let mut pauses = Pauses::default();
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
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Starts a worker, again and again until it can be done or the pool is dropped.
fn start_another(pool: Weak<Shared>, delay: Duration) -> BoxFuture<'static, ()> {
    // Boxed: a worker that is started is watched, and watching starts another.
    async move {
        let mut pauses = Pauses::default();
        tokio::time::sleep(delay).await;
        while let Some(shared) = pool.upgrade() {
            let PoolSource { starter, files, signature, .. } = &shared.source;
            let fault = match starter.start(files, signature, OWN_SLOT).await {
                Ok(started) => return shared.adopt(started),
                Err(fault) => fault,
            };
            let pause = pauses.next();
            shared.record_failed_start(&fault, Some(pause));
            drop(shared);
            tokio::time::sleep(pause).await;
        }
    }
    .boxed()
}
