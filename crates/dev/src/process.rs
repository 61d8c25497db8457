//! One supervised child process: started, logged to a file, started again when it dies, stopped at the end.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use backon::{BackoffBuilder, ExponentialBuilder};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// A service drains within 10 s; past this it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
/// 100 ms at first, doubled up to the maximum while the process ends at once.
const RESTARTS: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(RESTART_DELAY_MAX)
    .without_max_times();

/// How to start a process.
pub(super) struct Program {
    /// Unique among all, names the log file.
    pub(super) name: String,
    pub(super) executable: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Signal that asks it to end: SIGTERM for services, SIGINT ("fast") for PostgreSQL.
    pub(super) stop_signal: Signal,
    /// User and group to run it as, under root.
    pub(super) run_as: Option<(u32, u32)>,
    pub(super) log: PathBuf,
}

/// A program that is kept running until it is stopped.
pub(super) struct SupervisedProcess {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    pid: watch::Receiver<Option<u32>>,
    pub(super) name: String,
}

// === impl SupervisedProcess ===

impl SupervisedProcess {
    /// Starts the program and watches it.
    pub(super) fn start(program: Program) -> anyhow::Result<Self> {
        let child = program.spawn()?;
        let (pid_tx, pid) = watch::channel(child.id());
        let stop = CancellationToken::new();
        let name = program.name.clone();
        let task = tokio::spawn(supervise(program, child, pid_tx, stop.clone()));
        Ok(Self { stop, task, pid, name })
    }

    /// The process id now; none while it is being started again.
    pub(super) fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Asks the process to end, waits, and kills it if it does not.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        // A panic in the task has already been printed; the process is gone with its handle.
        let _ = self.task.await;
    }
}

async fn supervise(program: Program, first: Child, pid: watch::Sender<Option<u32>>, stop: CancellationToken) {
    let mut child = first;
    let mut delays = RESTARTS.build();
    loop {
        let started = tokio::time::Instant::now();
        tokio::select! {
            () = stop.cancelled() => return stop_process(&program, child).await,
            status = child.wait() => report_exit(&program, status),
        }
        pid.send_replace(None);
        if started.elapsed() > RESTART_DELAY_MAX {
            delays = RESTARTS.build();
        }
        let delay = delays.next().unwrap_or(RESTART_DELAY_MAX);
        child = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(delay) => {}
            }
            match program.spawn() {
                Ok(child) => break child,
                Err(error) => bootstrap::say(&format!("{}: cannot be started again: {error:#}", program.name)),
            }
        };
        pid.send_replace(child.id());
    }
}

async fn stop_process(program: &Program, mut child: Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        // A process that ended by itself in this moment is as good as stopped.
        let _ = kill_process(pid, program.stop_signal);
        // A stopped (SIGSTOP) process would never see the signal.
        let _ = kill_process(pid, Signal::CONT);
    }
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        bootstrap::say(&format!("{}: did not stop within {} s, killed", program.name, STOP_TIMEOUT.as_secs()));
        let _ = child.kill().await;
    }
}

fn report_exit(program: &Program, status: std::io::Result<ExitStatus>) {
    let how = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("is lost: {error}"),
    };
    bootstrap::say(&format!("{} {how}; starting it again (log: {})", program.name, program.log.display()));
}

// === impl Program ===

impl Program {
    fn spawn(&self) -> anyhow::Result<Child> {
        let log = open_log(&self.log)?;
        // Nothing may be left behind when the supervisor itself is killed.
        let mut command = pg_sandbox::die_with_parent(&self.executable);
        // Their configuration says where the database is, and nothing else does.
        pg_sandbox::without_settings(&mut command);
        let mut command = Command::from(command);
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().context("log file handle")?).stderr(log);
        // Its own group: Ctrl-C reaches the supervisor alone, which stops everything in order.
        command.process_group(0).kill_on_drop(true);
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command.spawn().with_context(|| format!("cannot start {}", self.executable.display()))
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("cannot write log {}", path.display()))
}
