//! From a folder to a model that serves: read, probe in a child process, then build the sessions.

use std::{path::PathBuf, sync::Arc, time::Instant};

use engine::{Engine, LoadFault, Pool, PoolLimits, Prober, Reason, Session, Signature};

use crate::{
    manifest::{Declared, Manifest},
    metrics::{self, ModelMetrics},
    model::{Model, ModelIdentity},
    names::{ModelName, Version},
};

/// Everything that a load needs to know.
#[derive(Clone)]
pub struct Loader {
    /// Where sessions come from.
    pub engine: Engine,
    /// Judges a version before it comes into this process.
    pub prober: Prober,
    /// Sessions and threads for each model version.
    pub workers: usize,
    /// What the sessions of one version may take together.
    pub memory_bytes_max: u64,
    /// Calls that may wait, for each version.
    pub queue_max: usize,
    /// What their inputs may take together.
    pub queue_bytes_max: usize,
}

// === impl Loader ===

impl Loader {
    /// Reads the declaration of a model folder.
    pub(crate) async fn read_manifest(&self, folder: PathBuf) -> Result<Manifest, LoadFault> {
        blocking(move || Manifest::read(&folder)).await
    }

    /// Proves a version and takes it into memory. If the very same file serves already, it is proved by its digest.
    pub(crate) async fn load(
        &self,
        name: &ModelName,
        version: Version,
        declared: &Declared,
        folder: PathBuf,
        serving: Option<&Arc<Model>>,
    ) -> Result<Arc<Model>, LoadFault> {
        let (digest, signature) = match declared {
            Declared::File(digest, signature) => (*digest, signature),
            Declared::Refused(fault) => return Err(fault.clone()),
        };
        let started = Instant::now();
        let bytes_max = self.prober.file_bytes_max;
        let read = {
            let folder = folder.clone();
            blocking(move || engine::read_model_file(&folder, digest, bytes_max))
        };
        let bytes = read.await?;
        if let Some(serving) = serving
            && serving.is_same(digest, signature)
        {
            return Ok(Arc::clone(serving));
        }
        let session_bytes = self.prober.probe(folder, digest, signature).await?;
        self.admit(session_bytes)?;
        let identity = ModelIdentity { name: name.clone(), version, digest, file_bytes: bytes.len() as u64 };
        let (loader, signature) = (self.clone(), signature.clone());
        let model = blocking(move || loader.build(identity, &signature, &bytes)).await?;
        let took = started.elapsed();
        metrics::record_load(name, took);
        tracing::info!(model = %name, %version, %digest, session_bytes, elapsed_ms = took.as_millis(), "model version serves");
        Ok(Arc::new(model))
    }

    /// Whether there is memory for a session in each worker, if each takes what one took.
    fn admit(&self, session_bytes: u64) -> Result<(), LoadFault> {
        let (workers, max) = (self.workers, self.memory_bytes_max);
        if session_bytes.saturating_mul(workers as u64) <= max {
            return Ok(());
        }
        let detail = format!(
            "one session took {session_bytes} bytes of memory, and {workers} may take {max} (inference.memory_bytes_max)"
        );
        Err(LoadFault::new(Reason::Limits, detail))
    }

    fn build(&self, identity: ModelIdentity, declared: &Signature, bytes: &[u8]) -> Result<Model, LoadFault> {
        let sessions = (0..self.workers).map(|_| Session::new(&self.engine, bytes)).collect::<Result<Vec<_>, _>>();
        let sessions = sessions.map_err(|error| LoadFault::new(Reason::Engine, error.to_string()))?;
        let session = sessions.first().ok_or_else(|| LoadFault::new(Reason::Internal, "there is no session"))?;
        let signature = session.check_signature(declared)?;
        let metrics = ModelMetrics::register(&identity.name, identity.version, identity.file_bytes, self.queue_max);
        let limits = PoolLimits {
            queue_max: self.queue_max,
            queue_bytes_max: self.queue_bytes_max,
            depth: metrics.queue_depth.clone(),
            executions: metrics.executions.clone(),
            panics: metrics.panics.clone(),
        };
        let pool = Pool::start(identity.name.as_str(), sessions, &limits);
        let pool = pool.map_err(|error| LoadFault::new(Reason::Internal, format!("no worker thread: {error}")))?;
        Ok(Model::new(identity, signature, pool, metrics))
    }
}

/// Files and native code block; they run where that is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadFault> + Send + 'static,
) -> Result<T, LoadFault> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(LoadFault::new(Reason::Internal, error.to_string())))
}
