//! The whole life of a worker: two threads, no network, no file but libraries, as little as computing a model takes.

use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use rlimit::Resource;
use rustix::fs::{FileType, fstat};

use super::{
    Job, Verdict, WorkerLimits,
    compute::{CallPipes, CurrentRun, answer_requests, obey_cancellations},
    models::{Loading, Models, ProcessMemory},
    sandbox::{self, Sandbox},
    wire,
};
use crate::{
    fault::LoadFault,
    library::{Engine, EngineError},
};

/// A job is a path and a few numbers.
const JOB_BYTES_MAX: u64 = 1 << 20;
/// The kernel takes a worker before it takes any service (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: &str = "1000";

/// A model that computes longer for its first example is no model to serve.
const INSPECTION_CPU_S_MAX: u64 = 120;

/// The whole life of `rampart-serving model-worker`. Standard input is the pipe of calls, standard output that of answers; standard error is
/// a socket, by which it is told of calls that are given up.
pub fn run() -> ExitCode {
    let ends = || {
        let (calls, answers) = (pipe(io::stdin().as_fd())?, pipe(io::stdout().as_fd())?);
        Ok::<_, io::Error>((CallPipes::new(calls.into(), answers.into()), socket(io::stderr().as_fd())?))
    };
    let Ok((mut pipes, control)) = ends() else {
        return complain("model-worker is for the service itself: its standard input and output are pipes");
    };
    match work(&mut pipes, control) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error.to_string()),
    }
}

fn pipe(stream: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    match FileType::from_raw_mode(fstat(stream)?.st_mode) {
        FileType::Fifo => stream.try_clone_to_owned(),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn socket(stream: BorrowedFd<'_>) -> io::Result<UnixStream> {
    let socket = UnixStream::from(stream.try_clone_to_owned()?);
    socket.peer_addr()?;
    Ok(socket)
}

fn complain(line: &str) -> ExitCode {
    // With standard error closed there is nowhere to report it.
    let _closed = writeln!(io::stderr(), "rampart-serving: {line}");
    ExitCode::FAILURE
}

fn work(pipes: &mut CallPipes, control: UnixStream) -> io::Result<()> {
    let Some(job) = pipes.read(JOB_BYTES_MAX)? else { return Ok(()) };
    let job: Job = serde_json::from_slice(&job)?;
    match prepare(&job, control) {
        Ok((mut models, run)) => answer_requests(&mut models, pipes, &run, job.answer_bytes_max),
        // The answer to the load that comes next.
        Err(fault) => pipes.write(&wire::encode_text(&serde_json::to_vec(&Verdict::from(fault))?)),
    }
}

/// Takes this process everything that it does not need, and opens what it does.
fn prepare(job: &Job, control: UnixStream) -> Result<(Models, Arc<CurrentRun>), LoadFault> {
    limit(&job.limits)?;
    let memory = ProcessMemory::open().map_err(LoadFault::internal)?;
    // Before the library is loaded: a thread that it started would not be bounded.
    let landlock = sandbox::restrict_files(&job.library.library).map_err(LoadFault::internal)?;
    let engine = Engine::open(&job.library).map_err(LoadFault::internal)?;
    let run = Arc::new(CurrentRun::new().map_err(LoadFault::internal)?);
    // Without its replica nothing has a use for what is computed, and no signal tells this process so.
    obey_cancellations(control, Arc::clone(&run), || std::process::abort()).map_err(LoadFault::internal)?;
    let sandbox = Sandbox { landlock, seccomp: sandbox::restrict_system_calls().map_err(LoadFault::internal)? };
    let golden_required = job.limits.golden_required;
    Ok((Models::of_process(Loading { engine, golden_required, sandbox, memory }), run))
}

/// Confines this process for good, and opens the library. `open` must start no thread that outlives it before this is done.
pub(crate) fn confine(
    memory_bytes_max: u64,
    open: impl FnOnce() -> Result<Engine, EngineError>,
    library: &Path,
) -> Result<Engine, LoadFault> {
    let limits = [
        (Resource::AS, memory_bytes_max),
        (Resource::CPU, INSPECTION_CPU_S_MAX),
        (Resource::CORE, 0),
        (Resource::NOFILE, 64),
    ];
    limits.into_iter().try_for_each(lower)?;
    sandbox::restrict_files(library).map_err(LoadFault::internal)?;
    let engine = open().map_err(LoadFault::internal)?;
    sandbox::restrict_system_calls().map_err(LoadFault::internal)?;
    Ok(engine)
}

/// From here on the kernel enforces the limits. Nothing is ever written to a file. The limit of CPU time is for loading: the
/// replica lifts it when the verdict is there.
fn limit(limits: &WorkerLimits) -> Result<(), LoadFault> {
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).map_err(LoadFault::internal)?;
    let set =
        [(Resource::AS, limits.memory_bytes_max), (Resource::CORE, 0), (Resource::FSIZE, 0), (Resource::NOFILE, 64)];
    set.into_iter().try_for_each(lower)?;
    let hard = Resource::CPU.get_hard().unwrap_or(u64::MAX);
    Resource::CPU.set(limits.cpu_s_max.min(hard), hard).map_err(|error| limit_fault(Resource::CPU, &error))
}

fn lower((resource, most): (Resource, u64)) -> Result<(), LoadFault> {
    let hard = resource.get_hard().unwrap_or(u64::MAX);
    resource.set(most.min(hard), most.min(hard)).map_err(|error| limit_fault(resource, &error))
}

fn limit_fault(resource: Resource, error: &io::Error) -> LoadFault {
    LoadFault::internal(format!("the limit {resource:?} cannot be set: {error}"))
}
