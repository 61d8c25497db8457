//! The model registry: MLflow says which models, versions and aliases there are, and the S3 bucket has the files.
//!
//! Invariants:
//! - What serves comes from the folder, never from the network: the registry is mirrored into it, and the repository loads
//!   from there with all its proofs. So a registry that is away, from the start or later, changes nothing.
//! - The files of a version enter the folder when they have the SHA-256 that the registry declares, and in no other case.
//! - A refused version is fetched again when the registry says something else of it or a caller asks for a load, not at
//!   every look; why it was refused is in the index.
//! - What the registry has deleted goes, from the folder and out of service; a registry that does not answer has deleted
//!   nothing.
//! - The lock of the mirror is held while files are fetched and declared, not while a model is loaded: a load that lasts holds up no other
//!   model. It is taken before the lock of a model.

mod bucket;
mod declaration;
mod http;
mod mirror;
mod mlmodel;
mod poll;
mod promotion;
mod rest_api;
mod selection;

use std::{path::PathBuf, sync::Arc, time::Duration};

use identity::Identity;
use problem::{Kind, Problem};
use rusty_s3::{Bucket, Credentials, UrlStyle};
use secrets::{SecretError, SecretFile};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use url::Url;

pub use poll::follow;

use crate::{manifest::VERSIONS_MAX, metrics, names::ModelName, repository::Repository};
use http::{Http, HttpError};
use mirror::Mirror;
use promotion::MirroredModel;

/// How long a load may wait for the refresh before it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Where models come from, if not from the folder alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    address: String,
    s3_endpoint: String,
    bucket: String,
    #[serde(default = "default_region")]
    region: String,
    access_key_file: SecretFile,
    secret_key_file: SecretFile,
    #[serde(default = "default_poll_interval_ms")]
    poll_interval_ms: u64,
    #[serde(default = "default_versions_max")]
    versions_max: usize,
}

/// The registry and the folder that mirrors it.
pub struct Registry {
    identity: Arc<Identity>,
    address: String,
    root: Url,
    bucket: Bucket,
    access_key: SecretFile,
    secret_key: SecretFile,
    poll_interval: Duration,
    versions_max: usize,
    limits: ArtifactLimits,
    mirror: Arc<Mutex<Mirror>>,
    starts_empty: bool,
}

/// What the files of a version may be.
#[derive(Clone, Copy)]
pub struct ArtifactLimits {
    /// The longest model file.
    pub file_bytes_max: u64,
    /// Whether a version without `golden.json` is refused.
    pub golden_required: bool,
}

/// The right to change the mirror, which one has at a time. It is taken before the lock of a model.
pub type MirrorLock = OwnedMutexGuard<Mirror>;

/// Why a refresh could not be finished. No version is refused for it; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefreshError {
    /// MLflow, or what is between.
    #[error("the model registry at {address} cannot be asked")]
    Registry {
        /// `host:port`.
        address: String,
        /// What came of it.
        source: HttpError,
    },
    /// It answers, and has lost everything: a new database, or one that was restored from before.
    #[error(
        "the model registry at {address} lists no model at all, while {served} are served: that is taken for a loss (unload a model to take it out of service)"
    )]
    Emptied {
        /// `host:port`.
        address: String,
        /// Models that would go.
        served: usize,
    },
    /// The object storage.
    #[error("{url} cannot be read from")]
    Storage {
        /// The bucket's.
        url: Url,
        /// What came of it.
        source: HttpError,
    },
    /// The key to the object storage.
    #[error("there is no key to the bucket")]
    Key(#[from] SecretError),
    /// The folder.
    #[error("the mirror of the registry in models.directory cannot be written")]
    Mirror(#[source] std::io::Error),
    /// The repository.
    #[error("the models cannot be changed now: {0}")]
    Busy(String),
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_poll_interval_ms() -> u64 {
    5000
}

fn default_versions_max() -> usize {
    4
}

// === impl RegistryConfig ===

impl RegistryConfig {
    /// What is wrong, by key.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.root().is_none() {
            faults.push(("address", "must be host:port".to_owned()));
        }
        if let Err(why) = self.bucket() {
            faults.push(("s3_endpoint", why));
        }
        if !(100..=3_600_000).contains(&self.poll_interval_ms) {
            faults.push(("poll_interval_ms", "must be from 100 to 3600000".to_owned()));
        }
        if !(1..=VERSIONS_MAX).contains(&self.versions_max) {
            faults.push(("versions_max", format!("must be from 1 to {VERSIONS_MAX}")));
        }
        faults
    }

    fn root(&self) -> Option<Url> {
        let (host, port) = self.address.rsplit_once(':')?;
        let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#']) && port.parse::<u16>().is_ok();
        plain.then(|| Url::parse(&format!("https://{}", self.address)).ok()).flatten()
    }

    fn bucket(&self) -> Result<Bucket, String> {
        let endpoint = Url::parse(&self.s3_endpoint).map_err(|error| format!("must be https://host:port: {error}"))?;
        if endpoint.scheme() != "https" || endpoint.path() != "/" {
            return Err("must be https://host:port".to_owned());
        }
        Bucket::new(endpoint, UrlStyle::Path, self.bucket.clone(), self.region.clone())
            .map_err(|error| format!("with the bucket {:?}: {error}", self.bucket))
    }
}

// === impl Registry ===

impl Registry {
    /// Opens the mirror in `folder`; the registry is asked later.
    pub async fn open(
        config: &RegistryConfig,
        folder: PathBuf,
        limits: ArtifactLimits,
        identity: Arc<Identity>,
    ) -> Result<Self, service::BoxError> {
        metrics::describe_registry();
        let root = config.root().ok_or("models.registry.address: must be host:port")?;
        let bucket = config.bucket().map_err(|why| format!("models.registry.s3_endpoint: {why}"))?;
        let place = folder.display().to_string();
        let mirror = tokio::task::spawn_blocking(move || Mirror::open(&folder)).await?;
        let mirror = mirror.map_err(|error| format!("models.directory {place}: {error}"))?;
        Ok(Self {
            identity,
            address: config.address.clone(),
            root,
            bucket,
            access_key: config.access_key_file.clone(),
            secret_key: config.secret_key_file.clone(),
            poll_interval: Duration::from_millis(config.poll_interval_ms),
            versions_max: config.versions_max,
            limits,
            starts_empty: mirror.models.is_empty(),
            mirror: Arc::new(Mutex::new(mirror)),
        })
    }

    /// Whether there is nothing to serve until the registry was asked.
    pub fn starts_empty(&self) -> bool {
        self.starts_empty
    }

    /// Waits for the change before it.
    pub async fn lock_mirror(&self) -> Result<MirrorLock, Problem> {
        let lock = tokio::time::timeout(LOCK_TIMEOUT, Arc::clone(&self.mirror).lock_owned()).await;
        lock.map_err(|_| Problem::unavailable("models are being fetched from the registry; try again"))
    }

    /// Has the registry asked about one model, then loads it as it is there. When the registry does not answer, a model
    /// that was unloaded is loaded as it was; one that serves is not reported as the newest. `recorded` as for
    /// [`Repository::load`].
    pub async fn load(
        &self,
        mut mirror: MirrorLock,
        repository: &Repository,
        name: &str,
        recorded: impl Future<Output = Result<(), Problem>>,
    ) -> Result<(), Problem> {
        if let Some(name) = ModelName::parse(name)
            && let Err(outage) = self.refresh_model(&mut mirror, repository, &name).await
        {
            let serves =
                repository.snapshot().entry(name.as_str()).is_some_and(|entry| entry.serving().next().is_some());
            if serves || !mirror.models.contains_key(&name) {
                let detail = "the model registry or its storage does not answer; what serves is unchanged; try again";
                return Err(Problem::unavailable(detail).source(outage));
            }
            tracing::warn!(model = %name, error = %problem::Chain(&outage), "model is loaded as the mirror has it");
        }
        let mirrored = ModelName::parse(name).and_then(|name| MirroredModel::of(&mirror, &name));
        drop(mirror);
        let lock = repository.lock_for_load(name).await?;
        let loaded = repository.load(lock, recorded).await;
        if let Some(mirrored) = mirrored {
            self.note_loaded(repository, &mirrored).await.map_err(Problem::internal)?;
        }
        loaded
    }

    /// A client with the certificates of this moment.
    fn session(&self) -> Result<promotion::RefreshSession<'_>, RefreshError> {
        let http = Http::new(&self.identity).map_err(|error| self.registry_error(error))?;
        Ok(promotion::RefreshSession { http, registry: self })
    }

    /// The key to the bucket as it is now: it may have been rotated since it was last used.
    fn credentials(&self) -> Result<Credentials, RefreshError> {
        let key = |file: &SecretFile| -> Result<String, RefreshError> {
            let secret = file.read()?;
            Ok(String::from_utf8_lossy(secret.expose()).into_owned())
        };
        Ok(Credentials::new(key(&self.access_key)?, key(&self.secret_key)?))
    }

    fn registry_error(&self, source: HttpError) -> RefreshError {
        RefreshError::Registry { address: self.address.clone(), source }
    }
}

// === impl RefreshError ===

impl RefreshError {
    /// As the metrics know it.
    pub(crate) fn outcome(&self) -> metrics::RefreshOutcome {
        match self {
            Self::Registry { .. } | Self::Emptied { .. } => metrics::RefreshOutcome::RegistryAway,
            Self::Storage { .. } | Self::Key(_) => metrics::RefreshOutcome::StorageAway,
            Self::Mirror(_) | Self::Busy(_) => metrics::RefreshOutcome::MirrorFailed,
        }
    }
}

/// Whether a problem of a load says that the model is as the registry has it, however that is: refused versions are in the
/// index, and nothing would be different at the next try.
fn is_final(loaded: &Result<(), Problem>) -> bool {
    loaded.as_ref().err().is_none_or(|problem| problem.kind() == Kind::Conflict)
}
