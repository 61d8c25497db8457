//! What a killed test could not clean up, the next one does.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Names the process that a directory belongs to.
const OWNER: &str = "owner";

/// Directories of test clusters, and of the sockets of any cluster.
pub(super) const DIRECTORY_PREFIX: &str = "rampart-test-";
const SOCKETS_PREFIX: &str = "rampart-pg-";

/// Says that the directory belongs to this process.
pub(super) fn claim(directory: &Path) {
    fs::write(directory.join(OWNER), std::process::id().to_string()).expect("a test's directory can be written");
}

/// Stops the servers and removes the directories of processes that are gone.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for directory in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let is_test = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DIRECTORY_PREFIX));
        if is_test && is_abandoned(&directory) {
            stop_server(&directory);
            // Whoever sweeps at the same time may have been faster.
            let _gone = fs::remove_dir_all(&directory);
        }
    }
}

/// Whether it was claimed by a process that has ended; one without a claim is just being made, or none of ours.
fn is_abandoned(directory: &Path) -> bool {
    let owner = fs::read_to_string(directory.join(OWNER)).ok().and_then(|owner| owner.parse::<u32>().ok());
    owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists())
}

/// Of `postmaster.pid` the first line is the process, the fifth the directory of its socket.
fn stop_server(directory: &Path) {
    let Ok(lock) = fs::read_to_string(directory.join("postgres/data/postmaster.pid")) else { return };
    let mut lines = lock.lines();
    let server = lines.next().and_then(|line| line.trim().parse::<i32>().ok());
    let sockets = lines.nth(3).map(Path::new);
    if let Some(server) = server.filter(|server| serves(*server, directory))
        && let Some(server) = Pid::from_raw(server)
    {
        // SIGQUIT is an immediate shutdown; a frozen server needs waking for it.
        let _ended = kill_process(server, Signal::QUIT);
        let _ended = kill_process(server, Signal::CONT);
    }
    if let Some(sockets) = sockets
        && sockets.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SOCKETS_PREFIX))
    {
        let _gone = fs::remove_dir_all(sockets);
    }
}

/// A process id may belong to another process by now.
fn serves(server: i32, directory: &Path) -> bool {
    let command = fs::read(format!("/proc/{server}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&directory.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::{Postgres, poll_until};

    /// The owner is made to look dead; a real one could not look on.
    #[tokio::test]
    async fn an_abandoned_server_is_stopped_and_removed() {
        let abandoned = Postgres::start().await;
        let directory = abandoned.directory.path().to_owned();
        let mut owner = Command::new("true").spawn().unwrap();
        owner.wait().unwrap();
        fs::write(directory.join(OWNER), owner.id().to_string()).unwrap();
        let sockets = abandoned.cluster().socket_directory().to_owned();

        let other = Postgres::start().await;
        assert!(!directory.exists() && !sockets.exists());
        poll_until("the abandoned server ends", Duration::from_secs(10), async || {
            !serves(i32::try_from(abandoned.cluster().pid()).unwrap(), &directory)
        })
        .await;
        assert_eq!(other.sql("postgres", "SELECT 1").await, "1", "a living process keeps its own");
    }
}
