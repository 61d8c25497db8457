//! One refresh: ask the registry, fetch what is missing, declare it, have it loaded.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Digest, GOLDEN_BYTES_MAX, LoadFault, Reason, Signature};
use tempfile::TempDir;
use tokio::fs;

use super::{
    MirrorTurn, Outage, Registry,
    bucket::{ArtifactPath, Storage},
    http::{Http, HttpError},
    is_settled,
    mirror::Mirrored,
    mlmodel::{MLMODEL_BYTES_MAX, MlModel},
    rest_api::{MlFlow, ModelVersion, RegisteredModel},
    selection::{self, Judged},
};
use crate::{
    manifest::VersionFile,
    names::{ModelName, Version},
    repository::{MODELS_MAX, Repository},
};

/// The registry and its storage, for one refresh.
pub(super) struct Session<'a> {
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
    missing: Vec<(ModelVersion, Digest)>,
}

/// Why the files of a version are not here.
enum Unfetched {
    /// They cannot be used.
    Refused(LoadFault),
    /// They may come yet.
    Outage(Outage),
}

// === impl Registry ===

impl Registry {
    /// Makes the mirror, and with it the repository, what the registry is. What needs nothing fetched comes first, so that
    /// an alias moves although the storage is away.
    pub(super) async fn refresh(&self, mirror: &mut MirrorTurn, repository: &Repository) -> Result<(), Outage> {
        let session = self.session()?;
        let listed = named(self.listed(&session, mirror).await?);
        let mut plans = Vec::new();
        for (name, model) in &listed {
            plans.extend(session.plan(mirror, name, model.clone(), false).await?);
        }
        let planned: BTreeSet<ModelName> = plans.iter().map(|plan| plan.name.clone()).collect();
        let gone: Vec<ModelName> = mirror.models.keys().filter(|name| !planned.contains(*name)).cloned().collect();
        for name in gone {
            // The pages of a list that changes may leave out what is there.
            let listed = listed.contains_key(&name);
            if listed || session.mlflow().model(&name).await.map_err(|error| self.unasked(error))?.is_none() {
                self.remove(mirror, repository, &name).await?;
            }
        }
        plans.sort_by_key(|plan| !plan.missing.is_empty());
        for plan in plans {
            self.carry_out(&session, mirror, repository, plan).await?;
        }
        Ok(())
    }

    /// Every model of the registry, unless it has lost all of them.
    async fn listed(&self, session: &Session<'_>, mirror: &MirrorTurn) -> Result<Vec<RegisteredModel>, Outage> {
        let listed = session.mlflow().models().await.map_err(|error| self.unasked(error))?;
        if listed.is_empty() && !mirror.models.is_empty() {
            return Err(Outage::Emptied { address: self.address.clone(), served: mirror.models.len() });
        }
        Ok(listed)
    }

    /// The same for one model, whose refused versions get another chance; what is loaded is the caller's to load.
    pub(super) async fn refresh_model(
        &self,
        mirror: &mut MirrorTurn,
        repository: &Repository,
        name: &ModelName,
    ) -> Result<(), Outage> {
        let session = self.session()?;
        let model = session.mlflow().model(name).await.map_err(|error| self.unasked(error))?;
        mirror.look_again(name).await.map_err(Outage::Mirror)?;
        let plan = match model {
            Some(model) => session.plan(mirror, name, model, true).await?,
            None => None,
        };
        match plan {
            Some(plan) => self.write(&session, mirror, plan).await,
            None if mirror.models.contains_key(name) => {
                self.listed(&session, mirror).await?;
                self.remove(mirror, repository, name).await
            }
            None => Ok(()),
        }
    }

    /// Notes what the aliases of a model mean now that it was loaded, for the next process.
    pub(super) async fn remember(
        &self,
        mirror: &mut MirrorTurn,
        repository: &Repository,
        name: &ModelName,
    ) -> Result<(), Outage> {
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
        declared.map_err(Outage::Mirror)
    }

    async fn carry_out(
        &self,
        session: &Session<'_>,
        mirror: &mut MirrorTurn,
        repository: &Repository,
        plan: Plan,
    ) -> Result<(), Outage> {
        let name = plan.name.clone();
        self.write(session, mirror, plan).await?;
        if mirror.models.get(&name).is_none_or(|mirrored| mirrored.is_loaded) {
            return Ok(());
        }
        let turn = repository.take_turn().await.map_err(|problem| Outage::Busy(problem.message()))?;
        let loaded = repository.load_changed(&turn, &name).await;
        drop(turn);
        if let Err(problem) = &loaded {
            tracing::warn!(model = %name, reason = %problem, "model does not serve as the registry has it");
        }
        if is_settled(&loaded) { self.remember(mirror, repository, &name).await } else { Ok(()) }
    }

    /// Fetches what is missing and declares the model, if that changes anything.
    async fn write(&self, session: &Session<'_>, mirror: &mut MirrorTurn, mut plan: Plan) -> Result<(), Outage> {
        for (version, digest) in std::mem::take(&mut plan.missing) {
            let staged = mirror.stage().map_err(Outage::Mirror)?;
            let declared = match session.fetch(&plan.name, &version, digest, &staged).await {
                Ok(signature) => {
                    mirror.put(&plan.name, version.number, staged).map_err(Outage::Mirror)?;
                    tracing::info!(model = %plan.name, version = %version.number, %digest, "model version fetched from the registry");
                    let Signature { inputs, outputs } = signature;
                    VersionFile { sha256: Some(digest), source: Some(version.source), refused: None, inputs, outputs }
                }
                Err(Unfetched::Refused(fault)) => selection::refused(&version, Some(digest), fault),
                Err(Unfetched::Outage(outage)) => return Err(outage),
            };
            plan.versions.insert(version.number, declared);
        }
        let file = selection::manifest(&plan.model, plan.versions, plan.aliases, plan.last_good);
        if mirror.models.get(&plan.name).is_none_or(|mirrored| mirrored.file != file) {
            mirror.declare(&plan.name, &file).map_err(Outage::Mirror)?;
            mirror.models.insert(plan.name, Mirrored { file, is_loaded: false });
        }
        Ok(())
    }

    /// Out of service first, then out of the folder.
    async fn remove(&self, mirror: &mut MirrorTurn, repository: &Repository, name: &ModelName) -> Result<(), Outage> {
        let turn = repository.take_turn().await.map_err(|problem| Outage::Busy(problem.message()))?;
        repository.remove(&turn, name);
        mirror.remove(name).map_err(Outage::Mirror)
    }
}

// === impl Session ===

impl Session<'_> {
    fn mlflow(&self) -> MlFlow<'_> {
        MlFlow { http: &self.http, root: &self.registry.root }
    }

    fn storage(&self) -> Result<Storage<'_>, Unfetched> {
        let credentials = self.registry.credentials().map_err(Unfetched::Outage)?;
        Ok(Storage { http: &self.http, bucket: &self.registry.bucket, credentials })
    }

    /// What the registry says of a model; none if it has no version that is ready.
    async fn plan(
        &self,
        mirror: &MirrorTurn,
        name: &ModelName,
        model: RegisteredModel,
        again: bool,
    ) -> Result<Option<Plan>, Outage> {
        let unasked = |error| self.registry.unasked(error);
        let mirrored = mirror.models.get(name).map(|mirrored| &mirrored.file);
        let aliases = selection::aliases(&model);
        let last_good = selection::last_good(&aliases, mirrored);
        let newest = self.mlflow().newest(name, self.registry.versions_max).await.map_err(unasked)?;
        let mut known: BTreeMap<Version, ModelVersion> =
            newest.into_iter().map(|version| (version.number, version)).collect();
        for number in selection::wanted(known.keys().rev().copied().collect::<Vec<_>>(), &aliases, &last_good) {
            if !known.contains_key(&number)
                && let Some(version) = self.mlflow().version(name, number).await.map_err(unasked)?
            {
                known.insert(number, version);
            }
        }
        let wanted = selection::wanted(known.keys().rev().copied(), &aliases, &last_good);
        let (mut versions, mut missing) = (BTreeMap::new(), Vec::new());
        for (number, version) in known.into_iter().filter(|(number, _)| wanted.contains(number)) {
            match selection::judge(&version, mirrored, again) {
                Judged::Known(file) | Judged::Refused(file) => drop(versions.insert(number, file)),
                Judged::Missing(digest) => missing.push((version, digest)),
            }
        }
        let is_empty = versions.is_empty() && missing.is_empty();
        let plan = Plan { name: name.clone(), model, aliases, last_good, versions, missing };
        Ok((!is_empty).then_some(plan))
    }

    /// Gathers the files of a version in `staged` and returns its signature. The small files first: most of what can be
    /// wrong shows there.
    async fn fetch(
        &self,
        name: &ModelName,
        version: &ModelVersion,
        digest: Digest,
        staged: &TempDir,
    ) -> Result<Signature, Unfetched> {
        let artifacts = self.mlflow().artifacts(name, version.number).await;
        let folder = artifacts.map_err(|error| Unfetched::Outage(self.registry.unasked(error)))?.map_err(|uri| {
            let shown: String = uri.chars().take(200).collect();
            let detail = format!("its files lie at {shown:?}, and only what MLflow itself keeps (mlflow-artifacts:/…) is fetched; log the model through MLflow");
            Unfetched::Refused(LoadFault::new(Reason::Artifact, detail))
        })?;
        let mlmodel = self.read(&folder, "MLmodel", MLMODEL_BYTES_MAX, Reason::Manifest).await?;
        let mlmodel = mlmodel.ok_or_else(|| missing(Reason::Artifact, "MLmodel"))?;
        let mlmodel = MlModel::parse(&mlmodel).map_err(Unfetched::Refused)?;
        match self.read(&folder, "golden.json", GOLDEN_BYTES_MAX, Reason::Golden).await? {
            Some(golden) => {
                let written = fs::write(staged.path().join("golden.json"), golden).await;
                written.map_err(|error| Unfetched::Outage(Outage::Mirror(error)))?;
            }
            None if self.registry.limits.golden_required => return Err(missing(Reason::Golden, "golden.json")),
            None => {}
        }
        let path = staged.path().join("model.onnx");
        let found = self.storage()?.download(&folder, &mlmodel.file, &path, self.registry.limits.file_bytes_max).await;
        let found = found.map_err(|error| self.unread(&mlmodel.file, Reason::Artifact, error))?;
        let found = found.ok_or_else(|| missing(Reason::Artifact, &mlmodel.file))?;
        if found != digest {
            let detail =
                format!("{}: its SHA-256 is {found}, but the tag sha256 in the registry is {digest}", mlmodel.file);
            return Err(Unfetched::Refused(LoadFault::new(Reason::Digest, detail)));
        }
        Ok(mlmodel.signature)
    }

    async fn read(
        &self,
        folder: &ArtifactPath,
        file: &str,
        bytes_max: u64,
        reason: Reason,
    ) -> Result<Option<Vec<u8>>, Unfetched> {
        self.storage()?.read(folder, file, bytes_max).await.map_err(|error| self.unread(file, reason, error))
    }

    /// A file that is too long is the version's fault; everything else is nobody's.
    fn unread(&self, file: &str, reason: Reason, error: HttpError) -> Unfetched {
        match error {
            HttpError::TooLong(max) => Unfetched::Refused(LoadFault::new(
                reason,
                format!("{file}: more than the {max} bytes that are allowed"),
            )),
            HttpError::Disk(error) => Unfetched::Outage(Outage::Mirror(error)),
            source => Unfetched::Outage(Outage::Storage { url: self.registry.bucket.base_url().clone(), source }),
        }
    }
}

fn missing(reason: Reason, file: &str) -> Unfetched {
    let detail = format!("{file}: there is no such file beside MLmodel in the registry; log the version again with it");
    Unfetched::Refused(LoadFault::new(reason, detail))
}

/// Those whose names can be served, as many as can be. The others are told of by [`super::follow`].
pub(super) fn named(models: Vec<RegisteredModel>) -> BTreeMap<ModelName, RegisteredModel> {
    let mut named: BTreeMap<ModelName, RegisteredModel> =
        models.into_iter().filter_map(|model| Some((ModelName::parse(&model.name)?, model))).collect();
    while named.len() > MODELS_MAX {
        named.pop_last();
    }
    named
}
