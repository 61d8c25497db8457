//! `rampart models register`: from a model file to a version in MLflow that is served. It asks nothing and overwrites nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{
    declaration::{DECLARATION, declaration, mlmodel},
    inspect::Inspected,
    name,
    registered::{self, ModelVersion, RegisteredModel},
    registration::{CompleteVersion, RegistrationOptions},
    registry::{Folder, Registry},
};

/// Options of `rampart models register`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The model file (ONNX). Files with its weights are taken from beside it.
    path: PathBuf,
    /// What the model is called; without it, like its file or, if that is model.onnx, like its folder.
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    options: RegistrationOptions,
}

/// Registers a new version, waits until it serves, and prints how to call it.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => name::of(&arguments.path)?,
    };
    let options = &arguments.options;
    let registry = options.open(&name)?;
    let inspected = options.inspect(&arguments.path)?;
    let model = RegisteredModel::find(&registry, &name).await?;
    if let Some(same) = ModelVersion::with_digest(&registry, &name, &inspected.digest).await? {
        bail!(
            "version {same} of {name} has these very files (SHA-256 {}); nothing is registered twice",
            inspected.digest
        );
    }
    let (model_id, folder) = registered::log_model(&registry, &name, &inspected.digest).await?;
    upload(&registry, &folder, &arguments.path, &model_id, &inspected).await?;
    let number = registered::register(&registry, &name, model.is_none(), &model_id, &inspected.digest).await?;
    let mut done = vec![format!("{name}: version {number} is in MLflow (SHA-256 {})", inspected.digest)];
    if options.is_drawn() {
        done.push("its golden example was drawn; with --sample FILE it is made of records of yours".to_owned());
    }
    let version = CompleteVersion { name: &name, number, model: model.as_ref(), inspected: &inspected, done: &done };
    options.finish(&registry, version).await
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
