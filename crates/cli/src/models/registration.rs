//! What `register` and `adopt` do alike: which registry is meant, and what follows when a version has all that it needs.

use std::path::{Path, PathBuf};

use bootstrap::say;

use super::{
    folder::CHAMPION,
    inspect::{self, Inspected},
    name,
    registered::{self, RegisteredModel},
    registry::{self, Registry},
    served,
};
use crate::library::Library;

/// RegistrationOptions of both.
#[derive(clap::Args)]
pub(crate) struct RegistrationOptions {
    /// An alias that means this version from now on. Where no version is the champion, this one becomes it.
    #[arg(long)]
    alias: Option<String>,
    /// Records for the golden example: a .json, .csv, .npy, .npz or .parquet file, as for `add`. Without it they are drawn.
    #[arg(long)]
    sample: Option<PathBuf>,
    /// Do not wait until the version serves.
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    library: Library,
    #[command(flatten)]
    registry: registry::Options,
}

/// A version that has all that it needs to be served.
pub(crate) struct CompleteVersion<'a> {
    pub(crate) name: &'a str,
    pub(crate) number: u64,
    /// The registered model as it was before.
    pub(crate) model: Option<&'a RegisteredModel>,
    pub(crate) inspected: &'a Inspected,
    /// What was done, a line each.
    pub(crate) done: &'a [String],
}

// === impl RegistrationOptions ===

impl RegistrationOptions {
    /// The registry, for a model of this name.
    pub(crate) fn open(&self, name: &str) -> anyhow::Result<Registry> {
        name::check(name)?;
        Registry::new(&self.registry)
    }

    /// What a model file takes and gives, with a golden example of the sample.
    pub(crate) fn inspect(&self, model: &Path) -> anyhow::Result<Inspected> {
        inspect::run(model, self.sample.as_deref(), &self.library)
    }

    /// Whether the golden example was drawn.
    pub(crate) fn is_drawn(&self) -> bool {
        self.sample.is_none()
    }

    /// Sets the alias, waits until the version serves, and prints how to call it.
    pub(crate) async fn finish(&self, registry: &Registry, version: CompleteVersion<'_>) -> anyhow::Result<()> {
        let CompleteVersion { name, number, model, inspected, done } = version;
        let has_champion = model.is_some_and(RegisteredModel::has_champion);
        let alias = self.alias.as_deref().or((!has_champion).then_some(CHAMPION));
        if let Some(alias) = alias {
            registered::set_alias(registry, name, alias, number).await?;
        }
        for line in done {
            say(line);
        }
        let platform = registry.platform();
        if !self.no_wait {
            served::wait(platform, name, number).await?;
            say(&format!("{name}: version {number} serves"));
        }
        served::say_calls(platform, name, number, alias == Some(CHAMPION), inspected)
    }
}
