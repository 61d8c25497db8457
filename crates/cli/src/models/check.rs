//! `rampart models check`: everything that keeps a model file or a model folder from being served.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, ensure};
use bootstrap::say;

use super::{
    inspect,
    running::{Options, Running},
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
}

/// Ends with 0 if it would serve. Nothing is taken into service.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let running = Running::read(&arguments.platform)?;
    if !arguments.path.is_dir() {
        inspect::run(&arguments.path, arguments.sample.as_deref(), &running.onnxruntime)?;
        say(&format!("{}: can be served", arguments.path.display()));
        return Ok(ExitCode::SUCCESS);
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
    for finding in findings.lines() {
        say(finding);
    }
    if output.status.success() {
        say(&format!("{}: all versions can be served", arguments.path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if !said.trim().is_empty() {
        bootstrap::say_error(said.trim());
    }
    Ok(ExitCode::FAILURE)
}
