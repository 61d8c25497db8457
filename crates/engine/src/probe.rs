//! Loading a model in a child process first, where a hostile or broken file can do no harm.
//!
//! The child is this same program with the subcommand `probe-model`, and its job on standard input. It limits its own memory, CPU time and files,
//! checks the digest of what it reads, loads it, compares the signature, runs the golden examples, and says its verdict
//! on standard output. A child that dies, or that says nothing in time, is a verdict too.

mod child;

use std::{
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha256::Sha256Digest;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    process::Command,
};

pub use child::run as run_probe;

use crate::{
    fault::{LoadFault, Reason},
    library::EngineConfig,
    onnxruntime_telemetry,
    signature::Signature,
};

/// The subcommand under which the program is the child.
pub const PROBE_SUBCOMMAND: &str = "probe-model";

/// A job is a signature and a few paths; `model.toml`, where the signature is from, is shorter than this.
const JOB_BYTES_MAX: u64 = 16 << 20;
/// A verdict is a line; a child that talks more is cut short.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// What a child may take.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeLimits {
    /// Address space, in bytes.
    pub memory_bytes_max: u64,
    /// CPU time, in seconds.
    pub cpu_s_max: u64,
    /// Time by the clock, in seconds.
    pub wall_s_max: u64,
    /// Whether a version without `golden.json` is refused.
    pub golden_required: bool,
}

/// Starts children.
#[derive(Clone)]
pub struct Prober {
    /// The program whose child does it: this one, except in tests.
    pub program: PathBuf,
    /// The library that the child loads.
    pub engine: EngineConfig,
    /// What the child may take.
    pub limits: ProbeLimits,
    /// The longest model file.
    pub file_bytes_max: u64,
}

/// What a child reads on its standard input: a signature may be longer than an argument can be.
#[derive(Debug, Deserialize, Serialize)]
struct ProbeJob {
    library: EngineConfig,
    folder: PathBuf,
    digest: Sha256Digest,
    signature: Signature,
    file_bytes_max: u64,
    limits: ProbeLimits,
}

/// What a child says.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
enum Verdict {
    /// With what the model took at its peak, beyond what the process took before.
    Accepted {
        memory_bytes: u64,
    },
    Refused {
        reason: Reason,
        detail: String,
    },
}

// === impl Prober ===

impl Prober {
    /// Has a child prove the model version of a folder, whose file must have this digest and signature; returns the bytes
    /// of memory that one session took to give the golden outputs.
    pub async fn probe(&self, folder: PathBuf, digest: Sha256Digest, signature: &Signature) -> Result<u64, LoadFault> {
        let (library, limits) = (self.engine.clone(), self.limits.clone());
        let (signature, file_bytes_max) = (signature.clone(), self.file_bytes_max);
        let job = ProbeJob { library, folder, digest, signature, file_bytes_max, limits };
        let wall = Duration::from_secs(self.limits.wall_s_max);
        match tokio::time::timeout(wall, self.run(&job)).await {
            Ok(verdict) => verdict,
            // Dropping the future killed the child.
            Err(_) => Err(LoadFault::new(
                Reason::Limits,
                format!("it did not load within the {} s of probe.wall_s_max", wall.as_secs()),
            )),
        }
    }

    async fn run(&self, job: &ProbeJob) -> Result<u64, LoadFault> {
        let internal = |detail: String| LoadFault::new(Reason::Internal, detail);
        let job = serde_json::to_vec(job).map_err(|error| internal(error.to_string()))?;
        let mut child = Command::new(&self.program)
            .arg(PROBE_SUBCOMMAND)
            .env_clear()
            // Else the library writes files, which the child must not, and reports to its maker.
            .env(onnxruntime_telemetry::DISABLE_VARIABLE.0, onnxruntime_telemetry::DISABLE_VARIABLE.1)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| internal(format!("the probing process cannot be started: {error}")))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let ((), output, error_output) = tokio::join!(write(stdin, &job), read_capped(stdout), read_capped(stderr));
        let status = child.wait().await.map_err(|error| internal(error.to_string()))?;
        if !error_output.is_empty() {
            tracing::debug!(stderr = %String::from_utf8_lossy(&error_output), "the probing process wrote to standard error");
        }
        read_verdict(status, &output)
    }
}

async fn write(pipe: Option<impl AsyncWrite + Unpin>, job: &[u8]) {
    if let Some(mut pipe) = pipe
        && let Err(error) = pipe.write_all(job).await
    {
        tracing::debug!(%error, "the job could not be written to the probing process");
    }
}

async fn read_capped(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe
        && let Err(error) = pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await
    {
        tracing::debug!(%error, "a pipe of the probing process broke");
    }
    bytes
}

fn read_verdict(status: ExitStatus, output: &[u8]) -> Result<u64, LoadFault> {
    if let Some(signal) = status.signal() {
        let detail = format!(
            "the probing process died of signal {signal} while it loaded the model (memory, CPU time or a crash)"
        );
        return Err(LoadFault::new(Reason::Limits, detail));
    }
    match serde_json::from_slice(output) {
        Ok(Verdict::Accepted { memory_bytes }) if status.success() => Ok(memory_bytes),
        Ok(Verdict::Refused { reason, detail }) => Err(LoadFault::new(reason, detail)),
        _ => Err(LoadFault::new(Reason::Limits, format!("the probing process ended without a verdict ({status})"))),
    }
}
