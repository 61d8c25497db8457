//! `rampart models check`: everything that keeps a model file or a model folder from being served.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};
use bootstrap::{say, say_error};
use serde_json::json;

use super::inspect;
use crate::{
    output::{Output, printable},
    state_file::Options,
};

/// Options of `rampart models check`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A model file (ONNX), or the folder of a model with its model.toml.
    path: PathBuf,
    /// Records that the model file must take, as for `add`.
    #[arg(long)]
    sample: Option<PathBuf>,
    #[command(flatten)]
    platform: Options,
    #[command(flatten)]
    output: Output,
}

/// Ends with 0 if it would serve. Nothing is taken into service.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let running = arguments.platform.read()?;
    if !arguments.path.is_dir() {
        let inspected = inspect::inspect(&arguments.path, arguments.sample.as_deref(), &running.onnxruntime)?;
        let is_good = inspected.is_ok();
        let findings = inspected.err().unwrap_or_default();
        let findings: Vec<&str> = findings.iter().map(String::as_str).collect();
        arguments.report(&findings, is_good.then_some("can be served"));
        return Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    ensure!(
        arguments.sample.is_none(),
        "a folder has golden examples, which are checked: --sample is for a model file"
    );
    let program = inspect::program()?;
    let mut command = Command::new(&program);
    command.arg("check-model").arg(&arguments.path).args(running.onnxruntime.options());
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", program.display()))?;
    let findings = String::from_utf8_lossy(&output.stdout);
    let findings: Vec<&str> = findings.lines().collect();
    if output.status.success() {
        arguments.report(&findings, Some("all versions can be served"));
        return Ok(ExitCode::SUCCESS);
    }
    arguments.report(&findings, None);
    let said = String::from_utf8_lossy(&output.stderr);
    if !said.trim().is_empty() {
        say_error(said.trim());
    }
    Ok(ExitCode::FAILURE)
}

// === impl Arguments ===

impl Arguments {
    fn report(&self, findings: &[&str], good: Option<&str>) {
        if self.output.is_json() {
            say(&json!({ "path": self.path, "can_be_served": good.is_some(), "findings": findings }).to_string());
            return;
        }
        for finding in findings {
            say(&printable(finding));
        }
        if let Some(good) = good {
            say(&format!("{}: {good}", self.path.display()));
        }
    }
}
