//! A running server, and its end.

use std::{
    fs::File,
    ops::Deref,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Pid;

use crate::{Cluster, ClusterError, io_error, orphan::end, without_settings};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster whose server answers. Dropping it stops the server at once (PostgreSQL's immediate shutdown).
#[derive(Debug)]
pub struct RunningCluster {
    cluster: Cluster,
    server: Child,
}

// === impl RunningCluster ===

impl RunningCluster {
    /// `command` runs the server program, but for its arguments.
    pub(crate) async fn start(cluster: Cluster, mut command: Command) -> Result<Self, ClusterError> {
        let (_, arguments) = cluster.server();
        let log_path = cluster.directory.join("server.log");
        let log = File::create(&log_path).map_err(io_error(&log_path))?;
        without_settings(&mut command).args(arguments).current_dir(&cluster.directory).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log);
        if let Some((user, group)) = cluster.account.ids() {
            std::os::unix::process::CommandExt::uid(&mut command, user);
            std::os::unix::process::CommandExt::gid(&mut command, group);
        }
        let spawned = command.spawn().map_err(io_error(&log_path));
        let server = spawned.map_err(|error| cluster.account.explain_permission(&cluster.directory, error))?;
        let mut running = Self { cluster, server };
        let limit = START_TIMEOUT;
        tokio::select! {
            ready = running.cluster.wait_ready(limit) => ready?,
            () = ended(&mut running.server) => {
                let output = std::fs::read_to_string(&log_path).unwrap_or_default();
                return Err(ClusterError::Program { program: "postgres".into(), output });
            }
        }
        Ok(running)
    }

    /// The process id of the server (the postmaster).
    pub fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Deref for RunningCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for RunningCluster {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw) {
            end(pid, || matches!(self.server.try_wait(), Ok(None)));
            let _ = self.server.wait();
        }
    }
}

async fn ended(server: &mut Child) {
    while matches!(server.try_wait(), Ok(None)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
