//! What a promotion in MLflow starts: ask the registry, fetch what is missing, declare it, have it loaded.

use std::collections::{BTreeMap, BTreeSet};

use engine::{FileDigests, GOLDEN_BYTES_MAX, LoadFault, Reason, Signature};
use https_client::HttpsError;
use problem::Chain;
use sha256::Sha256Digest;
use tempfile::TempDir;
use tokio::fs;

use super::{
    MirrorLock, RefreshError, Registry,
    bucket::{ArtifactPath, Storage},
    declaration::{self, Declaration},
    http::{Http, HttpError},
    is_final,
    mirror::Mirrored,
    mlmodel::{MLMODEL_BYTES_MAX, MlModel},
    rest_api::{MlFlow, ModelVersion, RegisteredModel},
    selection::{self, VersionDecision},
};
use crate::{
    manifest::{ManifestFile, VersionFile},
    names::{ModelName, Version},
    repository::{MODELS_MAX, Repository},
};

/// The model file in the folder of a version, whatever it is called in the registry.
const MODEL: &str = "model.onnx";

/// The registry and its storage, for one refresh.
pub(super) struct RefreshSession<'a> {
    pub(super) http: Http,
    pub(super) registry: &'a Registry,
}

/// What a model is to become, as far as it is known without fetching anything.
struct Plan {
    name: ModelName,
    model: RegisteredModel,
    aliases: BTreeMap<String, Version>,
    last_good: BTreeMap<String, Version>,
    versions: BTreeMap<Version, VersionFile>,
    missing: Vec<(ModelVersion, Sha256Digest)>,
}

/// A model as the mirror declares it.
pub(super) struct MirroredModel {
    pub(super) name: ModelName,
    file: ManifestFile,
}

/// What the files of a version are.
struct Fetched {
    digests: FileDigests,
    signature: Signature,
}

/// Why the files of a version are not here.
enum FetchError {
    /// They cannot be used.
    Refused(LoadFault),
    /// They may come yet.
    Failed(RefreshError),
}

// === impl MirroredModel ===

impl MirroredModel {
    pub(super) fn of(mirror: &MirrorLock, name: &ModelName) -> Option<Self> {
        let mirrored = mirror.models.get(name)?;
        Some(Self { name: name.clone(), file: mirrored.file.clone() })
    }
}

// === impl Registry ===

impl Registry {
    /// Makes the mirror what the registry is, and notes what is to be loaded of it. What needs nothing fetched comes first, so that
    /// an alias moves although the storage is away.
    pub(super) async fn refresh(
        &self,
        mirror: &mut MirrorLock,
        repository: &Repository,
        to_load: &mut Vec<MirroredModel>,
    ) -> Result<(), RefreshError> {
        let session = self.session()?;
        let listed = index_by_name(self.list_models(&session, mirror).await?);
        let mut plans = Vec::new();
        for (name, model) in &listed {
            plans.extend(session.plan(mirror, name, model.clone(), false).await?);
        }
        let planned: BTreeSet<ModelName> = plans.iter().map(|plan| plan.name.clone()).collect();
        let gone: Vec<ModelName> = mirror.models.keys().filter(|name| !planned.contains(*name)).cloned().collect();
        for name in gone {
            // The pages of a list that changes may leave out what is there.
            let listed = listed.contains_key(&name);
            if listed || session.mlflow().model(&name).await.map_err(|error| self.registry_error(error))?.is_none() {
                self.remove(mirror, repository, &name).await?;
            }
        }
        plans.sort_by_key(|plan| !plan.missing.is_empty());
        for plan in plans {
            let name = plan.name.clone();
            self.write(&session, mirror, plan).await?;
            if mirror.models.get(&name).is_some_and(|mirrored| !mirrored.is_loaded) {
                to_load.extend(MirroredModel::of(mirror, &name));
            }
        }
        Ok(())
    }

    /// Loads a model that the mirror declares. One that could not be tried is noted again by the next refresh.
    pub(super) async fn load_mirrored(&self, repository: &Repository, mirrored: &MirroredModel) {
        let lock = repository.wait_for_load(&mirrored.name).await;
        let loaded = repository.load_locked(lock).await;
        if let Err(problem) = &loaded {
            tracing::warn!(model = %mirrored.name, reason = %problem, "model does not serve as the registry has it");
        }
        if is_final(&loaded)
            && let Err(error) = self.note_loaded(repository, mirrored).await
        {
            tracing::warn!(model = %mirrored.name, error = %Chain(&error), "what the aliases of a model mean cannot be noted; it is tried again");
        }
    }

    /// Every model of the registry, unless it has lost all of them.
    async fn list_models(
        &self,
        session: &RefreshSession<'_>,
        mirror: &MirrorLock,
    ) -> Result<Vec<RegisteredModel>, RefreshError> {
        let listed = session.mlflow().models().await.map_err(|error| self.registry_error(error))?;
        if listed.is_empty() && !mirror.models.is_empty() {
            return Err(RefreshError::Emptied { address: self.address.clone(), served: mirror.models.len() });
        }
        Ok(listed)
    }

    /// The same for one model, whose refused versions get another chance; what is loaded is the caller's to load.
    pub(super) async fn refresh_model(
        &self,
        mirror: &mut MirrorLock,
        repository: &Repository,
        name: &ModelName,
    ) -> Result<(), RefreshError> {
        let session = self.session()?;
        let model = session.mlflow().model(name).await.map_err(|error| self.registry_error(error))?;
        mirror.reread(name).await.map_err(RefreshError::Mirror)?;
        let plan = match model {
            Some(model) => session.plan(mirror, name, model, true).await?,
            None => None,
        };
        match plan {
            Some(plan) => self.write(&session, mirror, plan).await,
            None if mirror.models.contains_key(name) => {
                self.list_models(&session, mirror).await?;
                self.remove(mirror, repository, name).await
            }
            None => Ok(()),
        }
    }

    /// Notes that a model was loaded, and what its aliases mean now, for the next process. What was declared since is still to be loaded.
    pub(super) async fn note_loaded(
        &self,
        repository: &Repository,
        MirroredModel { name, file }: &MirroredModel,
    ) -> Result<(), RefreshError> {
        // While files are fetched the mirror is not free for long. The next refresh finds the model not loaded, and has it noted.
        let Ok(mut mirror) = self.lock_mirror().await else { return Ok(()) };
        if mirror.models.get(name).is_none_or(|mirrored| mirrored.file != *file) {
            return Ok(());
        }
        let Some(mut mirrored) = mirror.models.remove(name) else { return Ok(()) };
        mirrored.is_loaded = true;
        let serving = repository.snapshot().entry(name.as_str()).map(|entry| entry.aliases_that_serve());
        let mut last_good = mirrored.file.last_good.clone();
        let declared = &mirrored.file.aliases;
        last_good.extend(serving.unwrap_or_default().into_iter().filter(|(alias, _)| declared.contains_key(alias)));
        let is_new = last_good != mirrored.file.last_good;
        mirrored.file.last_good = last_good;
        let declared = if is_new { mirror.declare(name, &mirrored.file) } else { Ok(()) };
        mirror.models.insert(name.clone(), mirrored);
        declared.map_err(RefreshError::Mirror)
    }

    /// Fetches what is missing and declares the model, if that changes anything.
    async fn write(
        &self,
        session: &RefreshSession<'_>,
        mirror: &mut MirrorLock,
        mut plan: Plan,
    ) -> Result<(), RefreshError> {
        for (version, digest) in std::mem::take(&mut plan.missing) {
            let staged = mirror.stage().map_err(RefreshError::Mirror)?;
            let declared = match session.fetch(&plan.name, &version, digest, &staged).await {
                Ok(Fetched { digests, signature }) => {
                    mirror.put(&plan.name, version.number, staged).map_err(RefreshError::Mirror)?;
                    tracing::info!(model = %plan.name, version = %version.number, %digest, "model version fetched from the registry");
                    let Signature { inputs, outputs } = signature;
                    VersionFile {
                        sha256: Some(digests.model),
                        data: digests.data,
                        source: Some(version.source),
                        refused: None,
                        inputs,
                        outputs,
                    }
                }
                Err(FetchError::Refused(fault)) => selection::refused(&version, Some(digest), fault),
                Err(FetchError::Failed(outage)) => return Err(outage),
            };
            plan.versions.insert(version.number, declared);
        }
        let file = selection::manifest(&plan.model, plan.versions, plan.aliases, plan.last_good);
        if mirror.models.get(&plan.name).is_none_or(|mirrored| mirrored.file != file) {
            mirror.declare(&plan.name, &file).map_err(RefreshError::Mirror)?;
            mirror.models.insert(plan.name, Mirrored { file, is_loaded: false });
        }
        Ok(())
    }

    /// Out of service first, then out of the folder.
    async fn remove(
        &self,
        mirror: &mut MirrorLock,
        repository: &Repository,
        name: &ModelName,
    ) -> Result<(), RefreshError> {
        let lock = repository.lock(name).await.map_err(|problem| RefreshError::Busy(problem.message()))?;
        repository.forget(&lock);
        mirror.remove(name).map_err(RefreshError::Mirror)
    }
}

// === impl RefreshSession ===

impl RefreshSession<'_> {
    fn mlflow(&self) -> MlFlow<'_> {
        MlFlow { http: &self.http, root: &self.registry.root }
    }

    fn storage(&self) -> Result<Storage<'_>, FetchError> {
        let credentials = self.registry.credentials().map_err(FetchError::Failed)?;
        Ok(Storage { http: &self.http, bucket: &self.registry.bucket, credentials })
    }

    /// What the registry says of a model; none if it has no version that is ready.
    async fn plan(
        &self,
        mirror: &MirrorLock,
        name: &ModelName,
        model: RegisteredModel,
        again: bool,
    ) -> Result<Option<Plan>, RefreshError> {
        let registry_error = |error| self.registry.registry_error(error);
        let mirrored = mirror.models.get(name).map(|mirrored| &mirrored.file);
        let aliases = selection::aliases(&model);
        let last_good = selection::last_good(&aliases, mirrored);
        let newest = self.mlflow().newest(name, self.registry.versions_max).await.map_err(registry_error)?;
        let mut known: BTreeMap<Version, ModelVersion> =
            newest.into_iter().map(|version| (version.number, version)).collect();
        for number in selection::wanted(known.keys().rev().copied().collect::<Vec<_>>(), &aliases, &last_good) {
            if !known.contains_key(&number)
                && let Some(version) = self.mlflow().version(name, number).await.map_err(registry_error)?
            {
                known.insert(number, version);
            }
        }
        let wanted = selection::wanted(known.keys().rev().copied(), &aliases, &last_good);
        let (mut versions, mut missing) = (BTreeMap::new(), Vec::new());
        for (number, version) in known.into_iter().filter(|(number, _)| wanted.contains(number)) {
            match selection::decide(&version, mirrored, again) {
                VersionDecision::Unchanged(file) | VersionDecision::Refused(file) => {
                    drop(versions.insert(number, file))
                }
                VersionDecision::Fetch(digest) => missing.push((version, digest)),
            }
        }
        let is_empty = versions.is_empty() && missing.is_empty();
        let plan = Plan { name: name.clone(), model, aliases, last_good, versions, missing };
        Ok((!is_empty).then_some(plan))
    }

    /// Gathers the files of a version in `staged`. The small files first: most of what can be wrong shows there.
    async fn fetch(
        &self,
        name: &ModelName,
        version: &ModelVersion,
        digest: Sha256Digest,
        staged: &TempDir,
    ) -> Result<Fetched, FetchError> {
        let artifacts = self.mlflow().artifacts(name, version.number).await;
        let folder = artifacts.map_err(|error| FetchError::Failed(self.registry.registry_error(error)))?.map_err(|uri| {
            let shown: String = uri.chars().take(200).collect();
            let detail = format!("its files lie at {shown:?}, and only what MLflow itself keeps (mlflow-artifacts:/…) is fetched; log the model through MLflow");
            FetchError::Refused(LoadFault::new(Reason::Artifact, detail))
        })?;
        let mlmodel = self.read(&folder, "MLmodel", MLMODEL_BYTES_MAX, Reason::Manifest).await?;
        let mlmodel = mlmodel.ok_or_else(|| missing(Reason::Artifact, "MLmodel"))?;
        let mlmodel = MlModel::parse(&mlmodel).map_err(FetchError::Refused)?;
        let declared = self.read(&folder, declaration::FILE, declaration::BYTES_MAX, Reason::Manifest).await?;
        let declared = declared.map(|text| Declaration::parse(&text)).transpose().map_err(FetchError::Refused)?;
        let declared = declared.unwrap_or_default();
        let signature = declared.signature(mlmodel.signature).map_err(FetchError::Refused)?;
        match self.read(&folder, "golden.json", GOLDEN_BYTES_MAX, Reason::Golden).await? {
            Some(golden) => {
                let written = fs::write(staged.path().join("golden.json"), golden).await;
                written.map_err(|error| FetchError::Failed(RefreshError::Mirror(error)))?;
            }
            None if self.registry.limits.golden_required => return Err(missing(Reason::Golden, "golden.json")),
            None => {}
        }
        let digests = self.download(&folder, &mlmodel.file, &declared, staged).await?;
        let found = digests.whole();
        if found == digest {
            return Ok(Fetched { digests, signature });
        }
        let whose = match &*digests.data.keys().map(|name| &**name).collect::<Vec<_>>() {
            [] => mlmodel.file,
            names => format!("{} with {}", mlmodel.file, names.join(", ")),
        };
        let detail = format!("{whose}: its SHA-256 is {found}, but the tag sha256 in the registry is {digest}");
        Err(FetchError::Refused(LoadFault::new(Reason::Digest, detail)))
    }

    /// The model file and those with its weights, which together may be as long as one model file.
    async fn download(
        &self,
        folder: &ArtifactPath,
        model: &str,
        declared: &Declaration,
        staged: &TempDir,
    ) -> Result<FileDigests, FetchError> {
        let mut left = self.registry.limits.file_bytes_max;
        let mut digests = BTreeMap::new();
        let weights = declared.data.keys().map(|name| (&**name, &**name));
        for (file, name) in [(model, MODEL)].into_iter().chain(weights) {
            let path = staged.path().join(name);
            let found = self.storage()?.download(folder, file, &path, left).await;
            let found = found.map_err(|error| self.storage_error(file, Reason::Artifact, error))?;
            digests.insert(name, found.ok_or_else(|| missing(Reason::Artifact, file))?);
            let length =
                fs::metadata(&path).await.map_err(|error| FetchError::Failed(RefreshError::Mirror(error)))?.len();
            left = left.saturating_sub(length);
        }
        for (name, wanted) in &declared.data {
            if digests.get(&**name) != Some(wanted) {
                let detail = format!("{name}: its SHA-256 is not the {wanted} that {} declares", declaration::FILE);
                return Err(FetchError::Refused(LoadFault::new(Reason::Digest, detail)));
            }
        }
        let model = digests.get(MODEL).copied().ok_or_else(|| missing(Reason::Artifact, model))?;
        Ok(FileDigests { model, data: declared.data.clone() })
    }

    async fn read(
        &self,
        folder: &ArtifactPath,
        file: &str,
        bytes_max: u64,
        reason: Reason,
    ) -> Result<Option<Vec<u8>>, FetchError> {
        self.storage()?.read(folder, file, bytes_max).await.map_err(|error| self.storage_error(file, reason, error))
    }

    /// A file that is too long refuses the version; every other error is tried again.
    fn storage_error(&self, file: &str, reason: Reason, error: HttpError) -> FetchError {
        match error {
            HttpError::Https(HttpsError::TooLong(max)) => FetchError::Refused(LoadFault::new(
                reason,
                format!("{file}: more than the {max} bytes that are allowed"),
            )),
            HttpError::Disk(error) => FetchError::Failed(RefreshError::Mirror(error)),
            source => {
                FetchError::Failed(RefreshError::Storage { url: self.registry.bucket.base_url().clone(), source })
            }
        }
    }
}

fn missing(reason: Reason, file: &str) -> FetchError {
    let detail = format!("{file}: there is no such file beside MLmodel in the registry; log the version again with it");
    FetchError::Refused(LoadFault::new(reason, detail))
}

/// Those whose names can be served, as many as can be. The others are left out.
pub(super) fn index_by_name(models: Vec<RegisteredModel>) -> BTreeMap<ModelName, RegisteredModel> {
    let mut named: BTreeMap<ModelName, RegisteredModel> =
        models.into_iter().filter_map(|model| Some((ModelName::parse(&model.name)?, model))).collect();
    while named.len() > MODELS_MAX {
        named.pop_last();
    }
    named
}
