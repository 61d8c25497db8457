//! What a killed test could not clean up, the next one does.

use std::fs;
use std::path::Path;

/// Names the process that a directory belongs to.
const OWNER: &str = "owner";

/// Directories of test clusters.
pub(super) const DIRECTORY_PREFIX: &str = "rampart-test-";

/// Says that the directory belongs to this process.
pub(super) fn claim(directory: &Path) {
    fs::write(directory.join(OWNER), std::process::id().to_string()).expect("a test's directory can be written");
}

/// Stops the servers and removes the directories of processes that are gone.
pub(super) fn remove_abandoned() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for directory in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let is_test = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DIRECTORY_PREFIX));
        if is_test && is_abandoned(&directory) {
            pg_sandbox::end_orphan(&directory.join("postgres"));
            // Another test process may have been faster.
            let _gone = fs::remove_dir_all(&directory);
        }
    }
}

/// Whether it was claimed by a process that has ended; one without a claim is just being made, or no test's.
fn is_abandoned(directory: &Path) -> bool {
    let owner = fs::read_to_string(directory.join(OWNER)).ok().and_then(|owner| owner.parse::<u32>().ok());
    owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::{Postgres, poll_until};

    /// The claim is changed to a process that has ended, as if the test had been killed.
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
            let command = fs::read(format!("/proc/{}/cmdline", abandoned.cluster().pid()));
            // A process that ended and was not waited for has an empty one.
            command.map_or(true, |command| command.is_empty())
        })
        .await;
        assert_eq!(other.sql("postgres", "SELECT 1").await, "1", "a living process keeps its own");
    }
}
