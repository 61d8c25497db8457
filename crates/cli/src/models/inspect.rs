//! What a model file takes and gives, as `rampart-serving inspect` finds it: only the engine reads models.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::library::Library;

/// What was found.
#[derive(Deserialize)]
pub(crate) struct Inspected {
    /// Of the model file.
    pub(crate) sha256: String,
    /// Of all files together: the tag in MLflow.
    pub(crate) digest: String,
    /// SHA-256 of the files beside the model that hold its weights.
    pub(crate) data: BTreeMap<String, String>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Vec<Tensor>,
    /// A whole `golden.json`.
    pub(crate) golden: Value,
}

/// One input or output, as `model.toml` declares it.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) datatype: String,
    pub(crate) shape: Vec<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) columns: Vec<String>,
}

// === impl Inspected ===

impl Inspected {
    /// The names by which records are sent, in the order in which the inputs take them.
    pub(crate) fn features(&self) -> Vec<&str> {
        self.inputs.iter().flat_map(|input| &input.columns).map(String::as_str).collect()
    }
}

/// What keeps a model file from being served, as the inspection prints it.
#[derive(Deserialize)]
struct Refused {
    findings: Vec<String>,
}

/// What the inspection found, or an error with everything that keeps the file from being served.
pub(crate) fn run(model: &Path, sample: Option<&Path>, library: &Library) -> anyhow::Result<Inspected> {
    inspect(model, sample, library)?.map_err(|findings| match &*findings {
        [finding] => anyhow!("{}: {finding}", model.display()),
        findings => anyhow!("{} cannot be served:\n  {}", model.display(), findings.join("\n  ")),
    })
}

/// Runs the inspection in a process of its own, which confines itself before it loads the file. The inner error is everything that keeps the
/// file from being served.
pub(crate) fn inspect(
    model: &Path,
    sample: Option<&Path>,
    library: &Library,
) -> anyhow::Result<Result<Inspected, Vec<String>>> {
    let program = program()?;
    let mut command = Command::new(&program);
    command.arg("inspect").arg(model).args(library.options());
    if let Some(sample) = sample {
        command.arg("--sample").arg(sample);
    }
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", program.display()))?;
    if output.status.success() {
        let inspected = serde_json::from_slice(&output.stdout);
        return inspected.map(Ok).context("rampart-serving is of another version than this binary");
    }
    if let Ok(Refused { findings }) = serde_json::from_slice(&output.stdout) {
        return Ok(Err(findings));
    }
    // A model that ends its process is the finding.
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    Ok(Err(vec![if said.is_empty() { format!("its process ended: {}", output.status) } else { said.to_owned() }]))
}

/// The program of the replicas, which lies beside this one.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe().context("cannot find this binary")?.with_file_name("rampart-serving"))
}
