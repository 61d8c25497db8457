//! How much of the machine's Docker a test may kill: a power cut must not reach the containers of others.

use crate::{containers::Containers, docker::docker};

/// What a test's power cut takes with it.
#[derive(Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// The daemon and every container, since all are the project's.
    Daemon,
    /// The main processes of the project's containers, since the daemon has containers of others.
    Project {
        /// The containers of others, by name.
        bystanders: Vec<String>,
    },
}

// === impl PowerCut ===

impl PowerCut {
    /// What is allowed on the daemon that the platform runs on.
    ///
    /// # Errors
    /// Docker does not say what there is.
    pub async fn allowed_for(platform: &Containers) -> anyhow::Result<Self> {
        // Those that are stopped, too: a daemon that starts may start them.
        let format = "{{.Label \"com.docker.compose.project\"}}\t{{.Names}}";
        Ok(Self::allowed(&platform.project, &docker(&["ps", "--all", "--format", format]).await?))
    }

    /// `listed` has a line for each container of the daemon: its project, which may be empty, a tab, and its name.
    fn allowed(project: &str, listed: &str) -> Self {
        let containers = listed.lines().map(|line| line.split_once('\t').unwrap_or(("", line)));
        let bystanders: Vec<String> =
            containers.filter(|(owner, _)| *owner != project).map(|(_, name)| name.to_owned()).collect();
        if bystanders.is_empty() { Self::Daemon } else { Self::Project { bystanders } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spared(listed: &str) -> Vec<String> {
        match PowerCut::allowed("rampart-test", listed) {
            PowerCut::Daemon => Vec::new(),
            PowerCut::Project { bystanders } => bystanders,
        }
    }

    #[test]
    fn a_daemon_with_nothing_else_is_killed() {
        let ours = "rampart-test\trampart-test-vault\nrampart-test\trampart-test-front";
        assert_eq!(PowerCut::allowed("rampart-test", ours), PowerCut::Daemon);
    }

    #[test]
    fn a_daemon_with_containers_of_others_is_spared() {
        assert_eq!(spared("rampart-test\trampart-test-vault\n\tsomething"), ["something"], "of no project");
        assert_eq!(spared("rampart\tvault\nrampart-test\trampart-test-vault"), ["vault"], "of another platform");
        assert_eq!(spared("rampart-test-2\trampart-test-vault"), ["rampart-test-vault"], "of a project named alike");
        assert_eq!(spared("no tab"), ["no tab"], "what is not understood is of others");
    }
}
