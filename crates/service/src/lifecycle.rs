//! What a service is handed at its start, and how it ends.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use identity::Identity;
use parking_lot::Mutex;
use problem::Chain;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::BoxError;
use crate::readiness::{Latch, Readiness};

/// Between "not ready" and the soft stop: time for those who send us work to see it and send it elsewhere.
const DRAIN_DELAY: Duration = Duration::from_millis(500);

/// Between the soft and the hard stop: time to finish what is in flight.
const GRACE: Duration = Duration::from_secs(10);

/// After the hard stop every task is dropped at its next await; longer than this only code that blocks can take.
const HARD_STOP_WAIT: Duration = Duration::from_secs(2);

/// The life of this process, shared by everything in it.
#[derive(Clone)]
pub struct Lifecycle {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    readiness: Readiness,
    soft_stop: CancellationToken,
    hard_stop: CancellationToken,
    /// Something that must not end has ended.
    failure: CancellationToken,
    tasks: TaskTracker,
    running: Mutex<BTreeMap<&'static str, usize>>,
}

/// Counts a task as running while it lives.
struct Running {
    name: &'static str,
    inner: Arc<Inner>,
}

// === impl Lifecycle ===

impl Lifecycle {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        let inner = Inner {
            identity,
            readiness: Readiness::default(),
            soft_stop: CancellationToken::new(),
            hard_stop: CancellationToken::new(),
            failure: CancellationToken::new(),
            tasks: TaskTracker::new(),
            running: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Who this process is; already watched and renewed.
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.inner.identity)
    }

    /// Cancelled when the process should finish what it does and begin nothing new.
    pub fn soft_stop(&self) -> CancellationToken {
        self.inner.soft_stop.clone()
    }

    /// Cancelled when the time to finish is over; every task is dropped then.
    pub fn hard_stop(&self) -> CancellationToken {
        self.inner.hard_stop.clone()
    }

    /// Keeps the process not ready until the latch is opened.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.inner.readiness.latch(name)
    }

    /// Whether the process may be given work, for health endpoints of the service's own.
    pub fn readiness(&self) -> Readiness {
        self.inner.readiness.clone()
    }

    /// Says in the log where a listener can be reached, in the same words for every listener of every service.
    pub fn listening(&self, listener: &'static str, address: SocketAddr) {
        tracing::info!(listener, %address, "listening");
    }

    /// Runs a task that is waited for at the end. It should end at the soft stop; at the hard stop it is dropped. If it
    /// panics, the process stops.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (running, inner) = (Running::start(name, &self.inner), Arc::clone(&self.inner));
        self.inner.tasks.spawn(async move {
            let _running = running;
            let guarded = AssertUnwindSafe(task).catch_unwind();
            if let Some(Err(_panic)) = inner.hard_stop.run_until_cancelled(guarded).await {
                tracing::error!(task = name, "a task panicked, the process stops");
                inner.failure.cancel();
            }
        });
    }

    /// Runs a task without which the process is pointless (a listener): if it ends before the soft stop, or with an error,
    /// the process stops.
    pub fn spawn_critical<E: Into<BoxError>>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let inner = Arc::clone(&self.inner);
        self.spawn(name, async move {
            match task.await {
                Ok(()) if inner.soft_stop.is_cancelled() => return,
                Ok(()) => tracing::error!(task = name, "a critical task ended by itself, the process stops"),
                Err(error) => {
                    let error: BoxError = error.into();
                    tracing::error!(task = name, error = %Chain(error.as_ref()), "a critical task failed, the process stops");
                }
            }
            inner.failure.cancel();
        });
    }

    /// Resolves when a task has failed the process.
    pub(crate) async fn failed(&self) {
        self.inner.failure.cancelled().await;
    }

    /// Not ready, drain, soft stop, grace, hard stop. `hurry` cuts every wait short. True when every task ended by itself.
    pub(crate) async fn stop(&self, hurry: CancellationToken) -> bool {
        let inner = &self.inner;
        inner.readiness.stop();
        let _hurried = hurry.run_until_cancelled(tokio::time::sleep(DRAIN_DELAY)).await;
        inner.soft_stop.cancel();
        inner.tasks.close();
        let finished = hurry.run_until_cancelled(timeout(GRACE, inner.tasks.wait())).await;
        if matches!(finished, Some(Ok(()))) {
            return true;
        }
        tracing::warn!(tasks = ?self.running(), "tasks did not end in time and are dropped");
        inner.hard_stop.cancel();
        if timeout(HARD_STOP_WAIT, inner.tasks.wait()).await.is_err() {
            tracing::error!(tasks = ?self.running(), "tasks block their thread and are left behind");
        }
        false
    }

    fn running(&self) -> Vec<&'static str> {
        self.inner.running.lock().keys().copied().collect()
    }
}

// === impl Running ===

impl Running {
    fn start(name: &'static str, inner: &Arc<Inner>) -> Self {
        *inner.running.lock().entry(name).or_default() += 1;
        Self { name, inner: Arc::clone(inner) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.inner.running.lock();
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}
