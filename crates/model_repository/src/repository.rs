//! The models of this replica: what is on disk, what serves, and why something does not.
//!
//! Invariants:
//! - Callers see one snapshot, exchanged whole. A call keeps the model version it began with until it is answered.
//! - Nothing serves that was not proved: digest, format, signature and golden examples, in a child process first.
//! - A load that fails in any part takes nothing out of service: no version, no alias, and not the replica. Only what was
//!   deleted goes: by a registry, whatever else of its model fails, or with its folder.
//! - What a caller has unloaded does not serve until a caller loads it: no scan of the folder, no registry and no start brings it back.
//! - One change of a model at a time, and a few loads at once (`changes.rs`); callers of `load` and `unload` wait for those before, with a
//!   limit.
//!
//! It deliberately does not watch the folder: half-copied files would be found. Changes come by `load` and `unload`, or
//! from the registry, of which the folder is the mirror then.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::{StreamExt, stream};
use problem::{Kind, Problem};
use service::{Latch, Readiness};
use tokio::time::timeout;

use crate::{
    changes::{Changes, LOADS_MAX, LoadLock, ModelLock},
    desired::DesiredModels,
    loader::{LoadOrder, Loader},
    manifest::Manifest,
    metrics,
    model::Model,
    names::{ModelName, Version},
    snapshot::{ModelEntry, Slot, Snapshot, unknown_model, unloaded_model},
};

/// How long a change may wait for those before it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// The most models of one folder.
pub(crate) const MODELS_MAX: usize = 256;

/// All models of one folder.
pub struct Repository {
    folder: PathBuf,
    /// The folder is the mirror of a registry, which decides what goes.
    is_mirror: bool,
    loader: Loader,
    snapshot: ArcSwap<Snapshot>,
    /// Which models should serve, as far as it is known.
    desired: ArcSwapOption<DesiredModels>,
    changes: Changes,
    /// Held while a snapshot is exchanged for the next, so that no change is lost.
    exchange: parking_lot::Mutex<()>,
    readiness: Readiness,
    /// Keeps the process not ready until there is something to answer calls with; once opened, for good.
    latch: parking_lot::Mutex<Option<Latch>>,
    /// Keeps the process not ready while it has no model at all, and others do.
    empty_latch: parking_lot::Mutex<Option<Latch>>,
}

// === impl Repository ===

impl Repository {
    /// Nothing is loaded yet, so the process is not ready from here on.
    pub fn new(folder: PathBuf, is_mirror: bool, loader: Loader, readiness: Readiness) -> Self {
        let latch = parking_lot::Mutex::new(Some(readiness.latch("models")));
        Self {
            folder,
            is_mirror,
            loader,
            snapshot: ArcSwap::default(),
            desired: ArcSwapOption::empty(),
            changes: Changes::new(),
            exchange: parking_lot::Mutex::default(),
            readiness,
            latch,
            empty_latch: parking_lot::Mutex::default(),
        }
    }

    /// What serves now. Cheap enough for every request.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The model version that a call means, by number, alias or, when empty, the default.
    pub fn resolve(&self, name: &str, version: &str) -> Result<Arc<Model>, Problem> {
        // A model is unloaded when that is known, not when a load under way lets it be taken out.
        if self.is_unloaded(name) {
            return Err(unloaded_model(name));
        }
        self.snapshot.load().resolve(name, version)
    }

    /// Loads every model of the folder; the index has what does not load, with its reason. Fails when there is no folder.
    pub async fn load_all(&self) -> Result<(), Problem> {
        let (names, misnamed) = self.folders().map_err(|error| {
            Problem::new(Kind::InvalidArgument, format!("models.directory {}: {error}", self.folder.display()))
        })?;
        let load = |name: ModelName| async move {
            let lock = self.wait_for_load(&name).await;
            self.load_declared(lock).await;
        };
        stream::iter(names).for_each_concurrent(LOADS_MAX, load).await;
        self.change(|snapshot| {
            snapshot.scanned = true;
            snapshot.misnamed = misnamed;
        });
        Ok(())
    }

    /// Which models should serve, as far as it is known.
    pub fn desired(&self) -> Option<Arc<DesiredModels>> {
        self.desired.load_full()
    }

    /// From now on these should serve: what should not is not found any more. The rest is done by [`Self::reconcile`] and
    /// [`Self::load_desired`].
    pub fn set_desired(&self, desired: DesiredModels) {
        self.desired.store(Some(Arc::new(desired)));
        self.judge_emptiness();
    }

    /// Models that serve here, of which the desired state says nothing; no more than a gateway takes at once.
    pub fn serving_unknown(&self) -> Vec<String> {
        let desired = self.desired.load();
        let is_unknown = |name: &ModelName| desired.as_ref().is_none_or(|desired| !desired.knows(name.as_str()));
        let snapshot = self.snapshot.load();
        let serving = snapshot.models.iter().filter(|(_, entry)| entry.serving().next().is_some());
        let unknown = serving.map(|(name, _)| name).filter(|name| is_unknown(name));
        unknown.take(MODELS_MAX).map(ModelName::to_string).collect()
    }

    /// Takes out of service what should not serve, and names what should and does not, for [`Self::load_desired`]. A model that is being
    /// changed is looked at again at the next call.
    pub fn reconcile(&self) -> Vec<ModelName> {
        let Some(desired) = self.desired() else { return Vec::new() };
        let (unload, load): (Vec<_>, Vec<_>) =
            self.differing(&desired).into_iter().partition(|name| desired.is_unloaded(name.as_str()));
        for lock in unload.iter().filter_map(|name| self.changes.try_lock(name)) {
            self.take_out(&lock);
        }
        if self.differing(&desired).is_empty() {
            self.note_generation(&desired);
        }
        load
    }

    /// Loads a model that should serve, if it still should. One that cannot be loaded has its reason in the index, and is not tried again.
    pub async fn load_desired(&self, name: &ModelName) {
        let lock = self.wait_for_load(name).await;
        if self.desired().is_some_and(|desired| self.differing(&desired).contains(name)) {
            self.load_declared(lock).await;
        }
    }

    /// Models that serve and should not, or the other way round.
    fn differing(&self, desired: &DesiredModels) -> Vec<ModelName> {
        let snapshot = self.snapshot.load();
        let differing =
            snapshot.models.iter().filter(|(name, entry)| entry.is_unloaded() != desired.is_unloaded(name.as_str()));
        differing.map(|(name, _)| name.clone()).collect()
    }

    fn is_unloaded(&self, name: &str) -> bool {
        self.desired.load().as_ref().is_some_and(|desired| desired.is_unloaded(name))
    }

    fn note_generation(&self, desired: &DesiredModels) {
        if self.snapshot.load().scanned {
            metrics::set_desired_generation(desired.generation());
        }
    }

    /// Loads a model, or loads it again: changed and new versions are taken into service, dropped ones out of it. One whose
    /// folder was deleted is gone then. `recorded` makes it one that should serve; without that nothing is loaded.
    pub async fn load(
        &self,
        lock: LoadLock,
        recorded: impl Future<Output = Result<(), Problem>>,
    ) -> Result<(), Problem> {
        let name = lock.model().name();
        if self.is_deleted(name) {
            self.forget(lock.model());
        }
        let is_known = self.snapshot.load().models.contains_key(name) || self.folder.join(name.as_str()).is_dir();
        if !is_known {
            return Err(unknown_model(name.as_str()));
        }
        recorded.await?;
        self.load_locked(lock).await
    }

    /// Takes out a model that was deleted. Calls that have begun are still answered.
    pub(crate) fn forget(&self, lock: &ModelLock) {
        let name = lock.name();
        if self.snapshot.load().models.contains_key(name) {
            self.change(|snapshot| drop(snapshot.models.remove(name)));
            tracing::info!(model = %name, "model was deleted and is out of service");
        }
    }

    /// Whether a model has no folder. Where there is no folder of models at all none of them was deleted.
    fn is_deleted(&self, name: &ModelName) -> bool {
        self.folder.is_dir() && matches!(self.folder.join(name.as_str()).try_exists(), Ok(false))
    }

    /// Takes a model out of service. Calls that have begun are still answered. `recorded` makes it one that should not
    /// serve; without that it goes on.
    pub async fn unload(&self, name: &str, recorded: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
        let name = known_name(name)?;
        let is_here = self.snapshot.load().models.contains_key(&name);
        if !is_here && self.desired.load().as_ref().is_none_or(|desired| !desired.knows(name.as_str())) {
            return Err(unknown_model(name.as_str()));
        }
        recorded.await?;
        // No call finds it any more; a load under way holds up only that its memory is given back.
        let lock = self.lock(&name).await?;
        if self.is_deleted(&name) {
            self.forget(&lock);
            return Ok(());
        }
        self.take_out(&lock);
        Ok(())
    }

    fn take_out(&self, lock: &ModelLock) {
        let name = lock.name();
        let Some(entry) = self.snapshot.load().models.get(name).cloned() else { return };
        let entry = entry.unloaded();
        self.change(|snapshot| drop(snapshot.models.insert(name.clone(), Arc::new(entry))));
        tracing::info!(model = %name, "model unloaded");
    }

    /// Waits for the change of this model before.
    pub(crate) async fn lock(&self, name: &ModelName) -> Result<ModelLock, Problem> {
        let lock = timeout(LOCK_TIMEOUT, self.changes.lock(name)).await;
        lock.map_err(|_| Problem::unavailable("this model is being loaded; try again"))
    }

    /// Waits for the change of this model before, and for loads of others.
    pub async fn lock_for_load(&self, name: &str) -> Result<LoadLock, Problem> {
        let lock = timeout(LOCK_TIMEOUT, self.wait_for_load(&known_name(name)?)).await;
        lock.map_err(|_| Problem::unavailable("this model or others are being loaded; try again"))
    }

    /// The same for one who has the time: each load before it ends by `probe.wall_s_max`.
    pub(crate) async fn wait_for_load(&self, name: &ModelName) -> LoadLock {
        self.changes.lock_for_load(name).await
    }

    /// Loads a model that no caller waits for.
    async fn load_declared(&self, lock: LoadLock) {
        let name = lock.model().name().clone();
        if let Err(problem) = self.load_locked(lock).await {
            tracing::warn!(model = %name, reason = %problem, "model does not serve as declared");
        }
    }

    /// Loads a model as its folder has it now. One that a caller has unloaded stays so.
    pub(crate) async fn load_locked(&self, lock: LoadLock) -> Result<(), Problem> {
        let name = lock.model().name().clone();
        // The right to change the model is given back with what came of it.
        let (loaded, _model) = lock.run(self.load_model(&name)).await;
        loaded
    }

    async fn load_model(&self, name: &ModelName) -> Result<(), Problem> {
        let old = self.snapshot.load().models.get(name).cloned().unwrap_or_default();
        let manifest = match self.loader.read_manifest(self.folder.join(name.as_str())).await {
            Ok(manifest) => manifest,
            Err(fault) => {
                metrics::count_load_failure(name, fault.reason);
                let problem = refused(&old, &[format!("{name}: {fault}")]);
                let entry = old.with_manifest_fault(fault);
                self.change(|snapshot| drop(snapshot.models.insert(name.clone(), Arc::new(entry))));
                return Err(problem);
            }
        };
        if self.is_unloaded(name.as_str()) {
            let entry = ModelEntry::left_unloaded(&manifest);
            self.change(|snapshot| drop(snapshot.models.insert(name.clone(), Arc::new(entry))));
            return Ok(());
        }
        let versions = self.load_versions(&old, &manifest).await;
        let faults: Vec<String> = versions
            .iter()
            .filter_map(|(version, slot)| Some(format!("{name} version {version}: {}", slot.fault.as_ref()?)))
            .collect();
        let keeps_undeclared = !faults.is_empty() && !self.is_mirror;
        let entry = ModelEntry::of(&manifest, versions, &old, keeps_undeclared);
        self.change(|snapshot| drop(snapshot.models.insert(name.clone(), Arc::new(entry))));
        if faults.is_empty() { Ok(()) } else { Err(refused(&old, &faults)) }
    }

    async fn load_versions(&self, old: &ModelEntry, manifest: &Manifest) -> BTreeMap<Version, Slot> {
        let mut versions = BTreeMap::new();
        for (version, declared) in &manifest.versions {
            let serving = old.versions.get(version).and_then(|slot| slot.serving.clone());
            let folder = self.folder.join(manifest.name.as_str()).join(version.to_string());
            let order = LoadOrder {
                name: &manifest.name,
                version: *version,
                declared,
                isolation: manifest.isolation,
                folder,
                serving: serving.as_ref(),
            };
            let slot = match self.loader.load(order).await {
                Ok(model) => Slot { serving: Some(model), fault: None },
                Err(fault) => {
                    metrics::count_load_failure(&manifest.name, fault.reason);
                    tracing::warn!(model = %manifest.name, %version, reason = ?fault.reason, %fault, kept = serving.is_some(), "model version refused");
                    Slot { serving, fault: Some(fault) }
                }
            };
            versions.insert(*version, slot);
        }
        versions
    }

    /// Exchanges the snapshot for the next. What changes an entry has the lock of its model.
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let _exchange = self.exchange.lock();
        let old = self.snapshot.load_full();
        let mut snapshot = Snapshot::clone(&old);
        change(&mut snapshot);
        snapshot.measure(&old);
        let (is_ready, has_faults) = (snapshot.is_ready(), snapshot.has_faults());
        self.snapshot.store(Arc::new(snapshot));
        self.judge_emptiness();
        if is_ready {
            drop(self.latch.lock().take());
        }
        let remark = has_faults.then_some("not all serve as declared; the repository index says why");
        self.readiness.set_degraded("models", remark);
    }

    /// Without any model this replica would answer 404 to what the others serve.
    fn judge_emptiness(&self) {
        let mut latch = self.empty_latch.lock();
        let is_empty = self.snapshot.load().is_empty();
        if !is_empty || self.desired.load().as_ref().is_none_or(|desired| !desired.has_loaded()) {
            drop(latch.take());
        } else if latch.is_none() {
            tracing::info!(folder = %self.folder.display(), "there is no model here, but others serve: not ready");
            *latch = Some(self.readiness.latch("models that others serve"));
        }
    }

    /// The models of the folder, and what looks like one but for its name.
    fn folders(&self) -> std::io::Result<(Vec<ModelName>, Vec<String>)> {
        let (mut names, mut misnamed) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Hidden ones are no models, or not finished.
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_hidden || !entry.path().join("model.toml").is_file() {
                continue;
            }
            match entry.file_name().to_str().and_then(ModelName::parse) {
                Some(name) if names.len() < MODELS_MAX => names.push(name),
                Some(name) => tracing::warn!(model = %name, max = MODELS_MAX, "model left out: too many models"),
                None => {
                    tracing::warn!(folder = %entry.path().display(), "model left out: its folder has no valid model name");
                    if misnamed.len() < MODELS_MAX {
                        misnamed.push(entry.file_name().to_string_lossy().into_owned());
                    }
                }
            }
        }
        names.sort();
        misnamed.sort();
        Ok((names, misnamed))
    }
}

fn known_name(name: &str) -> Result<ModelName, Problem> {
    ModelName::parse(name).ok_or_else(|| unknown_model(name))
}

/// `old` is the model before.
fn refused(old: &ModelEntry, faults: &[String]) -> Problem {
    let serves_on = if old.serving().next().is_some() { ", what served before serves on" } else { "" };
    Problem::new(Kind::Conflict, format!("not loaded{serves_on}: {}", faults.join("; ")))
}
