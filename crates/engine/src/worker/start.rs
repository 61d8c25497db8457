//! Starting a worker, or having one load a further model: what it gets, and the time that it has.

use std::{os::fd::OwnedFd, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};
use tokio_util::codec::FramedRead;

use super::{
    Answers, Exit, Loaded, Lost, Message, NotLoaded, Process, Verdict, VersionFiles, WORKER_SUBCOMMAND, Worker,
    WorkerEnds, codec, connect, line,
    process::{EXIT_TIMEOUT, log_errors},
    sandbox::LOCALES_VARIABLE,
    wire,
};
use crate::{
    fault::{LoadFault, Reason},
    library::EngineConfig,
    onnxruntime_telemetry,
    signature::Signature,
};

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
    /// How many workers of what serves may be starting at a time: loading is work for a core.
    pub starts: Arc<Semaphore>,
}

/// What a worker reads first.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Job {
    pub(super) library: EngineConfig,
    pub(super) limits: WorkerLimits,
    pub(super) answer_bytes_max: u64,
}

/// A worker that was accepted.
pub(crate) struct Started {
    pub(crate) worker: Worker,
    pub(crate) answers: Answers,
    pub(crate) process: Process,
    pub(crate) loaded: Loaded,
}

// === impl WorkerStarter ===

impl WorkerStarter {
    /// Starts a worker when it is its turn, and has it load and judge the model in this slot.
    pub(crate) async fn start(
        &self,
        files: &Arc<VersionFiles>,
        signature: &Signature,
        slot: u32,
    ) -> Result<Started, LoadFault> {
        let _turn = self.starts.acquire().await.map_err(LoadFault::internal)?;
        self.start_now(files, signature, slot).await
    }

    /// The same without waiting for a turn.
    pub(crate) async fn start_now(
        &self,
        files: &Arc<VersionFiles>,
        signature: &Signature,
        slot: u32,
    ) -> Result<Started, LoadFault> {
        // Dropping the future kills the child.
        timeout(self.wall(), self.start_and_judge(files, signature, slot))
            .await
            .unwrap_or_else(|_| Err(self.too_late()))
    }

    /// Has a worker load and judge a version, and ends it.
    pub async fn prove(&self, files: &Arc<VersionFiles>, signature: &Signature) -> Result<(), LoadFault> {
        self.start(files, signature, super::OWN_SLOT).await.map(drop)
    }

    /// Has a worker that computes already load and judge a further model. It waits its turn behind calls for as long as the load itself may
    /// take, at the most.
    pub(crate) async fn load_into(
        &self,
        worker: &Arc<Worker>,
        files: &Arc<VersionFiles>,
        signature: &Signature,
        slot: u32,
    ) -> Result<Loaded, NotLoaded> {
        let load = files.load_request(signature, slot).await.map_err(NotLoaded::Refused)?;
        let submitted = timeout(self.wall(), worker.submit(&load, None)).await;
        let mut submitted =
            submitted.map_err(|_| NotLoaded::Refused(self.too_late()))?.map_err(|_| NotLoaded::Unread)?;
        drop(load);
        // Dropping what was submitted gives the load up; a worker that goes on with it is ended.
        match timeout(self.wall(), submitted.answer()).await {
            Ok(Ok(message)) => {
                let judge = |verdict: Verdict| verdict.judge(signature);
                Verdict::read(message).and_then(judge).map_err(NotLoaded::Refused)
            }
            Ok(Err(Lost::Unread)) => Err(NotLoaded::Unread),
            Ok(Err(Lost::Died(exit))) => {
                let detail = format!("the process of the group ended while it loaded the model: {exit}");
                Err(NotLoaded::Ended(LoadFault::new(Reason::Limits, detail)))
            }
            Err(_) if submitted.is_behind() => Err(NotLoaded::Refused(self.too_late())),
            Err(_) => Err(NotLoaded::Ended(self.too_late())),
        }
    }

    fn wall(&self) -> Duration {
        Duration::from_secs(self.limits.wall_s_max)
    }

    fn too_late(&self) -> LoadFault {
        let detail = format!("it did not load within the {} s of probe.wall_s_max", self.limits.wall_s_max);
        LoadFault::new(Reason::Limits, detail)
    }

    async fn start_and_judge(
        &self,
        files: &Arc<VersionFiles>,
        signature: &Signature,
        slot: u32,
    ) -> Result<Started, LoadFault> {
        let (ours, theirs) = connect().map_err(LoadFault::internal)?;
        let child = self.spawn(theirs)?;
        let (stderr, control) = ours.control.into_split();
        tokio::spawn(log_errors(stderr));
        let mut writer = ours.calls;
        let mut frames = FramedRead::new(ours.answers, codec(self.answer_bytes_max));
        let load = files.load_request(signature, slot).await?;
        // A worker that is gone before it has read everything has said why, or is judged by its end.
        if writer.write_all(&self.job()?).await.is_ok() {
            drop(writer.write_all(&load.message).await);
        }
        drop(load);
        let Some(Ok(verdict)) = frames.next().await else { return Err(death_while_loading(child).await) };
        let loaded = Verdict::read(Message(verdict.freeze())).and_then(|verdict| verdict.judge(signature))?;
        lift_cpu_limit(&child)?;
        let (exit, exited) = watch::channel(None);
        let (dropped, when_dropped) = oneshot::channel();
        let process = Process { child, exit, dropped: when_dropped };
        let (worker, answers) = line::new(frames, writer, control, exited, dropped);
        Ok(Started { worker, answers, process, loaded })
    }

    fn spawn(&self, ends: WorkerEnds) -> Result<Child, LoadFault> {
        Command::new(&self.program)
            .arg(WORKER_SUBCOMMAND)
            .env_clear()
            // Else the library writes files, which a worker must not, and reports to its maker.
            .env(onnxruntime_telemetry::DISABLE_VARIABLE.0, onnxruntime_telemetry::DISABLE_VARIABLE.1)
            .envs(ALLOCATOR_VARIABLES)
            .envs(std::env::var_os(LOCALES_VARIABLE).map(|folder| (LOCALES_VARIABLE, folder)))
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

    /// What a worker gets before its first request.
    fn job(&self) -> Result<Vec<u8>, LoadFault> {
        let (library, limits) = (self.engine.clone(), self.limits.clone());
        let job = Job { library, limits, answer_bytes_max: self.answer_bytes_max };
        serde_json::to_vec(&job).map(|job| wire::frame(&job)).map_err(LoadFault::internal)
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
    let exit = match timeout(EXIT_TIMEOUT, child.wait()).await {
        Ok(Ok(status)) => Exit::of(status),
        Ok(Err(_)) | Err(_) => Exit::Unknown,
    };
    let detail = format!("its process ended while it loaded the model: {exit}");
    LoadFault::new(Reason::Limits, detail)
}
