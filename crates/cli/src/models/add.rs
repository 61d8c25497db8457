//! `rampart models add`: from a model file to a served model. It asks nothing and overwrites nothing.

use std::path::PathBuf;

use bootstrap::say;
use http::Method;
use serde_json::json;

use super::{
    call_lines,
    folder::{CHAMPION, ModelsFolder, NewVersion},
    inspect::{self, Inspected},
    name,
    running::Running,
};

/// Options of `rampart models add`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The model file (ONNX). Files with its weights are taken from beside it.
    path: PathBuf,
    /// What the model is called; without it, like its file or, if that is model.onnx, like its folder.
    #[arg(long)]
    name: Option<String>,
    /// The number of the version; without it, the next one.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// An alias that means this version from now on. The first version of a model is its champion.
    #[arg(long)]
    alias: Option<String>,
    /// Records for the golden example: .json or .csv as /api/models/{model}/predict takes them, or .npy, .npz or .parquet with arrays by the
    /// same names. Without it they are drawn.
    #[arg(long)]
    sample: Option<PathBuf>,
    #[command(flatten)]
    platform: super::running::Options,
}

/// Adds the version, loads it on every replica, and prints how to call it. What does not load is taken out again.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let running = Running::read(&arguments.platform)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => name::of(&arguments.path)?,
    };
    let folder = ModelsFolder::open(&running.models, &name)?;
    let version = folder.free_version(arguments.version)?;
    let inspected = inspect::run(&arguments.path, arguments.sample.as_deref(), &running.onnxruntime)?;
    let added = folder.add(&NewVersion {
        version,
        alias: arguments.alias.as_deref(),
        model: &arguments.path,
        inspected: &inspected,
    })?;
    if let Err(refusal) = load(&running, &name).await {
        added.take_back()?;
        // What served before is declared again; a model that was not there before is forgotten.
        drop(load(&running, &name).await);
        return Err(refusal);
    }
    say(&format!("{name}: version {version} serves on every replica (SHA-256 {})", inspected.sha256));
    if arguments.sample.is_none() {
        say("its golden example was drawn; with --sample FILE it is made of records of yours");
    }
    let is_champion = arguments.alias.as_deref() == Some(CHAMPION) || (arguments.alias.is_none() && folder.is_new());
    if !is_champion {
        say(&format!("a call without a version means the {CHAMPION} as before, and not version {version}"));
    }
    say_features(&inspected);
    for line in call_lines::of(&running.callee()?, &name, version, &inspected)? {
        say(&line);
    }
    Ok(())
}

/// The names by which records are sent, if the model has any.
pub(crate) fn say_features(inspected: &Inspected) {
    let features: Vec<&str> = inspected.inputs.iter().flat_map(|input| &input.columns).map(String::as_str).collect();
    if !features.is_empty() {
        say(&format!("its features, in this order: {}", features.join(", ")));
    }
}

async fn load(running: &Running, name: &str) -> anyhow::Result<()> {
    let path = format!("/v2/repository/models/{name}/load");
    let answer =
        running.client()?.call(Method::POST, &path, Some(&running.token("engineer")?), Some(&json!({}))).await?;
    answer.expect_success(&format!("loading {name}")).map(drop)
}
