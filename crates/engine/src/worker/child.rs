//! The whole life of a worker: two threads, no network, no file but libraries, as little as computing a model takes.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::Arc,
};

use ort::session::RunOptions;
use rlimit::Resource;
use rustix::fs::{FileType, fstat};

use super::{
    Job, Verdict, WorkerLimits,
    compute::{CallPipes, CurrentRun, MemoryMark, ResidentMemory, compute_calls, obey_cancellations},
    sandbox::{self, Sandbox},
    wire,
};
use crate::{
    fault::{LoadFault, Reason},
    golden::{GOLDEN_BYTES_MAX, Golden},
    library::Engine,
    session::{RunFault, Session},
    signature::Signature,
};

/// A job is a signature and a few numbers; `model.toml`, where the signature is from, is shorter than this.
const JOB_BYTES_MAX: u64 = 16 << 20;
/// What a worker may hold beyond what it held after loading, at the least: buffers of the allocators.
const SPARE_BYTES_MIN: u64 = 16 << 20;
/// The kernel takes a worker before it takes any service (proc_pid_oom_score_adj(5)).
const OOM_SCORE_ADJ: &str = "1000";

/// A model in a process of its own, ready for calls.
struct Loaded {
    session: Session,
    run: Arc<CurrentRun>,
    mark: Option<MemoryMark>,
}

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
    let Some(golden) = pipes.read(GOLDEN_BYTES_MAX)? else { return Ok(()) };
    let Some(model) = pipes.read(job.file_bytes_max)? else { return Ok(()) };
    let mut loaded = None;
    let verdict = match load(&job, &golden, &model, control) {
        Ok((accepted, model)) => {
            loaded = Some(model);
            accepted
        }
        Err(LoadFault { reason, detail }) => Verdict::Refused { reason, detail },
    };
    drop((golden, model));
    pipes.write(&wire::frame(&serde_json::to_vec(&verdict)?))?;
    let Some(mut loaded) = loaded else { return Ok(()) };
    compute_calls(&mut loaded.session, pipes, &loaded.run, loaded.mark.as_ref(), job.answer_bytes_max)
}

/// Takes this process everything that it does not need, then loads the model and judges it.
fn load(job: &Job, golden: &[u8], model: &[u8], control: UnixStream) -> Result<(Verdict, Loaded), LoadFault> {
    limit(&job.limits)?;
    let resident = ResidentMemory::of_this_process().map_err(LoadFault::internal)?;
    let status = File::open("/proc/self/status").map_err(LoadFault::internal)?;
    // Before the library is loaded: a thread that it started would not be bounded.
    let landlock = sandbox::restrict_files(&job.library.library).map_err(LoadFault::internal)?;
    let engine = Engine::open(&job.library).map_err(LoadFault::internal)?;
    let run = Arc::new(CurrentRun::new().map_err(LoadFault::internal)?);
    // Without its replica nothing has a use for what is computed, and no signal tells this process so.
    obey_cancellations(control, Arc::clone(&run), || std::process::abort()).map_err(LoadFault::internal)?;
    let sandbox = Sandbox { landlock, seccomp: sandbox::restrict_system_calls().map_err(LoadFault::internal)? };

    let mut session = Session::new(&engine, model).map_err(LoadFault::engine)?;
    let signature = session.check_signature(&job.signature)?;
    if job.has_golden {
        compare(&mut session, golden, &signature)?;
    } else if job.limits.golden_required {
        return Err(LoadFault::new(Reason::Golden, "golden.json: is missing (probe.golden_required)"));
    }
    let memory_bytes =
        taken_bytes(&status).ok_or_else(|| LoadFault::internal("the memory of the process is not known"))?;
    let mark = MemoryMark::above_now(resident, SPARE_BYTES_MIN);
    let verdict = Verdict::Accepted { memory_bytes, signature, sandbox };
    Ok((verdict, Loaded { session, run, mark }))
}

/// From here on the kernel enforces the limits. Nothing is ever written to a file. The limit of CPU time is for loading: the
/// replica lifts it when the verdict is there.
fn limit(limits: &WorkerLimits) -> Result<(), LoadFault> {
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).map_err(LoadFault::internal)?;
    let set =
        [(Resource::AS, limits.memory_bytes_max), (Resource::CORE, 0), (Resource::FSIZE, 0), (Resource::NOFILE, 64)];
    for (resource, most) in set {
        let hard = resource.get_hard().unwrap_or(u64::MAX);
        resource.set(most.min(hard), most.min(hard)).map_err(|error| limit_fault(resource, &error))?;
    }
    let hard = Resource::CPU.get_hard().unwrap_or(u64::MAX);
    Resource::CPU.set(limits.cpu_s_max.min(hard), hard).map_err(|error| limit_fault(Resource::CPU, &error))
}

fn limit_fault(resource: Resource, error: &io::Error) -> LoadFault {
    LoadFault::internal(format!("the limit {resource:?} cannot be set: {error}"))
}

/// What this process has for itself, and had more at its peak: files that it shares with others do not count (proc_pid_status(5)).
fn taken_bytes(status: &File) -> Option<u64> {
    let status = io::read_to_string(status).ok()?;
    let bytes = |line: &str| {
        let kib =
            status.lines().find_map(|each| each.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10)
    };
    Some(bytes("RssAnon:")? + bytes("VmHWM:")?.saturating_sub(bytes("VmRSS:")?))
}

fn compare(session: &mut Session, golden: &[u8], signature: &Signature) -> Result<(), LoadFault> {
    let golden = Golden::parse(golden, signature)?;
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let failed = |fault: RunFault| LoadFault::new(Reason::Golden, format!("golden.json: {fault}"));
    let options = RunOptions::new().map_err(LoadFault::internal)?;
    let computed = session.run(&golden.inputs, &wanted, &options).map_err(failed)?;
    golden.compare(signature, &computed.outputs)
}
