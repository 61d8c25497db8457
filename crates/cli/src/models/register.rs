//! `rampart models register`: from a model file to a version in MLflow that is served. It asks nothing and overwrites nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bootstrap::say;

use super::{
    declaration::{DECLARATION, declaration, mlmodel},
    folder::CHAMPION,
    inspect::{self, Inspected},
    name,
    registered::{self, ModelVersion, RegisteredModel},
    registry::{Folder, Options, Registry},
    served,
};
use crate::library::Library;

/// Options of `rampart models register`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The model file (ONNX). Files with its weights are taken from beside it.
    path: PathBuf,
    /// What the model is called; without it, like its file or, if that is model.onnx, like its folder.
    #[arg(long)]
    name: Option<String>,
    /// An alias that means this version from now on. The first version of a model is its champion.
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
    registry: Options,
}

/// Registers a new version, waits until it serves, and prints how to call it.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => name::of(&arguments.path)?,
    };
    name::check(&name)?;
    let registry = Registry::new(&arguments.registry)?;
    let inspected = inspect::run(&arguments.path, arguments.sample.as_deref(), &arguments.library)?;
    let model = RegisteredModel::find(&registry, &name).await?;
    if let Some(same) = ModelVersion::with_digest(&registry, &name, &inspected.digest).await? {
        bail!(
            "version {same} of {name} has these very files (SHA-256 {}); nothing is registered twice",
            inspected.digest
        );
    }
    let (model_id, folder) = registered::log_model(&registry, &name, &inspected.digest).await?;
    upload(&registry, &folder, &arguments.path, &model_id, &inspected).await?;
    let version = registered::register(&registry, &name, model.is_none(), &model_id, &inspected.digest).await?;
    let has_champion = model.as_ref().is_some_and(RegisteredModel::has_champion);
    let alias = arguments.alias.as_deref().or((!has_champion).then_some(CHAMPION));
    if let Some(alias) = alias {
        registered::set_alias(&registry, &name, alias, version).await?;
    }
    say(&format!("{name}: version {version} is in MLflow (SHA-256 {})", inspected.digest));
    if arguments.sample.is_none() {
        say("its golden example was drawn; with --sample FILE it is made of records of yours");
    }
    let platform = registry.platform();
    if !arguments.no_wait {
        served::wait(platform, &name, version).await?;
        say(&format!("{name}: version {version} serves"));
    }
    served::say_calls(platform, &name, version, alias == Some(CHAMPION), &inspected)
}

/// Every file of the version. The model is made known only when all of them are there.
async fn upload(
    registry: &Registry,
    folder: &Folder,
    path: &Path,
    model_id: &str,
    inspected: &Inspected,
) -> anyhow::Result<()> {
    let beside = path.parent().unwrap_or(Path::new(""));
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    registry.upload(folder, "model.onnx", read(path)?).await?;
    for name in inspected.data.keys() {
        registry.upload(folder, name, read(&beside.join(name))?).await?;
    }
    registry.upload(folder, "golden.json", inspected.golden.to_string().into_bytes()).await?;
    registry.upload(folder, DECLARATION, declaration(inspected)?.into_bytes()).await?;
    registry.upload(folder, "MLmodel", mlmodel(model_id, inspected).into_bytes()).await
}
