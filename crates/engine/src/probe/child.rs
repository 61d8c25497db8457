//! The child's side: one thread, no network, as little as loading a model takes.

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use ort::session::RunOptions;
use rlimit::Resource;

use super::{JOB_BYTES_MAX, ProbeJob, ProbeLimits, Verdict};
use crate::{
    fault::{LoadFault, Reason},
    golden::Golden,
    library::Engine,
    model_file,
    session::{RunFault, Session},
};

/// The whole life of `rampart-serving probe-model`.
pub fn run() -> ExitCode {
    let mut job = Vec::new();
    let read = std::io::stdin().take(JOB_BYTES_MAX).read_to_end(&mut job);
    let verdict_of_job = match read.ok().and_then(|_| serde_json::from_slice::<ProbeJob>(&job).ok()) {
        Some(job) => limit(&job.limits).and_then(|()| probe(&job)),
        None => {
            Err(LoadFault::new(Reason::Internal, "probe-model is for the service itself and reads its job as JSON"))
        }
    };
    let (verdict, code) = match verdict_of_job {
        Ok(memory_bytes) => (Verdict::Accepted { memory_bytes }, ExitCode::SUCCESS),
        Err(LoadFault { reason, detail }) => (Verdict::Refused { reason, detail }, ExitCode::FAILURE),
    };
    let line = serde_json::to_vec(&verdict).unwrap_or_default();
    match std::io::stdout().write_all(&line) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// From here on the kernel enforces the limits. Nothing is ever written to a file.
fn limit(limits: &ProbeLimits) -> Result<(), LoadFault> {
    let set = [
        (Resource::AS, limits.memory_bytes_max),
        (Resource::CPU, limits.cpu_s_max),
        (Resource::CORE, 0),
        (Resource::FSIZE, 0),
        (Resource::NOFILE, 64),
    ];
    for (resource, most) in set {
        let hard = resource.get_hard().unwrap_or(u64::MAX);
        resource.set(most.min(hard), most.min(hard)).map_err(|error| {
            LoadFault::new(Reason::Internal, format!("the limit {resource:?} cannot be set: {error}"))
        })?;
    }
    Ok(())
}

/// Judges the model, and measures what it took.
fn probe(job: &ProbeJob) -> Result<u64, LoadFault> {
    let bytes = model_file::read(&job.folder, job.digest, job.file_bytes_max)?;
    let engine = Engine::open(&job.library).map_err(|error| LoadFault::new(Reason::Internal, error.to_string()))?;
    let before = memory_bytes("VmRSS:")?;
    check_model(job, &engine, &bytes)?;
    Ok(memory_bytes("VmHWM:")?.saturating_sub(before))
}

/// A line of what the kernel says of this process's memory.
fn memory_bytes(line: &str) -> Result<u64, LoadFault> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|each| each.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| LoadFault::new(Reason::Internal, "the memory taken is not known"))
}

fn check_model(job: &ProbeJob, engine: &Engine, bytes: &[u8]) -> Result<(), LoadFault> {
    let session = Session::new(engine, bytes);
    let mut session = session.map_err(|error| LoadFault::new(Reason::Engine, error.to_string()))?;
    let signature = session.check_signature(&job.signature)?;
    let Some(golden) = Golden::read(&job.folder, &signature)? else {
        let missing = LoadFault::new(Reason::Golden, "golden.json: is missing (probe.golden_required)");
        return if job.limits.golden_required { Err(missing) } else { Ok(()) };
    };
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let failed = |fault: RunFault| LoadFault::new(Reason::Golden, format!("golden.json: {fault}"));
    let options = RunOptions::new().map_err(|error| LoadFault::new(Reason::Internal, error.to_string()))?;
    let computed = session.run(&golden.inputs, &wanted, &options).map_err(failed)?;
    golden.compare(&signature, &computed.outputs)
}
