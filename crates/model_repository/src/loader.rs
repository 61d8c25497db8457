//! From a folder to a model that serves: open, prove in a process of its own, then serve with it.

use std::{path::PathBuf, sync::Arc, time::Instant};

use engine::{
    Engine, Group, Isolation, LoadFault, MemoryBudget, PoolLimits, PoolSource, Proved, Quarantine, Reservation,
    Signature, VersionFiles, WorkerStarter,
};

use crate::{
    manifest::{Declared, Manifest},
    metrics::{self, ModelMetrics},
    model::{Model, ModelIdentity},
    names::{ModelName, Version},
};

/// Everything that a load needs to know.
#[derive(Clone)]
pub struct Loader {
    /// Where the sessions of models come from that compute in this process.
    pub engine: Engine,
    /// Starts the processes that judge a version and then compute it.
    pub starter: WorkerStarter,
    /// Workers for each model version, if memory allows as many.
    pub workers_max: usize,
    /// What the workers of one version, and of all, may take together.
    pub memory: MemoryBudget,
    /// Calls that may wait, for each version.
    pub queue_max: usize,
    /// What they may take together.
    pub queue_bytes_max: usize,
    /// Which callers crash which models.
    pub quarantine: Arc<Quarantine>,
    /// The versions that share a process.
    pub group: Arc<Group>,
}

/// Which version is to be loaded, and how.
pub(crate) struct LoadOrder<'m> {
    pub(crate) name: &'m ModelName,
    pub(crate) version: Version,
    pub(crate) declared: &'m Declared,
    pub(crate) isolation: Isolation,
    pub(crate) folder: PathBuf,
    /// What serves under this number now.
    pub(crate) serving: Option<&'m Arc<Model>>,
}

// === impl Loader ===

impl Loader {
    /// Reads the declaration of a model folder.
    pub(crate) async fn read_manifest(&self, folder: PathBuf) -> Result<Manifest, LoadFault> {
        blocking(move || Manifest::read(&folder)).await
    }

    /// Proves a version and takes it into memory. If the very same file serves already, it is proved by its digest.
    pub(crate) async fn load(&self, order: LoadOrder<'_>) -> Result<Arc<Model>, LoadFault> {
        let LoadOrder { name, version, declared, isolation, folder, serving } = order;
        let (digests, signature) = match declared {
            Declared::Files(digests, signature) => (digests.clone(), signature),
            Declared::Refused(fault) => return Err(fault.clone()),
        };
        let started = Instant::now();
        let (digest, bytes_max) = (digests.whole(), self.starter.file_bytes_max);
        let files = blocking(move || VersionFiles::open(&folder, digests, bytes_max)).await?;
        if let Some(serving) = serving
            && serving.is_same(digest, signature, isolation)
        {
            return Ok(Arc::clone(serving));
        }
        let file_bytes = files.bytes();
        let source = PoolSource {
            name: name.to_string(),
            version: version.to_string(),
            starter: self.starter.clone(),
            files: Arc::new(files),
            signature: signature.clone(),
            isolation,
            quarantine: Arc::clone(&self.quarantine),
            group: Arc::clone(&self.group),
        };
        let mut proved = Proved::start(source, &self.memory).await?;
        let worker_bytes = proved.memory_bytes();
        let reservation = proved.reserve(&self.memory, self.workers_max)?;
        let workers = reservation.workers;
        let identity = ModelIdentity { name: name.clone(), version, digest, file_bytes, isolation };
        let model = self.serve(identity, proved, reservation).await?;
        let took = started.elapsed();
        metrics::record_load(name, took);
        tracing::info!(model = %name, %version, %digest, workers, worker_bytes, elapsed_ms = took.as_millis(), "model version serves");
        Ok(Arc::new(model))
    }

    async fn serve(
        &self,
        identity: ModelIdentity,
        proved: Proved,
        reservation: Reservation,
    ) -> Result<Model, LoadFault> {
        let signature: Signature = proved.signature().clone();
        let metrics = ModelMetrics::register(&identity.name, identity.version, identity.file_bytes, self.queue_max);
        let limits = PoolLimits {
            queue_max: self.queue_max,
            queue_bytes_max: self.queue_bytes_max,
            depth: metrics.queue_depth.clone(),
            executions: metrics.executions.clone(),
            panics: metrics.panics.clone(),
            workers: metrics.workers.clone(),
            ended: metrics.workers_ended.clone(),
        };
        let pool = proved.serve(&self.engine, reservation, limits).await?;
        Ok(Model::new(identity, signature, pool, metrics))
    }
}

/// Files and native code block; they run where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadFault> + Send + 'static,
) -> Result<T, LoadFault> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(LoadFault::internal(error)))
}
