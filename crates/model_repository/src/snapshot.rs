//! One moment of the repository, as callers see it.

use std::{collections::BTreeMap, sync::Arc};

use engine::LoadFault;
use problem::{Kind, Problem};

use crate::{
    manifest::{CHAMPION, Manifest},
    metrics,
    model::Model,
    names::{ModelName, NAME_RULE, Version},
};

/// All models at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    pub(crate) models: BTreeMap<ModelName, Arc<ModelEntry>>,
    /// Folders with a `model.toml` whose names cannot be those of models.
    pub(crate) misnamed: Vec<String>,
    /// Whether the folder was read once from end to end.
    pub(crate) scanned: bool,
}

/// One model at one moment.
#[derive(Clone, Default)]
pub struct ModelEntry {
    /// As `model.toml` has it.
    pub description: String,
    /// As declared, or as before where only the version before serves. A target may not serve: then the alias does not.
    pub(crate) aliases: BTreeMap<String, Version>,
    pub(crate) versions: BTreeMap<Version, Slot>,
    manifest_fault: Option<LoadFault>,
    is_unloaded: bool,
}

/// One version at one moment. It can serve and have a fault: then an earlier file of it serves.
#[derive(Clone, Default)]
pub(crate) struct Slot {
    pub(crate) serving: Option<Arc<Model>>,
    pub(crate) fault: Option<LoadFault>,
}

/// One line of the repository index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// Of the model.
    pub name: String,
    /// Empty if not even the versions can be read.
    pub version: String,
    /// Whether it serves as declared.
    pub state: ServingState,
    /// Why it does not.
    pub reason: String,
}

/// What the index says of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "UPPERCASE")]
pub enum ServingState {
    /// It serves as declared.
    Ready,
    /// It does not; an earlier load of it may serve.
    Unavailable,
}

// === impl Snapshot ===

impl Snapshot {
    /// Whether calls can be answered: the folder was read, and of its models one serves at least, or none is to.
    pub fn is_ready(&self) -> bool {
        let mut models = self.models.values().filter(|entry| !entry.is_unloaded()).peekable();
        self.scanned && (models.peek().is_none() || models.any(|entry| entry.default_version().is_some()))
    }

    /// Whether the folder was read, and there was no model in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.scanned && self.models.is_empty()
    }

    /// Whether a model that was not unloaded serves otherwise than its folder declares.
    pub(crate) fn has_faults(&self) -> bool {
        self.scanned && (!self.misnamed.is_empty() || self.models.values().any(|entry| entry.has_faults()))
    }

    /// The model version that a call means.
    pub fn resolve(&self, name: &str, version: &str) -> Result<Arc<Model>, Problem> {
        let entry = match self.models.get(name) {
            Some(entry) => entry,
            None if self.scanned => return Err(unknown_model(name)),
            None => return Err(Problem::unavailable("the models are still being loaded")),
        };
        entry.resolve(name, version)
    }

    /// Every version of every model, or only those of one.
    pub fn serving(&self, name: &str, version: &str) -> Result<Vec<Arc<Model>>, Problem> {
        if name.is_empty() {
            return Ok(self.models.values().flat_map(|entry| entry.serving().cloned()).collect());
        }
        if !version.is_empty() {
            return Ok(vec![self.resolve(name, version)?]);
        }
        let entry = self.models.get(name).ok_or_else(|| unknown_model(name))?;
        Ok(entry.serving().cloned().collect())
    }

    /// One model.
    pub fn entry(&self, name: &str) -> Option<&Arc<ModelEntry>> {
        self.models.get(name)
    }

    /// The repository index.
    pub fn index(&self, only_ready: bool) -> Vec<IndexRow> {
        let misnamed = self.misnamed.iter().map(|folder| IndexRow {
            name: folder.clone(),
            version: String::new(),
            state: ServingState::Unavailable,
            reason: format!("this folder cannot be the name of a model: {NAME_RULE}"),
        });
        let rows = self.models.iter().flat_map(|(name, entry)| entry.index(name)).chain(misnamed);
        rows.filter(|row| !only_ready || row.state == ServingState::Ready).collect()
    }

    /// Says in the metrics what serves now. What `old` had and this has not is in them no more.
    pub(crate) fn measure(&self, old: &Self) {
        for (name, version, _) in old.slots() {
            if self.models.get(name).is_none_or(|entry| !entry.versions.contains_key(&version)) {
                metrics::end_series(name, Some(version));
            }
        }
        for name in old.models.keys().filter(|name| !self.models.contains_key(*name)) {
            metrics::end_series(name, None);
        }
        for (name, version, slot) in self.slots() {
            metrics::set_model_serves(name, version, slot.serving.is_some());
        }
        metrics::set_models_loaded(self.models.values().map(|entry| entry.serving().count()).sum());
    }

    fn slots(&self) -> impl Iterator<Item = (&ModelName, Version, &Slot)> {
        self.models
            .iter()
            .flat_map(|(name, entry)| entry.versions.iter().map(move |(version, slot)| (name, *version, slot)))
    }
}

// === impl ModelEntry ===

impl ModelEntry {
    /// A model after a load; `keeps_undeclared`: what served before and is no longer declared stays.
    pub(crate) fn of(
        manifest: &Manifest,
        mut versions: BTreeMap<Version, Slot>,
        old: &Self,
        keeps_undeclared: bool,
    ) -> Self {
        if keeps_undeclared {
            for (version, slot) in &old.versions {
                versions.entry(*version).or_insert_with(|| slot.clone());
            }
        }
        let serves = |version: &Version| versions.get(version).is_some_and(|slot| slot.serving.is_some());
        let target = |alias: &str, wanted: Version| {
            let last_good = manifest.last_good.get(alias).copied();
            [Some(wanted), old.meant_by(alias), last_good].into_iter().flatten().find(&serves).unwrap_or(wanted)
        };
        let mut aliases: BTreeMap<String, Version> =
            manifest.aliases.iter().map(|(alias, wanted)| (alias.clone(), target(alias, *wanted))).collect();
        if keeps_undeclared {
            for (alias, version) in &old.aliases {
                aliases.entry(alias.clone()).or_insert(*version);
            }
        }
        Self { description: manifest.description.clone(), aliases, versions, manifest_fault: None, is_unloaded: false }
    }

    /// The same model with its folder in a state that cannot be read.
    pub(crate) fn with_manifest_fault(&self, fault: LoadFault) -> Self {
        Self { manifest_fault: Some(fault), is_unloaded: false, ..self.clone() }
    }

    /// The same model, out of service.
    pub(crate) fn unloaded(&self) -> Self {
        let versions = self.versions.keys().map(|version| (*version, Slot::default())).collect();
        Self {
            aliases: BTreeMap::new(),
            versions,
            manifest_fault: None,
            is_unloaded: true,
            description: self.description.clone(),
        }
    }

    /// A model that is not to be loaded, as its folder declares it.
    pub(crate) fn left_unloaded(manifest: &Manifest) -> Self {
        let versions = manifest.versions.keys().map(|version| (*version, Slot::default())).collect();
        Self { description: manifest.description.clone(), versions, is_unloaded: true, ..Self::default() }
    }

    /// What a call without a version means: the champion where one is declared, else the highest that serves. A champion
    /// that does not serve is not replaced: a version that was not promoted must not answer for it.
    pub(crate) fn default_version(&self) -> Option<&Arc<Model>> {
        match self.aliases.get(CHAMPION) {
            Some(champion) => self.versions.get(champion)?.serving.as_ref(),
            None => self.versions.values().rev().find_map(|slot| slot.serving.as_ref()),
        }
    }

    /// What an alias meant so far; who declared no champion had one all the same.
    fn meant_by(&self, alias: &str) -> Option<Version> {
        let default = || self.default_version().filter(|_| alias == CHAMPION).map(|model| model.identity.version);
        self.aliases.get(alias).copied().or_else(default)
    }

    /// The aliases whose version serves, with the version that answers for them.
    pub(crate) fn aliases_that_serve(&self) -> BTreeMap<String, Version> {
        let serves = |version: &Version| self.versions.get(version).is_some_and(|slot| slot.serving.is_some());
        self.aliases.iter().filter(|(_, version)| serves(version)).map(|(alias, to)| (alias.clone(), *to)).collect()
    }

    /// Whether a caller took it out of service.
    pub(crate) fn is_unloaded(&self) -> bool {
        self.is_unloaded
    }

    fn has_faults(&self) -> bool {
        let is_faulty = || self.manifest_fault.is_some() || self.versions.values().any(|slot| slot.fault.is_some());
        !self.is_unloaded && is_faulty()
    }

    fn resolve(&self, name: &str, version: &str) -> Result<Arc<Model>, Problem> {
        if self.is_unloaded {
            return Err(unloaded_model(name));
        }
        if version.is_empty() {
            return self.default_version().cloned().ok_or_else(|| self.unavailable(name, self.aliases.get(CHAMPION)));
        }
        let named = Version::parse(version);
        let number = named.or_else(|| self.aliases.get(version).copied());
        let Some((number, slot)) = number.and_then(|number| Some((number, self.versions.get(&number)?))) else {
            let shown: String = version.chars().take(64).collect();
            return Err(Problem::new(Kind::NotFound, format!("the model {name:?} has no version or alias {shown:?}")));
        };
        slot.serving.clone().ok_or_else(|| {
            match slot.fault.as_ref().filter(|fault| named.is_some() && fault.reason.is_of_the_version()) {
                Some(fault) => wrong_version(name, number, fault),
                None => self.unavailable(name, Some(&number)),
            }
        })
    }

    fn unavailable(&self, name: &str, version: Option<&Version>) -> Problem {
        let what = version.map_or_else(
            || format!("the model {name:?}"),
            |version| format!("version {version} of the model {name:?}"),
        );
        let fault =
            version.and_then(|version| self.versions.get(version)?.fault.as_ref()).or(self.manifest_fault.as_ref());
        Problem::unavailable(match (fault, version) {
            (Some(fault), _) => format!("{what} does not serve: {fault}"),
            (None, Some(_)) => format!("{what} is not loaded"),
            (None, None) => self.none_serves(name),
        })
    }

    /// Why there is no version for a call without one: the highest that was refused tells most.
    fn none_serves(&self, name: &str) -> String {
        let refused = |(version, slot): (&Version, &Slot)| {
            slot.fault
                .as_ref()
                .map(|fault| format!("no version of the model {name:?} serves; version {version}: {fault}"))
        };
        let why = self.versions.iter().rev().find_map(refused);
        why.unwrap_or_else(|| format!("no version of the model {name:?} serves"))
    }

    /// The aliases of a version.
    pub fn aliases_of(&self, version: Version) -> impl Iterator<Item = &str> {
        self.aliases.iter().filter(move |(_, target)| **target == version).map(|(alias, _)| alias.as_str())
    }

    /// The versions that serve, lowest first.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.versions.values().filter_map(|slot| slot.serving.as_ref())
    }

    fn index(&self, name: &ModelName) -> Vec<IndexRow> {
        let row = |version: String, state, reason| IndexRow { name: name.to_string(), version, state, reason };
        let unavailable = |version: String, serving: bool, fault: &LoadFault| {
            let prefix = if serving { "an earlier load serves on: " } else { "" };
            row(version, ServingState::Unavailable, format!("{prefix}{fault}"))
        };
        if self.versions.is_empty() {
            return self.manifest_fault.iter().map(|fault| unavailable(String::new(), false, fault)).collect();
        }
        let rows = self.versions.iter().map(|(version, slot)| {
            let version = version.to_string();
            match (self.manifest_fault.as_ref().or(slot.fault.as_ref()), &slot.serving) {
                (Some(fault), serving) => unavailable(version, serving.is_some(), fault),
                (None, Some(_)) => row(version, ServingState::Ready, String::new()),
                (None, None) => row(version, ServingState::Unavailable, "unloaded".to_owned()),
            }
        });
        rows.collect()
    }
}

// === impl ServingState ===

impl ServingState {
    /// As the protocol writes it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// The problem of a version that is called by its number and was refused for what it is. It is the caller's: an alias promises
/// that its version serves, a number does not.
fn wrong_version(name: &str, version: Version, fault: &LoadFault) -> Problem {
    Problem::new(Kind::Conflict, format!("version {version} of the model {name:?} was refused: {fault}"))
}

/// The problem of a model that a caller took out of service.
pub(crate) fn unloaded_model(name: &str) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!("the model {name:?} is unloaded: `rampart models load` or POST /v2/repository/models/…/load loads it"),
    )
}

/// The problem of a name that no model has. It is echoed no further than a name can be long.
pub(crate) fn unknown_model(name: &str) -> Problem {
    let shown: String = name.chars().take(64).collect();
    Problem::new(Kind::NotFound, format!("there is no model {shown:?}"))
}
