//! `rampart-serving check-model`: what keeps the versions of a model folder from being served, a line for each.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use engine::{EngineConfig, WorkerLimits, WorkerStarter};
use model_repository::{Finding, check};
use sha256::Sha256Digest;
use tokio::sync::Semaphore;

use crate::config::DEFAULTS;

/// The subcommand.
pub const SUBCOMMAND: &str = "check-model";

#[derive(Parser)]
#[command(name = "rampart-serving check-model", about = "Print what keeps a model folder from being served")]
struct Arguments {
    /// The folder of the model, with its model.toml.
    folder: PathBuf,
    /// ONNX Runtime's shared library.
    #[arg(long, env = "RAMPART_ONNXRUNTIME")]
    onnxruntime: PathBuf,
    /// Its SHA-256, in hex.
    #[arg(long, env = "RAMPART_ONNXRUNTIME_SHA256")]
    onnxruntime_sha256: Sha256Digest,
}

/// Runs the subcommand. Ends with 0 when all versions would serve, with 1 and what is wrong otherwise.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    let lines = match findings(&arguments) {
        Ok(findings) => findings.iter().map(Finding::to_string).collect(),
        Err(detail) => vec![detail],
    };
    let mut out = io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
    if lines.is_empty() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn findings(arguments: &Arguments) -> Result<Vec<Finding>, String> {
    let folder = arguments.folder.canonicalize().map_err(|error| format!("{}: {error}", arguments.folder.display()))?;
    let starter = starter(arguments)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    Ok(runtime.block_on(check(&folder, &starter)))
}

/// With the limits of a replica that has no others configured.
fn starter(arguments: &Arguments) -> Result<WorkerStarter, String> {
    let defaults: toml::Table = toml::from_str(DEFAULTS).map_err(|error| error.to_string())?;
    let section = |name: &str| defaults.get(name).cloned().ok_or_else(|| format!("no defaults of {name}"));
    let limits: WorkerLimits = section("probe")?.try_into().map_err(|error: toml::de::Error| error.to_string())?;
    let number = |name: &str, key: &str| {
        let number = section(name)?.get(key).and_then(toml::Value::as_integer).and_then(|it| u64::try_from(it).ok());
        number.ok_or_else(|| format!("no default of {name}.{key}"))
    };
    let library = arguments.onnxruntime.canonicalize();
    Ok(WorkerStarter {
        program: std::env::current_exe().map_err(|error| error.to_string())?,
        engine: EngineConfig {
            library: library.map_err(|error| format!("{}: {error}", arguments.onnxruntime.display()))?,
            sha256: arguments.onnxruntime_sha256,
        },
        limits,
        file_bytes_max: number("models", "file_bytes_max")?,
        answer_bytes_max: number("inference", "answer_bytes_max")?,
        starts: Arc::new(Semaphore::new(1)),
    })
}
