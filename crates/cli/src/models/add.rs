//! `rampart models add`: from a model file to a served model. It asks nothing and overwrites nothing.

use std::path::PathBuf;

use bootstrap::{api_path::ApiPath, say};
use http::Method;
use serde_json::{Value, json};

use super::{
    call_lines::{self, Callee},
    folder::{CHAMPION, ModelsFolder, NewVersion},
    inspect::{self, Inspected},
    name,
};
use crate::{
    connection::PREDICTING_ROLE,
    output::Output,
    state_file::{Options, Running},
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
    /// Records for the golden example: a .json, .csv, .npy, .npz or .parquet file, by feature name as for /api/models/{model}/predict. Without
    /// it they are drawn.
    #[arg(long)]
    sample: Option<PathBuf>,
    #[command(flatten)]
    platform: Options,
    #[command(flatten)]
    output: Output,
}

/// A version that serves.
struct Served<'a> {
    name: &'a str,
    version: u64,
    inspected: &'a Inspected,
    /// In the order in which its inputs take them.
    features: Vec<&'a str>,
    /// Whether a call without a version means it.
    is_champion: bool,
    has_drawn_example: bool,
}

/// Adds the version, loads it on every replica, and prints how to call it. What does not load is taken out again.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let running = arguments.platform.read()?;
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
    let served = Served {
        name: &name,
        version,
        inspected: &inspected,
        features: inspected.features(),
        is_champion: arguments.alias.as_deref() == Some(CHAMPION) || (arguments.alias.is_none() && folder.is_new()),
        has_drawn_example: arguments.sample.is_none(),
    };
    if arguments.output.is_json() {
        say(&served.document(&running)?.to_string());
        return Ok(());
    }
    for line in served.lines(&running)? {
        say(&line);
    }
    Ok(())
}

// === impl Served ===

impl Served<'_> {
    fn lines(&self, running: &Running) -> anyhow::Result<Vec<String>> {
        let Self { name, version, .. } = self;
        let digest = &self.inspected.sha256;
        let mut lines = vec![format!("{name}: version {version} serves on every replica (SHA-256 {digest})")];
        if self.has_drawn_example {
            lines.push("its golden example was drawn; with --sample FILE it is made of records of yours".to_owned());
        }
        if !self.is_champion {
            lines.push(format!("a call without a version means the {CHAMPION} as before, and not version {version}"));
        }
        if !self.features.is_empty() {
            lines.push(format!("its features, in this order: {}", self.features.join(", ")));
        }
        lines.extend(call_lines::of(&callee(running)?, name, *version, self.inspected)?);
        Ok(lines)
    }

    /// What `--json` prints.
    fn document(&self, running: &Running) -> anyhow::Result<Value> {
        let version = self.version.to_string();
        let path = ApiPath::from("/api/models").segment(self.name)?.then("/versions").segment(&version)?;
        Ok(json!({
            "model": self.name,
            "version": version,
            "sha256": self.inspected.sha256,
            "champion": self.is_champion,
            "golden_example": if self.has_drawn_example { "drawn" } else { "sample" },
            "features": self.features,
            "predict_url": format!("{}{}", running.front, path.then("/predict")),
        }))
    }
}

/// Where it is called, with a token that may predict and not more.
fn callee(running: &Running) -> anyhow::Result<Callee<'_>> {
    let (front, ca_file) = (&*running.front, &*running.ca_file);
    Ok(Callee { front, ca_file, token_file: running.token_file(PREDICTING_ROLE)?, folder: Some(&running.data) })
}

async fn load(running: &Running, name: &str) -> anyhow::Result<()> {
    let path = ApiPath::from("/v2/repository/models").segment(name)?.then("/load");
    let answer =
        running.client()?.call(Method::POST, path, Some(&running.token("engineer")?), Some(&json!({}))).await?;
    answer.expect_success(&format!("loading {name}")).map(drop)
}
