//! A server that takes no writes.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use pg_sandbox::Cluster;
use rustix::process::{Pid, Signal, kill_process};
use testkit::{Postgres, poll_until};

use crate::world::PATIENCE;

/// The same cluster, started again as a standby without a primary.
pub(crate) struct Standby(Child);

// === impl Standby ===

impl Standby {
    pub(crate) async fn restart(postgres: &Postgres) -> Self {
        let cluster = postgres.cluster();
        let data = cluster_data(cluster);
        let primary = Pid::from_raw(cluster.pid().try_into().unwrap()).unwrap();
        kill_process(primary, Signal::INT).unwrap();
        poll_until("the primary ends", PATIENCE, async || !data.join("postmaster.pid").exists()).await;
        fs::write(data.join("standby.signal"), "").unwrap();

        let (program, arguments) = cluster.server();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&data).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = cluster.account().ids() {
            chown(data.join("standby.signal"), Some(user), Some(group)).unwrap();
            command.uid(user).gid(group);
        }
        let standby = Self(command.spawn().unwrap());
        cluster.wait_ready(PATIENCE).await.unwrap();
        standby
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        let _ended = kill_process(pid, Signal::QUIT);
        self.0.wait().unwrap();
    }
}

fn cluster_data(cluster: &Cluster) -> PathBuf {
    let (_, arguments) = cluster.server();
    arguments.iter().skip_while(|argument| *argument != "-D").nth(1).unwrap().into()
}
