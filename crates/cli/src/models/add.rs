//! `rampart models add`: from a model file to a served model. It asks nothing and overwrites nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bootstrap::say;
use http::Method;
use serde_json::json;

use super::{
    call_lines,
    folder::{CHAMPION, ModelsFolder, NewVersion},
    inspect,
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
    /// Records for the golden example: a .json or .csv file as /api/models/{model}/predict takes them. Without it they are drawn.
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
        None => name_of(&arguments.path)?,
    };
    let folder = ModelsFolder::open(&running.models, &name)?;
    let version = folder.free_version(arguments.version)?;
    let inspected = inspect::run(&arguments.path, arguments.sample.as_deref(), &running)?;
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
    let features: Vec<&str> = inspected.inputs.iter().flat_map(|input| &input.columns).map(String::as_str).collect();
    if !features.is_empty() {
        say(&format!("its features, in this order: {}", features.join(", ")));
    }
    for line in call_lines::of(&running, &name, version, &inspected)? {
        say(&line);
    }
    Ok(())
}

async fn load(running: &Running, name: &str) -> anyhow::Result<()> {
    let path = format!("/v2/repository/models/{name}/load");
    let answer =
        running.client()?.call(Method::POST, &path, Some(&running.token("engineer")?), Some(&json!({}))).await?;
    answer.expect_success(&format!("loading {name}")).map(drop)
}

fn name_of(path: &Path) -> anyhow::Result<String> {
    let stem = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    let absolute = std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    let name = match stem(&absolute) {
        Some(stem) if stem != "model" => Some(stem),
        _ => absolute.parent().and_then(stem),
    };
    let name = name.filter(|name| super::folder::is_model_name(name));
    ensure!(name.is_some(), "{} gives no name for the model: say one with --name", path.display());
    Ok(name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_like_its_file_or_folder() {
        let name = |path: &str| name_of(Path::new(path)).ok();
        assert_eq!(name("/a/churn.onnx").as_deref(), Some("churn"));
        assert_eq!(name("/a/churn/model.onnx").as_deref(), Some("churn"));
        assert_eq!(name("/a/my model.onnx"), None);
        assert_eq!(name("/model.onnx"), None);
    }
}
