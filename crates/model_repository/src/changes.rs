//! Who may change what: one change of a model at a time, and loads one after the other unless one of them lasts.
//!
//! A load is work for a core and takes memory, so that one goes on at a time. One that is not done soon, e.g. because a golden example does
//! not come to its end, leaves its turn to the next and goes on beside it. Of those there are a few at most: when all of them last, the
//! next one waits until `probe.wall_s_max` ends one.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::names::ModelName;

/// A load that takes longer goes on beside the next one.
const PROMPT: Duration = Duration::from_secs(3);
/// So many loads may go on beside another. Each has a process of at most `probe.memory_bytes_max`.
const LATE_MAX: usize = 3;
/// Loads that go on at once, at the most.
pub(crate) const LOADS_MAX: usize = LATE_MAX + 1;

/// The changes under way.
pub(crate) struct Changes {
    /// Of each model that is being changed or waited for; others are forgotten.
    models: Mutex<BTreeMap<ModelName, Weak<AsyncMutex<()>>>>,
    turn: Arc<Semaphore>,
    late: Arc<Semaphore>,
    prompt: Duration,
}

/// The right to change a model, which one has at a time.
pub(crate) struct ModelLock {
    name: ModelName,
    _held: OwnedMutexGuard<()>,
}

/// The right to load a model.
pub struct LoadLock {
    model: ModelLock,
    turn: OwnedSemaphorePermit,
    late: Arc<Semaphore>,
    prompt: Duration,
}

// === impl Changes ===

impl Changes {
    pub(crate) fn new() -> Self {
        Self::with(PROMPT, LATE_MAX)
    }

    fn with(prompt: Duration, late_max: usize) -> Self {
        let (turn, late) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(late_max)));
        Self { models: Mutex::default(), turn, late, prompt }
    }

    /// Waits for the change of this model before.
    pub(crate) async fn lock(&self, name: &ModelName) -> ModelLock {
        let held = self.of(name).lock_owned().await;
        ModelLock { name: name.clone(), _held: held }
    }

    /// The same, if none is under way.
    pub(crate) fn try_lock(&self, name: &ModelName) -> Option<ModelLock> {
        let held = self.of(name).try_lock_owned().ok()?;
        Some(ModelLock { name: name.clone(), _held: held })
    }

    /// Waits for the change of this model before, and then for the loads of others.
    pub(crate) async fn lock_for_load(&self, name: &ModelName) -> LoadLock {
        let model = self.lock(name).await;
        // Nothing closes it.
        let turn = Arc::clone(&self.turn).acquire_owned().await.expect("the semaphore of loads is never closed");
        LoadLock { model, turn, late: Arc::clone(&self.late), prompt: self.prompt }
    }

    fn of(&self, name: &ModelName) -> Arc<AsyncMutex<()>> {
        let mut models = self.models.lock();
        if let Some(known) = models.get(name).and_then(Weak::upgrade) {
            return known;
        }
        // Callers choose names: those that nothing is done with any more go.
        models.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        models.insert(name.clone(), Arc::downgrade(&lock));
        lock
    }
}

// === impl ModelLock, LoadLock ===

impl ModelLock {
    /// The model that it is for.
    pub(crate) fn name(&self) -> &ModelName {
        &self.name
    }
}

impl LoadLock {
    /// The right to change the model.
    pub(crate) fn model(&self) -> &ModelLock {
        &self.model
    }

    /// Loads, and lets the next one load when this lasts. The right to change the model stays with the caller.
    pub(crate) async fn run<T>(self, load: impl Future<Output = T>) -> (T, ModelLock) {
        let Self { model, turn, late, prompt } = self;
        let mut load = pin!(load);
        if let Ok(loaded) = timeout(prompt, &mut load).await {
            return (loaded, model);
        }
        let _late = tokio::select! {
            biased;
            loaded = &mut load => return (loaded, model),
            late = late.acquire_owned() => late,
        };
        drop(turn);
        tracing::info!(model = %model.name, "a load lasts; others go on beside it");
        (load.await, model)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    fn name(name: &str) -> ModelName {
        ModelName::parse(name).unwrap()
    }

    #[tokio::test]
    async fn one_change_of_a_model_goes_on_at_a_time_and_others_beside_it() {
        let changes = Changes::new();
        let first = changes.lock(&name("a")).await;
        assert!(changes.lock(&name("a")).now_or_never().is_none() && changes.try_lock(&name("a")).is_none());
        let other = changes.try_lock(&name("b")).unwrap();
        drop((first, other));
        let again = changes.try_lock(&name("a")).unwrap();
        assert_eq!(again.name().as_str(), "a");
        assert_eq!(changes.models.lock().len(), 1, "what nothing is done with is forgotten");
    }

    #[tokio::test]
    async fn a_load_waits_for_the_one_before_it() {
        let changes = Changes::new();
        let first = changes.lock_for_load(&name("a")).await;
        let second = name("b");
        let mut waiting = pin!(changes.lock_for_load(&second));
        assert!(waiting.as_mut().now_or_never().is_none());
        let (loaded, model) = first.run(async { 7 }).await;
        assert_eq!((loaded, model.name().as_str()), (7, "a"));
        waiting.await;
    }

    /// Of those that last, as many go on as are allowed, and one more waits for the first of them.
    #[tokio::test]
    async fn loads_that_last_let_others_go_on_up_to_a_bound() {
        let changes = Arc::new(Changes::with(Duration::ZERO, 2));
        let (end, ended) = oneshot::channel::<()>();
        let first = changes.lock_for_load(&name("a")).await;
        let first = tokio::spawn(async move { first.run(ended).await.0 });
        for late in ["b", "c"] {
            let lock = changes.lock_for_load(&name(late)).await;
            tokio::spawn(async move { lock.run(pending::<()>()).await.0 });
        }
        let (waiting, there) = (Arc::clone(&changes), oneshot::channel());
        tokio::spawn(async move {
            let lock = waiting.lock_for_load(&name("d")).await;
            let _listened = there.0.send(lock);
        });
        let mut there = there.1;
        while changes.late.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(there.try_recv().is_err(), "three last, and only two may go on beside another");
        end.send(()).unwrap();
        first.await.unwrap().unwrap();
        let (loaded, _model) = there.await.unwrap().run(async { "d" }).await;
        assert_eq!(loaded, "d");
    }
}
