//! `rampart models adopt`: a version that was logged by MLflow's own client gets what is missing of it, so that it serves.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

use super::{
    declaration::{DECLARATION, declaration},
    inspect::Inspected,
    registered::{self, ModelVersion, RegisteredModel},
    registration::{CompleteVersion, RegistrationOptions},
    registry::{Artifact, FILE_BYTES_MAX, Folder, Registry},
};

const MLMODEL: &str = "MLmodel";
const GOLDEN: &str = "golden.json";
/// What MLflow writes beside a model that is no part of it.
const NO_WEIGHTS: &[&str] = &[
    "conda.yaml",
    "input_example.json",
    "python_env.yaml",
    "requirements.txt",
    "serving_input_example.json",
    "registered_model_meta",
    MLMODEL,
    GOLDEN,
    DECLARATION,
];
const MLMODEL_BYTES_MAX: u64 = 256 << 10;

/// Options of `rampart models adopt`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The registered model.
    name: String,
    /// The number of its version.
    version: u64,
    #[command(flatten)]
    options: RegistrationOptions,
}

/// What is wanted of an `MLmodel`.
#[derive(Deserialize)]
struct MlModel {
    flavors: Flavors,
}

#[derive(Deserialize)]
struct Flavors {
    onnx: Option<Onnx>,
}

#[derive(Deserialize)]
struct Onnx {
    data: Option<String>,
}

/// Adds what is missing, waits until the version serves, and prints how to call it. What is there stays as it is.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { name, version, options } = arguments;
    let registry = options.open(name)?;
    let model = RegisteredModel::find(&registry, name).await?;
    let model = model.with_context(|| format!("MLflow has no registered model {name}"))?;
    let found = ModelVersion::find(&registry, name, *version).await?;
    let found = found.with_context(|| format!("{name} has no version {version} in MLflow"))?;
    ensure!(found.status == "READY", "{name}: MLflow says that version {version} is {}, and not READY", found.status);
    let folder = registered::folder(&registry, name, *version).await?;
    let artifacts = registry.list(&folder).await?;
    let fetched = fetch(&registry, &folder, &artifacts).await?;
    let inspected = options
        .inspect(&fetched.path().join("model.onnx"))
        .with_context(|| format!("{name}: version {version} cannot be served"))?;
    if let Some(digest) = found.digest().filter(|digest| !digest.eq_ignore_ascii_case(&inspected.digest)) {
        bail!(
            "{name}: version {version} has the tag sha256 {digest}, but its files have the SHA-256 {}: either is wrong, and nothing is overwritten",
            inspected.digest
        );
    }
    let added = complete(&registry, &folder, &artifacts, &inspected).await?;
    if found.digest().is_none() {
        registered::set_digest(&registry, name, *version, &inspected.digest).await?;
    }
    let done = [format!("{name}: version {version} has {added} (SHA-256 {})", inspected.digest)];
    let complete = CompleteVersion { name, number: *version, model: Some(&model), inspected: &inspected, done: &done };
    options.finish(&registry, complete).await
}

/// Fetches the model as `model.onnx`, and all that may hold weights of it.
async fn fetch(registry: &Registry, folder: &Folder, artifacts: &[Artifact]) -> anyhow::Result<TempDir> {
    let into = tempfile::tempdir().context("cannot make a temporary folder")?;
    ensure!(has(artifacts, MLMODEL), "it has no MLmodel: log the model with mlflow.onnx.log_model");
    let described = into.path().join(MLMODEL);
    registry.download(folder, MLMODEL, &described, MLMODEL_BYTES_MAX).await?;
    let model = model_file(&described)?;
    ensure!(has(artifacts, &model), "MLmodel says that the model is in {model:?}, and there is no such file");
    let mut left = FILE_BYTES_MAX;
    for artifact in artifacts.iter().filter(|artifact| !artifact.is_dir && !NO_WEIGHTS.contains(&&*artifact.path)) {
        ensure!(is_plain(&artifact.path), "{:?} is no name of a file that can be served", artifact.path);
        let name = if artifact.path == model { "model.onnx" } else { &artifact.path };
        left -= registry.download(folder, &artifact.path, &into.path().join(name), left).await?;
    }
    Ok(into)
}

/// The name of the model file, by the flavor onnx.
fn model_file(mlmodel: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(mlmodel).context("cannot read MLmodel")?;
    let described: MlModel = serde_saphyr::from_str(&text)
        .map_err(|error| anyhow::anyhow!("MLmodel: {}", error.to_string().lines().next().unwrap_or_default()))?;
    let onnx = described
        .flavors
        .onnx
        .context("it has no flavor onnx, and nothing else is served: log the model with mlflow.onnx.log_model")?;
    Ok(onnx.data.unwrap_or_else(|| "model.onnx".to_owned()))
}

/// Adds the golden example and the declaration where there is none, and says in words what was added.
async fn complete(
    registry: &Registry,
    folder: &Folder,
    artifacts: &[Artifact],
    inspected: &Inspected,
) -> anyhow::Result<String> {
    let files = [(GOLDEN, inspected.golden.to_string()), (DECLARATION, declaration(inspected)?)];
    let mut added = Vec::new();
    for (name, text) in files {
        if !has(artifacts, name) {
            registry.upload(folder, name, text.into_bytes()).await?;
            added.push(name);
        }
    }
    Ok(if added.is_empty() { "all that it needs".to_owned() } else { format!("now {}", added.join(" and ")) })
}

fn has(artifacts: &[Artifact], name: &str) -> bool {
    artifacts.iter().any(|artifact| !artifact.is_dir && artifact.path == name)
}

/// One harmless file in a folder.
fn is_plain(name: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | ':' | '=' | ' ');
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.chars().all(harmless)
}
