//! Starting a worker: the files that it gets, the time that it has, and its verdict.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Once},
    time::Duration,
};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use sha256::Sha256Digest;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    sync::{Semaphore, oneshot, watch},
};
use tokio_util::codec::FramedRead;

use super::{
    Answers, Exit, Process, WORKER_SUBCOMMAND, Worker, WorkerEnds, codec, connect, line,
    process::{EXIT_TIMEOUT, log_errors},
    sandbox::Sandbox,
};
use crate::{
    fault::{LoadFault, Reason},
    golden::GOLDEN_BYTES_MAX,
    library::EngineConfig,
    model_file::{self, read_from_start},
    onnxruntime_telemetry,
    signature::Signature,
};

/// The longest reason of a refusal.
const DETAIL_BYTES_MAX: usize = 16 << 10;

/// What glibc is told in a worker: large blocks are given back when they are freed, and small ones come from one heap.
const ALLOCATOR_VARIABLES: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "262144"), ("MALLOC_TRIM_THRESHOLD_", "1048576"), ("MALLOC_ARENA_MAX", "1")];

/// What the process of a model version may take.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerLimits {
    /// Address space, in bytes, as long as it lives.
    pub memory_bytes_max: u64,
    /// CPU time until the model is loaded and proved, in seconds.
    pub cpu_s_max: u64,
    /// Time by the clock until then, in seconds.
    pub wall_s_max: u64,
    /// Whether a version without `golden.json` is refused.
    pub golden_required: bool,
}

/// Starts workers.
#[derive(Clone)]
pub struct WorkerStarter {
    /// The program that is the worker: this one, except in tests.
    pub program: PathBuf,
    /// The library that it loads.
    pub engine: EngineConfig,
    /// What it may take.
    pub limits: WorkerLimits,
    /// The longest model file.
    pub file_bytes_max: u64,
    /// The longest answer to one call, by the binary form of its tensors.
    pub answer_bytes_max: u64,
    /// How many may be starting at a time: loading is work for a core.
    pub starts: Arc<Semaphore>,
}

/// The files of one version, held open: a worker is started again from what was declared, also when the folder has changed.
pub struct VersionFiles {
    model: File,
    golden: Option<File>,
    digest: Sha256Digest,
    bytes_max: u64,
    bytes: u64,
}

/// What a worker reads first.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Job {
    pub(super) library: EngineConfig,
    pub(super) signature: Signature,
    pub(super) limits: WorkerLimits,
    pub(super) file_bytes_max: u64,
    pub(super) answer_bytes_max: u64,
    pub(super) has_golden: bool,
}

/// What a worker says first.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// The model serves.
    Accepted {
        /// What the process took at its peak, but for files that it shares with others.
        memory_bytes: u64,
        /// In the order of the file.
        signature: Signature,
        sandbox: Sandbox,
    },
    /// It does not, as a [`LoadFault`].
    Refused { reason: Reason, detail: String },
}

/// A worker that was accepted.
pub(crate) struct Started {
    pub(crate) worker: Worker,
    pub(crate) answers: Answers,
    pub(crate) process: Process,
    pub(crate) memory_bytes: u64,
    pub(crate) signature: Signature,
}

// === impl VersionFiles ===

impl VersionFiles {
    /// Opens the files of a version folder, and reads the model once to see that it is what was declared. Blocks.
    pub fn open(folder: &Path, digest: Sha256Digest, bytes_max: u64) -> Result<Self, LoadFault> {
        let golden = match File::open(folder.join("golden.json")) {
            Ok(golden) => Some(golden),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(golden_fault(&error.to_string())),
        };
        let mut files = Self { model: model_file::open(folder)?, golden, digest, bytes_max, bytes: 0 };
        files.bytes = files.read_model()?.len() as u64;
        Ok(files)
    }

    /// Length of the model file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn read_model(&self) -> Result<Vec<u8>, LoadFault> {
        model_file::read(&self.model, self.digest, self.bytes_max)
    }

    fn read_golden(&self) -> Result<Vec<u8>, LoadFault> {
        let Some(golden) = &self.golden else { return Ok(Vec::new()) };
        let bytes = read_from_start(golden, GOLDEN_BYTES_MAX).map_err(|error| golden_fault(&error.to_string()))?;
        if bytes.len() as u64 > GOLDEN_BYTES_MAX {
            return Err(golden_fault(&format!("more than {GOLDEN_BYTES_MAX} bytes")));
        }
        Ok(bytes)
    }
}

fn golden_fault(detail: &str) -> LoadFault {
    LoadFault::new(Reason::Golden, format!("golden.json: {detail}"))
}

// === impl WorkerStarter ===

impl WorkerStarter {
    /// Starts a worker, and has it load and judge the model.
    pub(crate) async fn start(&self, files: &Arc<VersionFiles>, signature: &Signature) -> Result<Started, LoadFault> {
        let _turn = self.starts.acquire().await.map_err(LoadFault::internal)?;
        let wall = Duration::from_secs(self.limits.wall_s_max);
        // Dropping the future kills the child.
        tokio::time::timeout(wall, self.start_and_judge(files, signature)).await.unwrap_or_else(|_| {
            let detail = format!("it did not load within the {} s of probe.wall_s_max", wall.as_secs());
            Err(LoadFault::new(Reason::Limits, detail))
        })
    }

    async fn start_and_judge(&self, files: &Arc<VersionFiles>, signature: &Signature) -> Result<Started, LoadFault> {
        let (ours, theirs) = connect().map_err(LoadFault::internal)?;
        let child = self.spawn(theirs)?;
        let (stderr, control) = ours.control.into_split();
        tokio::spawn(log_errors(stderr));
        let mut writer = ours.calls;
        let mut frames = FramedRead::new(ours.answers, codec(self.answer_bytes_max));
        for message in self.messages(files, signature).await? {
            // A worker that is gone before it has read everything has said why, or is judged by its end.
            let length = (message.len() as u64).to_le_bytes();
            if writer.write_all(&length).await.is_err() || writer.write_all(&message).await.is_err() {
                break;
            }
        }
        let Some(Ok(verdict)) = frames.next().await else { return Err(death_while_loading(child).await) };
        match serde_json::from_slice(&verdict).map_err(LoadFault::internal)? {
            Verdict::Refused { reason, mut detail } => {
                detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX));
                Err(LoadFault::new(reason, detail))
            }
            Verdict::Accepted { memory_bytes, signature: real, sandbox } => {
                // The process that says so has run the model.
                if !signature.in_order_of(&real).is_ok_and(|declared| declared == real) {
                    return Err(LoadFault::new(
                        Reason::Signature,
                        "its process names another signature than is declared",
                    ));
                }
                sandbox.warn_once();
                lift_cpu_limit(&child)?;
                let (exit, exited) = watch::channel(None);
                let (dropped, when_dropped) = oneshot::channel();
                let process = Process { child, exit, dropped: when_dropped };
                let (worker, answers) = line::new(frames, writer, control, exited, dropped);
                Ok(Started { worker, answers, process, memory_bytes, signature: real })
            }
        }
    }

    fn spawn(&self, ends: WorkerEnds) -> Result<Child, LoadFault> {
        Command::new(&self.program)
            .arg(WORKER_SUBCOMMAND)
            .env_clear()
            // Else the library writes files, which a worker must not, and reports to its maker.
            .env(onnxruntime_telemetry::DISABLE_VARIABLE.0, onnxruntime_telemetry::DISABLE_VARIABLE.1)
            .envs(ALLOCATOR_VARIABLES)
            .current_dir("/")
            // A signal that a terminal sends to the service's group is for the service, which stops its workers last.
            .process_group(0)
            .stdin(Stdio::from(ends.calls))
            .stdout(Stdio::from(ends.answers))
            .stderr(Stdio::from(OwnedFd::from(ends.control)))
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| LoadFault::internal(format!("the process of the model cannot be started: {error}")))
    }

    /// What a worker gets before its first call.
    async fn messages(&self, files: &Arc<VersionFiles>, signature: &Signature) -> Result<[Vec<u8>; 3], LoadFault> {
        let job = Job {
            library: self.engine.clone(),
            signature: signature.clone(),
            limits: self.limits.clone(),
            file_bytes_max: self.file_bytes_max,
            answer_bytes_max: self.answer_bytes_max,
            has_golden: files.golden.is_some(),
        };
        let files = Arc::clone(files);
        let read = move || {
            let job = serde_json::to_vec(&job).map_err(LoadFault::internal)?;
            Ok([job, files.read_golden()?, files.read_model()?])
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(LoadFault::internal(error)))
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Says once in the life of the process that workers are less confined than they could be.
    fn warn_once(self) {
        static SAID: Once = Once::new();
        if !(self.landlock && self.seccomp) {
            SAID.call_once(|| {
                tracing::warn!(
                    landlock = self.landlock,
                    seccomp = self.seccomp,
                    "this kernel cannot confine the processes of models as far as it should; they run with what there is"
                );
            });
        }
    }
}

/// The limit was for loading; from here on each call has a deadline.
fn lift_cpu_limit(child: &Child) -> Result<(), LoadFault> {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let maximum = getrlimit(Resource::Cpu).maximum;
    prlimit(pid, Resource::Cpu, Rlimit { current: maximum, maximum }).map(drop).map_err(LoadFault::internal)
}

async fn death_while_loading(mut child: Child) -> LoadFault {
    let exit = match tokio::time::timeout(EXIT_TIMEOUT, child.wait()).await {
        Ok(Ok(status)) => Exit::of(status),
        Ok(Err(_)) | Err(_) => Exit::Unknown,
    };
    let detail = format!("its process ended while it loaded the model (memory, CPU time or a crash): {exit}");
    LoadFault::new(Reason::Limits, detail)
}
